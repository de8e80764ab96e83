/* Threads for requests that sleep: what a queue thread found to wait for a disk or a lock is run again here.
 *
 * There are as many threads as there is work, up to a limit; idle ones end. Blocking lock requests may sleep
 * for ever, so each of them may have a thread beyond the limit: however many wait for locks, the others have
 * their full number.
 */
#pragma once
#include "epoch.h"
#include "request.h"
#include <pthread.h>

struct session;
struct pool_thread;

/* Most blocking lock requests at a time, each of which keeps a thread. */
#define POOL_BLOCKING_LOCKS 256

struct pool {
    struct session *session;
    int proc_self_fd; /* for credentials_prepare_thread; -1: not needed */
    uint32_t limit;
    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_cond_t ended;
    struct request *oldest; /* under lock, as all below */
    struct request *newest;
    struct pool_thread *threads;
    uint32_t count; /* threads */
    uint32_t idle;
    uint32_t waiting;        /* requests in the list */
    uint32_t blocking_locks; /* in the list or under way */
    bool stopping;
};

void pool_init(struct pool *pool, struct session *session, uint32_t limit);
/* No request is in it any more. Waits until its threads have ended. */
void pool_destroy(struct pool *pool);
/* Run a detached request. 0, and it is the pool's until request->complete; or it stays the caller's: -ENOLCK (too
 * many blocking locks), -EAGAIN (no thread could be started and none runs). */
int pool_submit(struct pool *pool, struct request *request);
/* End the sleep of a source's blocking lock requests, or of all its requests. They may be about to sleep: ask
 * again. */
void pool_cancel_sleeps(struct pool *pool, const void *source, bool all);
/* Whoever waits for the blocking lock `unique` has been interrupted: end its sleep, with EINTR. It may be about
 * to sleep, or wait for a thread: ask again, until it is answered. Its source; NULL: there is no such. */
void *pool_interrupt(struct pool *pool, uint64_t unique);
