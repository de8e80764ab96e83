/* The settings of a queue, and the life of its thread; the contract is in queue.h. */
#define _GNU_SOURCE 1
#include "events.h"
#include "monotonic.h"
#include "pool.h"
#include "queue.h"
#include "session.h"
#include "threads.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

/* While a ring ends, sleeping lock requests are told so again and again, each of these; others only after the
 * grace. */
#define CANCEL_NANOSECONDS 5000000
#define GRACE_ROUNDS 400

#define RING_FLAG_LOG 1 /* VHOST_VRING_F_LOG */

int queue_create(struct queue_environment *environment, uint32_t index, struct queue **queue)
{
    struct queue *made = aligned_alloc(alignof(struct queue), sizeof(struct queue));
    if (made == NULL)
        return -ENOMEM;
    *made = (struct queue){
        .environment = environment,
        .index = index,
        .call_fd = -1,
        .kick_fd = -1,
        .error_fd = -1,
        .settings = {.fresh = true},
    };
    made->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    made->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u32 = QUEUE_WOKEN};
    if (made->epoll_fd < 0 || made->wake_fd < 0 ||
        epoll_ctl(made->epoll_fd, EPOLL_CTL_ADD, made->wake_fd, &event) != 0) {
        int error = -errno;
        if (made->epoll_fd >= 0)
            close(made->epoll_fd);
        if (made->wake_fd >= 0)
            close(made->wake_fd);
        free(made);
        return error;
    }
    pthread_mutex_init(&made->lock, NULL);
    pthread_mutex_init(&made->used_lock, NULL);
    threads_condition(&made->answered);
    *queue = made;
    return 0;
}

