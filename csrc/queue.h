/* A ring's queue thread: takes chains, has them answered, returns them.
 *
 * Who may touch what. The control thread (core.h's caller) sets the settings, under `lock`; the queue thread
 * takes them over between two batches, when `changed` says so. The available side of the ring is the queue
 * thread's alone; the used side is guarded by `used_lock`, taken once a batch, because pool threads return
 * chains too. The call descriptor keeps its number for life: another file is put behind it in one step
 * (dup3), so whoever signals needs no lock.
 *
 * A thread lives from when the ring first runs until queue_end; while the ring is disabled, broken or
 * unmapped it sleeps. It sleeps in epoll on the kick descriptor and on `wake_fd`, both edge-triggered: an
 * eventfd needs no read to be waited for again, so that a request on an idle ring costs one wait and one
 * call.
 */
#pragma once
#include "epoch.h"
#include "polling.h"
#include "request.h"
#include "virtqueue.h"
#include <pthread.h>
#include <stdalign.h>

struct events;
struct pool;
struct session;
struct dirty_log;
struct uring;

/* What the rings of a device share; read by their threads, written before the first of them runs. */
struct queue_environment {
    struct session *session;
    struct pool *pool;
    struct events *events;
    struct dirty_log *log;
    uint64_t poll_nanoseconds;
    bool io_uring;            /* may be used */
    int proc_self_fd;         /* for credentials_prepare_thread; -1: not needed */
    _Atomic bool memory_gone; /* told already */
};

struct queue_settings {
    uint32_t size;
    uint32_t base;
    bool fresh; /* the ring begins at `base`; false: it goes on where it is */
    bool started;
    bool enabled;
    bool has_addresses;
    uint64_t features;
    bool has_features;
    bool packed;          /* as the features have it */
    uint64_t descriptors; /* user addresses */
    uint64_t driver;
    uint64_t device;
};

struct queue_scratch;

/* Most requests of one ring that wait for the pool or run there. More stay in the ring: a guest that makes chains available
 * again and again before they are returned costs itself, and no memory of ours. */
#define QUEUE_IN_FLIGHT 1024

struct queue {
    struct queue_environment *environment;
    uint32_t index;
    pthread_t thread;
    bool has_thread; /* the control thread's */
    _Atomic bool changed;
    _Atomic bool stopping;
    _Atomic bool cancelled;
    int epoll_fd;
    int wake_fd;
    int call_fd; /* -1 before the first */
    _Atomic bool has_call;
    _Atomic bool call_is_socket;
    _Atomic bool call_again; /* the queue thread is to call once, whatever the guest asks for */

    pthread_mutex_t lock;
    struct queue_settings settings;
    struct memory_table *memory; /* the device's newest */
    int kick_fd;
    bool kick_is_read; /* a socket: read at each wake */
    int error_fd;
    bool error_is_socket;

    alignas(128) struct epoch_reader reader; /* the queue thread's, as the next ones */
    struct queue_scratch *scratch;
    struct uring *uring; /* NULL: none was needed yet, or there is none to have */
    bool uring_tried;
    bool running; /* the ring is mapped, enabled and sound */
    bool broken;
    bool unmapped_told;
    bool unmapped_buffers_told;
    bool throttled; /* QUEUE_IN_FLIGHT are on the pool: nothing is popped until half of them are answered */
    uint64_t delay; /* nanoseconds until the next request may be taken; 0: at once */
    bool kick_is_polled; /* there is no kick descriptor */
    uint64_t repairs_seen;
    struct polling polling;

    struct virtqueue ring;

    alignas(128) pthread_mutex_t used_lock;
    pthread_cond_t answered;
    uint64_t repairs_returned; /* repairs_seen of the used side */
    bool wake_at_half;         /* throttled, as the pool sees it */
    uint32_t in_flight;        /* on the pool; under used_lock */
    bool ended;                /* the thread is done with the ring; under used_lock */
};

/* 0 and a queue, stopped and empty; or -ENOMEM, or what epoll and eventfd say. */
int queue_create(struct queue_environment *environment, uint32_t index, struct queue **queue);
/* After queue_end. */
void queue_destroy(struct queue *queue);

/* The setters of core.h; 0 or a negative errno. -EBUSY: not while the ring runs. */
int queue_set_size(struct queue *queue, uint32_t size);
int queue_set_addresses(struct queue *queue, uint32_t flags, uint64_t descriptors, uint64_t used,
                        uint64_t available, uint64_t log);
int queue_set_base(struct queue *queue, uint32_t base);
int queue_set_kick(struct queue *queue, int fd);
int queue_set_call(struct queue *queue, int fd);
int queue_set_error(struct queue *queue, int fd);
int queue_set_enabled(struct queue *queue, bool enabled);
int queue_set_features(struct queue *queue, uint64_t features);
/* The device's memory is another; takes a reference. NULL: none. */
void queue_set_memory(struct queue *queue, struct memory_table *memory);

/* Ask the thread to end; queue_end waits until it has, and until all that was taken is answered. */
void queue_begin_end(struct queue *queue);
void queue_end(struct queue *queue);
/* GET_VRING_BASE, after queue_end: the base; kick and call descriptors are closed, the ring is no longer
 * started. */
uint32_t queue_finish(struct queue *queue);

/* Answers to detached requests of one queue, linked by next, each with its result; seen by the guest together.
 * Frees them. */
void queue_complete_all(struct request *requests);

/* ---- Between queue.c, the thread, and queue_control.c, its settings ---- */

/* What epoll says of the descriptors of a queue. */
enum queue_wake {
    QUEUE_WOKEN,
    QUEUE_KICKED,
    QUEUE_READS_KICK,
};

void *queue_main(void *queue);
bool queue_may_run(const struct queue_settings *settings);
/* Host addresses of the ring. False: in no region, not aligned, or of no size for its layout. */
bool queue_translate(const struct queue_settings *settings, const struct memory_table *memory,
                     struct virtqueue_addresses *at);
