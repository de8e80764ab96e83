/* Memory that may vanish: what a front-end gave us to map, it can truncate, and then touching it raises
 * SIGBUS.
 *
 * Mapped ranges are registered here. A fault inside one is repaired by anonymous memory over the whole range,
 * so that no code has to be jumped out of: who was reading goes on with zeros, notices at the end of its
 * batch that the range is gone, and stops. A fault anywhere else goes to the handler that was there before.
 */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sigbus_range;

/* Install the handler, once a process. 0 or a negative errno. */
int sigbus_install(void);
/* Watch a mapped range; NULL: no memory. Mapped read-write, page aligned (huge pages: aligned to those). */
struct sigbus_range *sigbus_register(void *base, size_t length);
/* Before the range is unmapped; nobody touches it any more. */
void sigbus_unregister(struct sigbus_range *range);
/* True once a fault was repaired inside the range. */
bool sigbus_gone(const struct sigbus_range *range);

/* Repairs since the process began: who sees it changed asks sigbus_gone. */
extern _Atomic uint64_t sigbus_repairs;

static inline uint64_t sigbus_repair_count(void)
{
    return atomic_load_explicit(&sigbus_repairs, memory_order_acquire);
}
