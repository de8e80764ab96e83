/* Queue threads: the loop, from a chain to its return. Their settings are in queue_control.c; the contract is
 * in queue.h. */
#define _GNU_SOURCE 1
#include "queue.h"
#include "dirty_log.h"
#include "events.h"
#include "monotonic.h"
#include "passthrough.h"
#include "pool.h"
#include "session.h"
#include "sigbus.h"
#include "uring.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Chains returned together when many wait, and requests between two looks at the settings. */
#define BATCH_RETURNS 16
#define BATCH_REQUESTS 64
/* How long a returned chain may wait for others to be returned with it, looked at after every few of them. */
#define BATCH_NANOSECONDS 50000
#define BATCH_LOOKS 4
/* How often a ring without a kick descriptor is looked at. */
#define POLL_MILLISECONDS 1
/* The longest that a request waits before it is asked for again how long it has to. */
#define DELAY_MILLISECONDS 1000
#define KICK_READS 16

/* What a thread needs once, however many requests it serves. */
struct queue_scratch {
    struct request request;
    struct iovec readable[CHAIN_VECTORS];
    struct iovec writable[CHAIN_VECTORS];
    alignas(8) uint8_t arguments[sizeof(struct fuse_in_header) + REQUEST_ARGUMENTS_SIZE];
};

struct returned {
    uint16_t head;
    uint16_t slots;
    uint32_t length;
};

struct batch {
    uint32_t count;
    uint32_t limit;
    uint64_t since; /* of the first; known where the limit is more than one */
    struct returned chains[BATCH_RETURNS];
};

/* ---- Telling ---- */

/* Not under a lock that the control thread takes: an eventfd that is full makes its writer wait. */
static void signal_descriptor(int fd, bool is_socket)
{
    static const uint64_t one = 1;
    ssize_t sent = -1;
    /* A front-end that does not read its socket must not hold us up; eight bytes in it are a call already. */
    if (is_socket)
        sent = send(fd, &one, sizeof(one), MSG_DONTWAIT | MSG_NOSIGNAL);
    else
        sent = write(fd, &one, sizeof(one));
    (void)sent;
}

static void signal_call(struct queue *queue)
{
    if (atomic_load_explicit(&queue->has_call, memory_order_acquire))
        signal_descriptor(queue->call_fd, atomic_load_explicit(&queue->call_is_socket, memory_order_relaxed));
}

/* The descriptor is out of the control thread's reach while it is written to. */
static void signal_error(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    int fd = queue->error_fd;
    bool is_socket = queue->error_is_socket;
    queue->error_fd = -1;
    pthread_mutex_unlock(&queue->lock);
    if (fd < 0)
        return;
    signal_descriptor(fd, is_socket);
    pthread_mutex_lock(&queue->lock);
    if (queue->error_fd < 0) {
        queue->error_fd = fd;
        fd = -1;
    }
    pthread_mutex_unlock(&queue->lock);
    if (fd >= 0)
        close(fd);
}

static void tell(struct queue *queue, enum vhostfs_event_kind kind, int error, const char *text)
{
    events_push(queue->environment->events, kind, (int32_t)queue->index, error, text);
}

static void break_ring(struct queue *queue, int error, const char *why)
{
    char text[VHOSTFS_EVENT_TEXT_SIZE];
    queue->broken = true;
    queue->running = false;
    signal_error(queue);
    snprintf(text, sizeof(text), "ring %u is stopped: %s", queue->index, why);
    tell(queue, VHOSTFS_EVENT_QUEUE_BROKEN, error, text);
}

/* Guest memory that vanished was replaced by zeros under us: whatever they say, stop. True where it is so. */
static bool memory_vanished(struct queue *queue)
{
    if (!memory_table_gone(queue->ring.memory))
        return false;
    if (!atomic_exchange(&queue->environment->memory_gone, true))
        tell(queue, VHOSTFS_EVENT_MEMORY_GONE, EFAULT, "guest memory vanished: its file was cut short");
    return true;
}

/* Called where it costs next to nothing when no memory vanished anywhere in the process. */
static bool still_mapped(struct queue *queue)
{
    uint64_t repairs = sigbus_repair_count();
    if (repairs == queue->repairs_seen)
        return true;
    queue->repairs_seen = repairs;
    if (!memory_vanished(queue))
        return true;
    queue->running = false;
    return false;
}

/* ---- Settings ---- */

