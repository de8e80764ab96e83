/* How long an idle queue looks at its ring before it sleeps: learnt from how its waits went, never beyond a setting.
 *
 * Polling spares the driver's wake-up call and ours, while it waits for a reply to send the next request. To prove
 * itself the window must reach past the driver's own waking up. It is worth nothing where requests are rare: there
 * long sleeps close it. It does harm where the driver, or whoever else has work, waits for the very processor that we poll
 * on: the poll gives way to them, and where that does not help every sleep is short and no poll before one finds
 * anything. So polls that find nothing in time are followed by ever more sleeps without one. Belongs to one thread.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct polling {
    uint64_t most;    /* nanoseconds; 0: never */
    uint64_t window;  /* nanoseconds to poll for */
    uint32_t pause;   /* sleeps that pass before the next poll */
    uint32_t penalty; /* sleeps that pass after the next poll in vain */
    bool in_vain;     /* the poll before this sleep found nothing */
};

void polling_begin(struct polling *polling, uint64_t most);
/* Nanoseconds to poll for now; 0: sleep at once. */
uint64_t polling_window(struct polling *polling);
/* The poll found something. */
void polling_found(struct polling *polling);
/* It was slept for so long; 0: there was something when sleep should have begun, after the window. */
void polling_slept(struct polling *polling, uint64_t nanoseconds);
