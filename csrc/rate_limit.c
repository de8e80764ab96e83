/* Token buckets; the contract is in rate_limit.h. */
#define _GNU_SOURCE 1
#include "rate_limit.h"
#include "monotonic.h"

#include <errno.h>
#include <stdlib.h>

/* Whoever waits sleeps in whole milliseconds: a bucket that holds less than a few of them would lose some. */
#define SHORTEST_BURST 10000000ULL
/* Fastest and slowest rates that are told apart: a token a nanosecond; one in half an hour. */
#define LARGEST_RATE 1000000000000ULL
#define LONGEST_BURST (3600 * NANOSECONDS_A_SECOND)

/* How long refilling takes, at least a nanosecond unless it is nothing: a hundred years at most. */
static uint64_t refilling(uint64_t rate, uint64_t tokens)
{
    unsigned __int128 nanoseconds = (unsigned __int128)tokens * NANOSECONDS_A_SECOND / rate;
    const uint64_t most = 100ULL * 365 * 86400 * NANOSECONDS_A_SECOND;
    return nanoseconds > most ? most : (uint64_t)nanoseconds;
}

static struct rate_bucket make_bucket(uint64_t rate, uint64_t burst)
{
    struct rate_bucket bucket = {.rate = rate};
    if (rate == 0)
        return bucket;
    bucket.burst = refilling(rate, burst);
    if (bucket.burst < SHORTEST_BURST)
        bucket.burst = SHORTEST_BURST;
    if (bucket.burst > LONGEST_BURST)
        bucket.burst = LONGEST_BURST;
    return bucket;
}

/* It is empty when filling it takes its whole burst, or longer. */
static uint64_t wait_for(const struct rate_bucket *bucket, uint64_t now)
{
    if (bucket->rate == 0 || bucket->full < now + bucket->burst)
        return 0;
    return bucket->full - now - bucket->burst + 1;
}

static void pay(struct rate_bucket *bucket, uint64_t now, uint64_t tokens)
{
    if (bucket->rate == 0)
        return;
    if (bucket->full < now)
        bucket->full = now;
    bucket->full += refilling(bucket->rate, tokens);
}

int vhostfs_rate_limit_create(const struct vhostfs_rate_limit_options *options, vhostfs_rate_limit **limit)
{
    if (options->requests > LARGEST_RATE || options->bytes > LARGEST_RATE)
        return -EINVAL;
    struct vhostfs_rate_limit *made = malloc(sizeof(*made));
    if (made == NULL)
        return -ENOMEM;
    *made = (struct vhostfs_rate_limit){
        .requests = make_bucket(options->requests, options->requests_burst),
        .bytes = make_bucket(options->bytes, options->bytes_burst),
        .holders = 1,
    };
    pthread_mutex_init(&made->lock, NULL);
    *limit = made;
    return 0;
}

void rate_limit_get(struct vhostfs_rate_limit *limit)
{
    pthread_mutex_lock(&limit->lock);
    limit->holders++;
    pthread_mutex_unlock(&limit->lock);
}

void vhostfs_rate_limit_put(vhostfs_rate_limit *limit)
{
    pthread_mutex_lock(&limit->lock);
    bool last = --limit->holders == 0;
    pthread_mutex_unlock(&limit->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&limit->lock);
    free(limit);
}

uint64_t rate_limit_wait(struct vhostfs_rate_limit *limit, uint64_t now)
{
    pthread_mutex_lock(&limit->lock);
    uint64_t requests = wait_for(&limit->requests, now);
    uint64_t bytes = wait_for(&limit->bytes, now);
    pthread_mutex_unlock(&limit->lock);
    return requests > bytes ? requests : bytes;
}

void rate_limit_pay(struct vhostfs_rate_limit *limit, uint64_t now, uint64_t bytes)
{
    pthread_mutex_lock(&limit->lock);
    pay(&limit->requests, now, 1);
    pay(&limit->bytes, now, bytes);
    pthread_mutex_unlock(&limit->lock);
}

uint64_t vhostfs_rate_limit_take(vhostfs_rate_limit *limit, uint64_t bytes)
{
    uint64_t now = monotonic_now();
    uint64_t wait = rate_limit_wait(limit, now);
    if (wait == 0)
        rate_limit_pay(limit, now, bytes);
    return wait;
}