/* Put the ring where the settings have it; under used_lock. Takes over the reference to the memory. */
static void place_ring(struct queue *queue, const struct queue_settings *settings,
                       const struct virtqueue_addresses *at, struct memory_table *memory)
{
    struct virtqueue *ring = &queue->ring;
    memory_table_put(ring->memory);
    ring->memory = memory;
    queue->repairs_returned = sigbus_repair_count();
    ring->at = *at;
    ring->event_index = (settings->features & VIRTIO_FEATURE_EVENT_INDEX) != 0;
    if (settings->fresh) {
        ring->packed = settings->packed;
        ring->size = settings->size;
        virtqueue_begin(ring, settings->base);
    }
}

/* Take over what the control thread has set. */
static void apply_settings(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    atomic_store_explicit(&queue->changed, false, memory_order_relaxed);
    struct queue_settings settings = queue->settings;
    struct memory_table *memory = queue->memory;
    if (memory != NULL)
        memory_table_get(memory);
    queue->kick_is_polled = queue->kick_fd < 0;
    pthread_mutex_unlock(&queue->lock);

    struct virtqueue_addresses at;
    queue->running = false;
    if (!settings.fresh) /* a ring under way keeps its layout, whatever features are set meanwhile */
        settings.packed = queue->ring.packed;
    if (queue->broken || memory == NULL || !queue_may_run(&settings)) {
        memory_table_put(memory);
        return;
    }
    if (!queue_translate(&settings, memory, &at)) {
        memory_table_put(memory);
        if (!queue->unmapped_told)
            tell(queue, VHOSTFS_EVENT_WARNING, EFAULT,
                 "the ring waits: its addresses lie in no memory region, or are not aligned");
        queue->unmapped_told = true;
        return;
    }
    pthread_mutex_lock(&queue->used_lock);
    place_ring(queue, &settings, &at, memory);
    pthread_mutex_unlock(&queue->used_lock);
    pthread_mutex_lock(&queue->lock);
    queue->settings.fresh = false;
    pthread_mutex_unlock(&queue->lock);
    queue->unmapped_told = false;
    queue->repairs_seen = sigbus_repair_count();
    queue->running = !memory_vanished(queue);
    if (queue->running)
        virtqueue_disable_notifications(&queue->ring);
}

/* ---- Requests ---- */

/* Show the driver what was returned, and call it where it asks for that; the used side is taken once. */
static void flush(struct queue *queue, struct batch *batch)
{
    if (batch->count == 0)
        return;
    pthread_mutex_lock(&queue->used_lock);
    for (uint32_t i = 0; i < batch->count; i++)
        virtqueue_push(&queue->ring, batch->chains[i].head, batch->chains[i].slots, batch->chains[i].length);
    bool call = virtqueue_publish(&queue->ring);
    pthread_mutex_unlock(&queue->used_lock);
    batch->count = 0;
    if (call)
        signal_call(queue);
}

/* Return an answered chain, at once or with others. */
static void stage(struct queue *queue, struct batch *batch, const struct request *request)
{
    batch->chains[batch->count++] = (struct returned){
        .head = request->chain.head, .slots = request->chain.slots, .length = request->used_length};
    if (batch->count == 1 && batch->limit > 1)
        batch->since = monotonic_now();
    else if (batch->count >= batch->limit ||
             (batch->count % BATCH_LOOKS == 0 && monotonic_now() - batch->since > BATCH_NANOSECONDS))
        flush(queue, batch);
}

/* Give a detached request to a file system that takes it, or (NULL) to the pool. 0; or the error to answer, and it
 * stays the caller's. */
static int give_away(struct queue *queue, struct request *detached, struct filesystem *taker)
{
    pthread_mutex_lock(&queue->used_lock);
    queue->throttled = ++queue->in_flight >= QUEUE_IN_FLIGHT;
    queue->wake_at_half = queue->throttled;
    pthread_mutex_unlock(&queue->used_lock);
    int error =
        taker != NULL ? taker->submit(taker, detached) : pool_submit(queue->environment->pool, detached);
    if (error == 0)
        return 0;
    pthread_mutex_lock(&queue->used_lock);
    queue->in_flight--;
    pthread_mutex_unlock(&queue->used_lock);
    return error;
}

/* The thread's ring, made when it is first of use. */
static struct uring *find_uring(struct queue *queue)
{
    if (!queue->uring_tried && queue->environment->io_uring)
        queue->uring = uring_create(queue->wake_fd);
    queue->uring_tried = true;
    return queue->uring;
}