void queue_destroy(struct queue *queue)
{
    queue_finish(queue);
    queue_set_error(queue, -1);
    queue_set_memory(queue, NULL);
    close(queue->epoll_fd);
    close(queue->wake_fd);
    pthread_cond_destroy(&queue->answered);
    pthread_mutex_destroy(&queue->used_lock);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

static bool aligned(const void *host, uintptr_t alignment)
{
    return host != NULL && (uintptr_t)host % alignment == 0;
}

bool queue_translate(const struct queue_settings *settings, const struct memory_table *memory,
                     struct virtqueue_addresses *at)
{
    size_t descriptors = 0;
    size_t driver = 0;
    size_t device = 0;
    if (!settings->packed && (settings->size & (settings->size - 1)) != 0)
        return false; /* 2.7: a power of two */
    virtqueue_sizes(settings->packed, settings->size > 0 ? settings->size : 1, &descriptors, &driver,
                    &device);
    at->descriptors = memory_translate_user(memory, settings->descriptors, descriptors);
    at->driver = memory_translate_user(memory, settings->driver, driver);
    at->device = memory_translate_user(memory, settings->device, device);
    /* 2.7 and 2.8.10.1; a descriptor is read in halves of eight bytes. */
    return aligned(at->descriptors, 8) && aligned(at->driver, 2) && aligned(at->device, 4);
}

bool queue_may_run(const struct queue_settings *settings)
{
    /* Without VHOST_USER_F_PROTOCOL_FEATURES a ring is enabled from the start. */
    bool enabled = settings->enabled ||
                   (settings->has_features && (settings->features & VHOST_USER_FEATURE_PROTOCOL) == 0);
    return enabled && settings->started && settings->has_addresses && settings->size > 0;
}

/* ---- The thread's life ---- */

static void wake(struct queue *queue)
{
    eventfd_write(queue->wake_fd, 1);
}

/* The settings have changed: have the thread take them over, start it where the ring may run for the first
 * time. */
static int settings_changed(struct queue *queue)
{
    atomic_store_explicit(&queue->changed, true, memory_order_release);
    if (queue->has_thread) {
        wake(queue);
        return 0;
    }
    if (!queue_may_run(&queue->settings))
        return 0;
    char name[24];
    snprintf(name, sizeof(name), "vhostfs-q%u", queue->index);
    queue->ended = false;
    queue->broken = false;
    queue->unmapped_told = false;
    queue->unmapped_buffers_told = false;
    queue->ring.met_unmapped = false;
    queue->running = false;
    queue->throttled = false;
    /* Nobody waits for what the queue for high priority does: FORGET. */
    polling_begin(&queue->polling, queue->index > 0 ? queue->environment->poll_nanoseconds : 0);
    int error = threads_start(&queue->thread, name, queue_main, queue);
    queue->has_thread = error == 0;
    return error;
}

void queue_begin_end(struct queue *queue)
{
    if (!queue->has_thread)
        return;
    atomic_store_explicit(&queue->cancelled, true, memory_order_release);
    atomic_store_explicit(&queue->stopping, true, memory_order_release);
    wake(queue);
}

/* Wait until the thread is done and all is answered, for a while. Under used_lock. */
static bool await_end(struct queue *queue)
{
    struct timespec until = monotonic_after(CANCEL_NANOSECONDS);
    int waited = 0;
    while ((!queue->ended || queue->in_flight > 0) && waited == 0)
        waited = pthread_cond_timedwait(&queue->answered, &queue->used_lock, &until);
    return queue->ended && queue->in_flight == 0;
}

/* Until then a system call is left to finish: EINTR would reach a guest that did nothing wrong. */
static void cancel_sleeps(struct queue *queue, bool ended, bool all)
{
    pool_cancel_sleeps(queue->environment->pool, queue, all);
    session_cancel(queue->environment->session, queue, all);
    if (all && !ended)
        threads_cancel_sleep(queue->thread);
}

void queue_end(struct queue *queue)
{
    if (!queue->has_thread)
        return;
    queue_begin_end(queue);
    pthread_mutex_lock(&queue->used_lock);
    uint32_t rounds = 0;
    do {
        bool ended = queue->ended;
        pthread_mutex_unlock(&queue->used_lock);
        cancel_sleeps(queue, ended, rounds++ >= GRACE_ROUNDS);
        if (rounds > 2 * GRACE_ROUNDS)
            session_give_up(queue->environment->session, queue);
        if (rounds == 2 * GRACE_ROUNDS)
            events_push(queue->environment->events, VHOSTFS_EVENT_WARNING, (int32_t)queue->index, 0,
                        "the ring cannot stop: a system call on the share does not return");
        pthread_mutex_lock(&queue->used_lock);
    } while (!await_end(queue));
    pthread_mutex_unlock(&queue->used_lock);
    pthread_join(queue->thread, NULL);
    queue->has_thread = false;
    atomic_store_explicit(&queue->stopping, false, memory_order_relaxed);
    atomic_store_explicit(&queue->cancelled, false, memory_order_relaxed);
    if (!queue->settings.fresh) {
        queue->settings.base = virtqueue_base(&queue->ring);
        queue->settings.fresh = true;
    }
    memory_table_put(queue->ring.memory);
    queue->ring.memory = NULL;
}

static void close_kick(struct queue *queue)
{
    if (queue->kick_fd < 0)
        return;
    epoll_ctl(queue->epoll_fd, EPOLL_CTL_DEL, queue->kick_fd, NULL);
    close(queue->kick_fd);
    queue->kick_fd = -1;
}

static void close_call(struct queue *queue)
{
    atomic_store_explicit(&queue->has_call, false, memory_order_relaxed);
    if (queue->call_fd >= 0)
        close(queue->call_fd);
    queue->call_fd = -1;
}

uint32_t queue_finish(struct queue *queue)
{
    queue->settings.started = false;
    close_kick(queue);
    close_call(queue);
    return queue->settings.base;
}

/* ---- The settings ---- */

/* End a thread that only waits for its ring to be enabled; a front-end may set a ring up anew without
 * stopping it. */
static int make_idle(struct queue *queue)
{
    if (queue->has_thread && queue_may_run(&queue->settings))
        return -EBUSY;
    queue_end(queue);
    return 0;
}

int queue_set_size(struct queue *queue, uint32_t size)
{
    if (size == 0 || size > VIRTQUEUE_SIZE_MAX || (!queue->settings.packed && (size & (size - 1)) != 0))
        return -EINVAL;
    if (size == queue->settings.size)
        return 0;
    int error = make_idle(queue);
    if (error != 0)
        return error;
    queue->settings.size = size;
    return settings_changed(queue);
}

int queue_set_base(struct queue *queue, uint32_t base)
{
    int error = make_idle(queue);
    if (error != 0)
        return error;
    queue->settings.base = base;
    queue->settings.fresh = true;
    return settings_changed(queue);
}

int queue_set_addresses(struct queue *queue, uint32_t flags, uint64_t descriptors, uint64_t used,
                        uint64_t available, uint64_t log)
{
    pthread_mutex_lock(&queue->lock);
    queue->settings.descriptors = descriptors;
    queue->settings.driver = available;
    queue->settings.device = used;
    queue->settings.has_addresses = true;
    struct queue_settings settings = queue->settings;
    pthread_mutex_unlock(&queue->lock);
    atomic_store_explicit(&queue->ring.log_address, log, memory_order_relaxed);
    atomic_store_explicit(&queue->ring.log_used, (flags & RING_FLAG_LOG) != 0, memory_order_release);
    int error = settings_changed(queue);
    struct virtqueue_addresses at;
    if (error == 0 && (queue->memory == NULL || !queue_translate(&settings, queue->memory, &at)))
        error = -EFAULT;
    return error;
}

int queue_set_enabled(struct queue *queue, bool enabled)
{
    pthread_mutex_lock(&queue->lock);
    queue->settings.enabled = enabled;
    pthread_mutex_unlock(&queue->lock);
    return settings_changed(queue);
}

int queue_set_features(struct queue *queue, uint64_t features)
{
    pthread_mutex_lock(&queue->lock);
    queue->settings.features = features;
    queue->settings.has_features = true;
    queue->settings.packed = (features & VIRTIO_FEATURE_PACKED) != 0;
    pthread_mutex_unlock(&queue->lock);
    return settings_changed(queue);
}

void queue_set_memory(struct queue *queue, struct memory_table *memory)
{
    if (memory != NULL)
        memory_table_get(memory);
    pthread_mutex_lock(&queue->lock);
    struct memory_table *old = queue->memory;
    queue->memory = memory;
    pthread_mutex_unlock(&queue->lock);
    memory_table_put(old);
    if (queue->has_thread)
        settings_changed(queue);
}

/* What front-ends signal and are signalled through: eventfds, which are anonymous inodes and have no type,
 * and User-Mode Linux's sockets. -EINVAL for others: a pipe that is full would hold up its writer. */
static int kind_of(int fd, bool *is_socket)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return -errno;
    *is_socket = S_ISSOCK(status.st_mode);
    return *is_socket || (status.st_mode & S_IFMT) == 0 ? 0 : -EINVAL;
}

