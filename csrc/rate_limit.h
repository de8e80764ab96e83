/* How many requests and bytes a second a mount, or several together, may ask for.
 *
 * Two token buckets: one of requests, one of bytes, each refilled at its rate and holding at most its burst. A
 * request is taken while neither is empty, and may leave a debt: whoever comes next waits until that is paid.
 * So a request larger than the burst passes, and the rate holds in the long run. Who has to wait is told for how
 * long and asks again; nothing is refused.
 *
 * A limit is counted: whoever made it and each mount it was given to hold it. Any thread may take.
 */
#pragma once
#include "core.h"
#include <pthread.h>
#include <stdbool.h>

/* A bucket as the moment at which it was, or will be, full: a token less is a fraction of a second more. */
struct rate_bucket {
    uint64_t rate;  /* tokens a second; 0: no bound */
    uint64_t burst; /* nanoseconds that filling the empty bucket takes */
    uint64_t full;  /* on the clock of rate_limit_take's caller; may lie in the past */
};

struct vhostfs_rate_limit {
    pthread_mutex_t lock;
    struct rate_bucket requests; /* under the lock */
    struct rate_bucket bytes;
    uint32_t holders; /* under the lock */
};

void rate_limit_get(struct vhostfs_rate_limit *limit);
/* Nanoseconds until a request may be taken, at `now` on a clock of nanoseconds that does not go back; 0: now. */
uint64_t rate_limit_wait(struct vhostfs_rate_limit *limit, uint64_t now);
/* Pay for a request and its bytes, whatever there is. */
void rate_limit_pay(struct vhostfs_rate_limit *limit, uint64_t now, uint64_t bytes);