/* Have a request that would sleep done by the kernel or by the pool. 0, or the error to answer. */
static int hand_over(struct queue *queue, const struct request *request)
{
    struct request *detached = request_detach(request);
    if (detached == NULL)
        return -ENOMEM;
    if (detached->transfer.size > 0) {
        struct uring *uring = find_uring(queue);
        if (uring != NULL && uring_stage(uring, detached))
            return 0;
    }
    struct filesystem *filesystem = detached->filesystem;
    int error = give_away(queue, detached, filesystem->submit != NULL ? filesystem : NULL);
    if (error != 0)
        request_free(detached);
    return error;
}

/* Answer a detached request that is not on the pool; frees it. */
static void finish_detached(struct queue *queue, struct batch *batch, struct request *request, int32_t result)
{
    request->log_writes = dirty_log_wanted(queue->environment->log);
    request_finish(request, result);
    stage(queue, batch, request);
    request_free(request);
}

/* Submit the transfers that are staged; inside the epoch in which they were. */
static void submit_transfers(struct queue *queue)
{
    if (queue->uring == NULL || !uring_has_staged(queue->uring))
        return;
    struct batch batch = {.count = 0, .limit = BATCH_RETURNS};
    struct request *next = NULL;
    for (struct request *request = uring_submit(queue->uring); request != NULL; request = next) {
        next = request->next;
        int error = give_away(queue, request, NULL);
        if (error != 0)
            finish_detached(queue, &batch, request, error);
    }
    flush(queue, &batch);
}

/* Answer the requests whose transfers are done. */
static void return_transfers(struct queue *queue)
{
    if (queue->uring == NULL || !uring_has_done(queue->uring))
        return;
    struct batch batch = {.count = 0, .limit = BATCH_RETURNS};
    int32_t moved = 0;
    for (struct request *request = uring_next(queue->uring, &moved); request != NULL;
         request = uring_next(queue->uring, &moved)) {
        int32_t result = request->transfer.outcome(request, moved);
        if (result == REQUEST_WOULD_SLEEP) {
            result = give_away(queue, request, NULL);
            if (result == 0)
                continue;
        }
        finish_detached(queue, &batch, request, result);
    }
    flush(queue, &batch);
}

/* Before the thread ends: the kernel has guest memory, and our requests. */
static void await_transfers(struct queue *queue)
{
    while (queue->uring != NULL && uring_is_busy(queue->uring)) {
        if (!uring_wait(queue->uring))
            uring_cancel(queue->uring);
        return_transfers(queue);
    }
}

/* Answer what was popped. False: it is answered later, or taken again after the queue's delay. */
static bool answer(struct queue *queue, struct request *request, bool faulty)
{
    int32_t result = request_begin(request, queue->scratch->arguments);
    if (atomic_load_explicit(&request->session->limited, memory_order_relaxed) && result == 0 && !faulty) {
        queue->delay = session_delay(request->session, request, monotonic_now());
        if (queue->delay > 0)
            return false;
    }
    if (faulty)
        result = -EIO;
    else if (result == 0)
        result = session_dispatch(request->session, request);
    if (result == REQUEST_WOULD_SLEEP) {
        result = hand_over(queue, request);
        if (result == 0)
            return false;
    }
    /* Without a request's header there is nothing that an answer could be for. */
    if (request->chain.readable_size < sizeof(struct fuse_in_header))
        result = REQUEST_NO_REPLY;
    request->log_writes = dirty_log_wanted(queue->environment->log);
    request_finish(request, result);
    return true;
}

static struct request *prepare_request(struct queue *queue)
{
    struct request *request = &queue->scratch->request;
    *request = (struct request){
        .chain = {.readable = queue->scratch->readable, .writable = queue->scratch->writable},
        .session = queue->environment->session,
        .memory = queue->ring.memory,
        .reader = &queue->reader,
        .cancelled = &queue->cancelled,
        .source = queue,
        .complete = queue_complete_all,
    };
    return request;
}

/* Once a start: a guest that was given memory which is not shared asks for nothing else. */
static void tell_unmapped_buffers(struct queue *queue)
{
    if (!queue->ring.met_unmapped || queue->unmapped_buffers_told)
        return;
    queue->unmapped_buffers_told = true;
    tell(queue, VHOSTFS_EVENT_WARNING, EFAULT,
         "requests fail whose buffers lie in guest memory that the front-end does not share");
}