/* Under the lock. */
static int watch_kick(struct queue *queue, int fd)
{
    bool is_read = false; /* else it is waited for by its edge */
    int error = kind_of(fd, &is_read);
    if (error != 0)
        return error;
    struct epoll_event event = {
        .events = is_read ? EPOLLIN : EPOLLIN | (uint32_t)EPOLLET,
        .data.u32 = is_read ? QUEUE_READS_KICK : QUEUE_KICKED,
    };
    if (epoll_ctl(queue->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        return -errno;
    queue->kick_fd = fd;
    queue->kick_is_read = is_read;
    return 0;
}

int queue_set_kick(struct queue *queue, int fd)
{
    pthread_mutex_lock(&queue->lock);
    close_kick(queue);
    int error = fd >= 0 ? watch_kick(queue, fd) : 0;
    if (error == 0)
        queue->settings.started = true;
    pthread_mutex_unlock(&queue->lock);
    if (error != 0) {
        close(fd);
        return error;
    }
    return settings_changed(queue);
}

/* Put another file behind the number that is signalled, in one step. Takes fd. */
static int replace_call(struct queue *queue, int fd)
{
    if (queue->call_fd < 0) {
        queue->call_fd = fd;
        return 0;
    }
    int error = dup3(fd, queue->call_fd, O_CLOEXEC) < 0 ? -errno : 0;
    close(fd);
    return error;
}

int queue_set_call(struct queue *queue, int fd)
{
    if (fd < 0) {
        atomic_store_explicit(&queue->has_call, false, memory_order_relaxed);
        /* Lets go of the front-end's file; a signal that is under way wakes nobody but us. */
        if (queue->call_fd >= 0 && dup3(queue->wake_fd, queue->call_fd, O_CLOEXEC) < 0)
            return -errno;
        return 0;
    }
    bool is_socket = false;
    int error = kind_of(fd, &is_socket);
    if (error != 0) {
        close(fd);
        return error;
    }
    atomic_store_explicit(&queue->call_is_socket, is_socket, memory_order_relaxed);
    error = replace_call(queue, fd);
    if (error != 0)
        return error;
    atomic_store_explicit(&queue->has_call, true, memory_order_release);
    /* What was returned while the descriptor changed may have called nobody. The queue thread calls, not this
     * one, which serves other devices, too. */
    if (queue->has_thread) {
        atomic_store_explicit(&queue->call_again, true, memory_order_release);
        wake(queue);
    }
    return 0;
}

int queue_set_error(struct queue *queue, int fd)
{
    bool is_socket = false;
    int error = fd >= 0 ? kind_of(fd, &is_socket) : 0;
    if (error != 0) {
        close(fd);
        return error;
    }
    pthread_mutex_lock(&queue->lock);
    int old = queue->error_fd;
    queue->error_fd = fd;
    queue->error_is_socket = is_socket;
    pthread_mutex_unlock(&queue->lock);
    if (old >= 0)
        close(old);
    return 0;
}
