/* The dirty log of a migration: one bit for each 4 KiB page of guest memory that the device has written
 * (vhost-user: VHOST_USER_SET_LOG_BASE, VHOST_F_LOG_ALL). One a device; its memory tables point to it.
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define DIRTY_LOG_PAGE 4096

struct mapping;

struct dirty_log {
    pthread_rwlock_t lock; /* readers mark, the writer replaces the mapping */
    struct mapping *mapping;
    uint64_t size;           /* bytes of the log: 8 pages each */
    _Atomic bool log_writes; /* LOG_ALL is acknowledged */
};

void dirty_log_init(struct dirty_log *log);
void dirty_log_destroy(struct dirty_log *log);
/* Replace the log's memory; fd -1 drops it. 0, or what mapping_create says; then the old one stays. */
int dirty_log_set(struct dirty_log *log, int fd, uint64_t size, uint64_t offset);
/* Mark the pages of guest-physical bytes; those beyond the log are ignored. */
void dirty_log_mark(struct dirty_log *log, uint64_t guest_address, uint64_t size);
/* Its file was cut short under it. */
bool dirty_log_gone(struct dirty_log *log);

/* Ask after the guest's memory was written, not before: logging may begin meanwhile. */
static inline bool dirty_log_wanted(const struct dirty_log *log)
{
    return atomic_load_explicit(&log->log_writes, memory_order_acquire);
}