/* Serve what waits, up to a bound. True: there may be more. */
static bool serve_batch(struct queue *queue)
{
    struct virtqueue *ring = &queue->ring;
    struct epoch_domain *epochs = &queue->environment->session->epochs;
    struct request *request = prepare_request(queue);
    struct batch batch = {.count = 0, .limit = 1};
    enum virtqueue_result result = VIRTQUEUE_CHAIN;
    epoch_enter(epochs, &queue->reader);
    for (uint32_t served = 0; served < BATCH_REQUESTS; served++) {
        result = virtqueue_pop(ring, &request->chain);
        if (result == VIRTQUEUE_EMPTY || result == VIRTQUEUE_BROKEN)
            break;
        /* Looked at after the chain: memory that the driver learnt of before it made this chain available
         * counts. */
        if (atomic_load_explicit(&queue->changed, memory_order_acquire)) {
            virtqueue_unpop(ring);
            break;
        }
        if (batch.count == 0)
            batch.limit = virtqueue_crowded(ring) ? BATCH_RETURNS : 1;
        if (!answer(queue, request, result == VIRTQUEUE_FAULTY)) {
            if (queue->delay > 0)
                virtqueue_unpop(ring);
            if (queue->throttled || queue->delay > 0)
                break;
            continue;
        }
        stage(queue, &batch, request);
        /* Transfers that come together are submitted together; who is answered at once may take its time. */
        if (queue->uring != NULL) {
            submit_transfers(queue);
            return_transfers(queue);
        }
    }
    submit_transfers(queue);
    flush(queue, &batch);
    epoch_leave(epochs, &queue->reader);
    tell_unmapped_buffers(queue);
    if (still_mapped(queue) && result == VIRTQUEUE_BROKEN)
        break_ring(queue, EPROTO, ring->fault);
    return result != VIRTQUEUE_EMPTY || queue->throttled;
}

/* Push answered requests onto the used side, and free them; how many there were. Under used_lock. */
static uint32_t push_all(struct queue *queue, struct request *requests)
{
    uint32_t count = 0;
    while (requests != NULL) {
        struct request *request = requests;
        requests = request->next;
        virtqueue_push(&queue->ring, request->chain.head, request->chain.slots, request->used_length);
        request_free(request);
        count++;
    }
    return count;
}

void queue_complete_all(struct request *requests)
{
    struct queue *queue = requests->source;
    bool log_writes = dirty_log_wanted(queue->environment->log);
    for (struct request *request = requests; request != NULL; request = request->next) {
        request->log_writes = log_writes;
        request_finish(request, request->result);
    }
    pthread_mutex_lock(&queue->used_lock);
    uint32_t count = push_all(queue, requests);
    bool call = virtqueue_publish(&queue->ring);
    pthread_mutex_unlock(&queue->used_lock);
    if (call)
        signal_call(queue);
    pthread_mutex_lock(&queue->used_lock);
    /* The queue thread may sleep on, with nobody to kick it. */
    if (sigbus_repair_count() != queue->repairs_returned) {
        queue->repairs_returned = sigbus_repair_count();
        memory_vanished(queue);
    }
    if (queue->wake_at_half && queue->in_flight - count <= QUEUE_IN_FLIGHT / 2) {
        queue->wake_at_half = false;
        eventfd_write(queue->wake_fd, 1);
    }
    /* The last that is done here: from then on the queue may be gone. */
    queue->in_flight -= count;
    if (queue->in_flight == 0)
        pthread_cond_signal(&queue->answered);
    pthread_mutex_unlock(&queue->used_lock);
}

/* ---- Sleeping ---- */

