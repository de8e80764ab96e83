/* The pool; the contract is in pool.h. */
#define _GNU_SOURCE 1
#include "pool.h"
#include "monotonic.h"
#include "passthrough.h"
#include "session.h"
#include "threads.h"

#include <errno.h>
#include <stdlib.h>

#define IDLE_NANOSECONDS 5000000000U

struct pool_thread {
    struct epoch_reader reader;
    struct pool *pool;
    pthread_t thread;
    void *source;    /* of the request it runs, or NULL; under the pool's lock, as the next ones */
    uint64_t unique; /* of that request */
    bool blocking;   /* that is a blocking lock */
    _Atomic bool interrupted;
    struct pool_thread *next;
};

static bool is_blocking_lock(const struct request *request)
{
    return request->in.opcode == FUSE_SETLKW;
}

void pool_init(struct pool *pool, struct session *session, uint32_t limit)
{
    *pool = (struct pool){.session = session, .limit = limit, .proc_self_fd = -1};
    pthread_mutex_init(&pool->lock, NULL);
    threads_condition(&pool->work);
    pthread_cond_init(&pool->ended, NULL);
}

void pool_destroy(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->work);
    while (pool->count > 0)
        pthread_cond_wait(&pool->ended, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    pthread_cond_destroy(&pool->ended);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
}

/* Under the lock: the oldest request, waited for; NULL when this thread is to end. */
static struct request *take(struct pool *pool)
{
    struct timespec until = monotonic_after(IDLE_NANOSECONDS);
    int waited = 0;
    while (pool->oldest == NULL && !pool->stopping && waited != ETIMEDOUT) {
        pool->idle++;
        waited = pthread_cond_timedwait(&pool->work, &pool->lock, &until);
        pool->idle--;
    }
    struct request *request = pool->oldest;
    if (request == NULL)
        return NULL;
    pool->oldest = request->next;
    if (pool->oldest == NULL)
        pool->newest = NULL;
    pool->waiting--;
    return request;
}

static void complete(struct request *request, int32_t result)
{
    request->next = NULL;
    request->result = result;
    request->complete(request);
}

static void run(struct pool_thread *thread, struct request *request)
{
    struct session *session = thread->pool->session;
    request->reader = &thread->reader;
    request->interrupted = &thread->interrupted;
    request->inside_epoch = true;
    epoch_enter(&session->epochs, &thread->reader);
    int32_t result = session_dispatch(session, request);
    if (request->inside_epoch) {
        epoch_leave(&session->epochs, &thread->reader);
        request->inside_epoch = false;
    }
    /* Here a request may sleep; one that says it would is a fault of ours, and answered. */
    complete(request, result == REQUEST_WOULD_SLEEP ? -EIO : result);
}

static void unlink_thread(struct pool *pool, struct pool_thread *thread)
{
    struct pool_thread **link = &pool->threads;
    while (*link != thread)
        link = &(*link)->next;
    *link = thread->next;
}

static void *thread_main(void *argument)
{
    struct pool_thread *thread = argument;
    struct pool *pool = thread->pool;
    int error = pool->proc_self_fd >= 0 ? credentials_prepare_thread(pool->proc_self_fd) : 0;
    pthread_mutex_lock(&pool->lock);
    for (struct request *request = take(pool); request != NULL; request = take(pool)) {
        thread->source = request->source;
        thread->unique = request->in.unique;
        atomic_store(&thread->interrupted, false);
        thread->blocking = is_blocking_lock(request);
        pthread_mutex_unlock(&pool->lock);
        if (error == 0)
            run(thread, request);
        else
            complete(request, error);
        pthread_mutex_lock(&pool->lock);
        thread->source = NULL;
        pool->blocking_locks -= thread->blocking;
    }
    unlink_thread(pool, thread);
    pthread_mutex_unlock(&pool->lock);
    epoch_remove_reader(&pool->session->epochs, &thread->reader);
    free(thread);
    pthread_mutex_lock(&pool->lock);
    pool->count--;
    pthread_cond_signal(&pool->ended);
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Under the lock. */
static int start_thread(struct pool *pool)
{
    struct pool_thread *thread = aligned_alloc(alignof(struct pool_thread), sizeof(struct pool_thread));
    if (thread == NULL)
        return -ENOMEM;
    *thread = (struct pool_thread){.pool = pool, .next = pool->threads};
    epoch_add_reader(&pool->session->epochs, &thread->reader);
    int error = threads_start(&thread->thread, "vhostfs-pool", thread_main, thread);
    if (error != 0) {
        epoch_remove_reader(&pool->session->epochs, &thread->reader);
        free(thread);
        return error;
    }
    pthread_detach(thread->thread);
    pool->threads = thread;
    pool->count++;
    return 0;
}

/* Under the lock: see to it that a thread will come to one request more. */
static int make_room(struct pool *pool, bool blocking)
{
    if (blocking && pool->blocking_locks == POOL_BLOCKING_LOCKS)
        return -ENOLCK;
    uint32_t limit = pool->limit + pool->blocking_locks + blocking;
    if (pool->idle > pool->waiting || pool->count >= limit)
        return 0;
    int error = start_thread(pool);
    if (error == 0)
        return 0;
    if (blocking)
        return -ENOLCK; /* else it could take the last thread of the others */
    return pool->count > pool->blocking_locks ? 0 : -EAGAIN;
}

int pool_submit(struct pool *pool, struct request *request)
{
    bool blocking = is_blocking_lock(request);
    pthread_mutex_lock(&pool->lock);
    int error = make_room(pool, blocking);
    if (error == 0) {
        request->next = NULL;
        if (pool->newest != NULL)
            pool->newest->next = request;
        else
            pool->oldest = request;
        pool->newest = request;
        pool->waiting++;
        pool->blocking_locks += blocking;
        pthread_cond_signal(&pool->work);
    }
    pthread_mutex_unlock(&pool->lock);
    return error;
}

void pool_cancel_sleeps(struct pool *pool, const void *source, bool all)
{
    pthread_mutex_lock(&pool->lock);
    for (struct pool_thread *thread = pool->threads; thread != NULL; thread = thread->next) {
        if (thread->source == source && (all || thread->blocking))
            threads_cancel_sleep(thread->thread);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* Under the lock. */
static struct request *find_waiting(const struct pool *pool, uint64_t unique)
{
    struct request *request = pool->oldest;
    while (request != NULL && (request->in.unique != unique || !is_blocking_lock(request)))
        request = request->next;
    return request;
}

void *pool_interrupt(struct pool *pool, uint64_t unique)
{
    pthread_mutex_lock(&pool->lock);
    struct pool_thread *thread = pool->threads;
    while (thread != NULL && (thread->source == NULL || !thread->blocking || thread->unique != unique))
        thread = thread->next;
    const struct request *waiting = thread == NULL ? find_waiting(pool, unique) : NULL;
    void *source = waiting != NULL ? waiting->source : NULL;
    if (thread != NULL) {
        source = thread->source;
        atomic_store(&thread->interrupted, true);
        threads_cancel_sleep(thread->thread);
    }
    pthread_mutex_unlock(&pool->lock);
    return source;
}