static bool interrupted(const struct queue *queue)
{
    return atomic_load_explicit(&queue->changed, memory_order_acquire) ||
           atomic_load_explicit(&queue->stopping, memory_order_acquire);
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static bool has_done_transfers(const struct queue *queue)
{
    return queue->uring != NULL && uring_has_done(queue->uring);
}

/* Look at the ring for a while before sleeping. True: there is something. The driver may wait for our processor: it is
 * offered again and again, which costs little where nobody takes it. What comes after the window counts as a poll in
 * vain, lest we give way to strangers for their whole time slices. */
static bool poll_ring(struct queue *queue)
{
    uint64_t window = polling_window(&queue->polling);
    if (window == 0)
        return false;
    uint64_t until = monotonic_now() + window;
    do {
        for (int i = 0; i < 16; i++) {
            if (virtqueue_has(&queue->ring) || interrupted(queue) || has_done_transfers(queue)) {
                polling_found(&queue->polling);
                return true;
            }
            relax();
        }
        sched_yield();
    } while (monotonic_now() < until);
    return false;
}

/* Read a kick descriptor that is a socket, a bounded number of times: what is left wakes again. One that has
 * ended is not waited for any more. */
static void read_kick(struct queue *queue)
{
    uint8_t bytes[512];
    pthread_mutex_lock(&queue->lock);
    for (int reads = 0; queue->kick_fd >= 0 && queue->kick_is_read && reads < KICK_READS; reads++) {
        ssize_t got = recv(queue->kick_fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (got > 0 || (got < 0 && errno == EINTR))
            continue;
        if (got == 0 || errno != EAGAIN)
            epoll_ctl(queue->epoll_fd, EPOLL_CTL_DEL, queue->kick_fd, NULL);
        break;
    }
    pthread_mutex_unlock(&queue->lock);
}

/* How long epoll is to wait: for ever, until a polled ring is looked at again, or until the delay is over. */
static int patience(struct queue *queue)
{
    if (queue->delay == 0 || !queue->running)
        return queue->kick_is_polled && queue->running ? POLL_MILLISECONDS : -1;
    uint64_t milliseconds = queue->delay / 1000000 + 1;
    queue->delay = 0;
    return milliseconds < DELAY_MILLISECONDS ? (int)milliseconds : DELAY_MILLISECONDS;
}

static void sleep_until_kicked(struct queue *queue)
{
    struct epoll_event events[2];
    int count = epoll_wait(queue->epoll_fd, events, 2, patience(queue));
    for (int i = 0; i < count; i++) {
        if (events[i].data.u32 == QUEUE_READS_KICK)
            read_kick(queue);
    }
}

/* Nothing waits: poll, then sleep until the driver or the control thread has something. */
static void idle(struct queue *queue)
{
    if (poll_ring(queue))
        return;
    bool measured = queue->polling.most > 0;
    uint64_t before = measured ? monotonic_now() : 0;
    if (!virtqueue_enable_notifications(&queue->ring))
        sleep_until_kicked(queue);
    if (measured)
        polling_slept(&queue->polling, monotonic_now() - before);
    virtqueue_disable_notifications(&queue->ring);
}

/* ---- The thread ---- */

/* True where so many requests are on the pool that no more are taken; the pool wakes us. */
static bool still_throttled(struct queue *queue)
{
    if (!queue->throttled)
        return false;
    pthread_mutex_lock(&queue->used_lock);
    queue->throttled = queue->wake_at_half;
    pthread_mutex_unlock(&queue->used_lock);
    return queue->throttled;
}

static void serve(struct queue *queue)
{
    struct epoch_domain *epochs = &queue->environment->session->epochs;
    while (!atomic_load_explicit(&queue->stopping, memory_order_acquire)) {
        if (atomic_load_explicit(&queue->changed, memory_order_acquire))
            apply_settings(queue);
        if (atomic_load_explicit(&queue->call_again, memory_order_relaxed) &&
            atomic_exchange_explicit(&queue->call_again, false, memory_order_acquire))
            signal_call(queue);
        return_transfers(queue);
        if (!queue->running || queue->delay > 0 || !still_mapped(queue) || still_throttled(queue))
            sleep_until_kicked(queue);
        else if (epoch_crowded(epochs))
            epoch_wait_for_readers(epochs);
        else if (!serve_batch(queue) && queue->running)
            idle(queue);
    }
}

void *queue_main(void *argument)
{
    struct queue *queue = argument;
    struct queue_environment *environment = queue->environment;
    int error = environment->proc_self_fd >= 0 ? credentials_prepare_thread(environment->proc_self_fd) : 0;
    queue->scratch = malloc(sizeof(*queue->scratch));
    if (queue->scratch == NULL)
        error = -ENOMEM;
    if (error != 0)
        break_ring(queue, -error, "its thread could not be prepared");
    epoch_add_reader(&environment->session->epochs, &queue->reader);
    serve(queue);
    await_transfers(queue);
    uring_destroy(queue->uring);
    queue->uring = NULL;
    queue->uring_tried = false;
    epoch_remove_reader(&environment->session->epochs, &queue->reader);
    free(queue->scratch);
    queue->scratch = NULL;
    pthread_mutex_lock(&queue->used_lock);
    queue->ended = true;
    pthread_cond_signal(&queue->answered);
    pthread_mutex_unlock(&queue->used_lock);
    return NULL;
}
