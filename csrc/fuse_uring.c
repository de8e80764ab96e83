/* Rings to /dev/fuse; the contract is in fuse_uring.h. */
#define _GNU_SOURCE 1
#include "fuse_uring.h"
#include "events.h"
#include "fuse_ring_entry.h"
#include "io_ring.h"
#include "passthrough.h"
#include "pool.h"
#include "queue.h"
#include "session.h"
#include "threads.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* Entries of a queue that the kernel has or that its thread is about to give back. One that is detached is replaced: what
 * finds no entry waits in the kernel until an answer is committed, and no request may be all that the others wait for and wait
 * there itself. Therefore there are more than requests may wait for locks: of what has come together some are answered. They
 * are cheap, as the kernel uses the one again that was last given back, and only those that were used have a payload. */
#define ENTRIES_AT_HAND (POOL_BLOCKING_LOCKS + 32U)
/* Most entries of a queue; then what waits, waits in the kernel. */
#define ENTRIES_MOST 4096U

#define SUBMISSIONS 64U
#define COMPLETIONS 1024U /* more the kernel keeps by itself */
/* Answers that are committed together: the first of them waits for the last. */
#define ANSWERS_TOGETHER 4U

#define PAUSE_NANOSECONDS 1000000
/* How often an interrupt is tried, a pause apart. */
#define INTERRUPT_ROUNDS 1000

static const struct timespec pause_time = {.tv_nsec = PAUSE_NANOSECONDS};

struct ring_queue {
    uint32_t entries;
    uint32_t away; /* of these, detached and not yet committed */
};

struct ring_thread {
    struct fuse_reader reader; /* the source of its requests: begins it */
    struct fuse_rings *rings;
    struct io_ring ring;
    uint64_t wake_count; /* where the kernel puts what it reads from wake_fd */
    uint32_t away;       /* in all its queues */
    int wake_fd;
    struct ring_queue *queues; /* of processors `index`, `index` + threads, ... */
    uint32_t index;
    pthread_mutex_t lock;             /* of all below */
    struct fuse_ring_entry *entries;  /* all; only its thread adds some */
    struct fuse_ring_entry *answered; /* by others, to be committed */
    bool woken;
};

struct fuse_rings {
    struct fuse_device *device;
    uint32_t processors;
    uint32_t threads; /* that have been started */
    struct ring_thread *each;
    _Atomic bool told; /* which way requests go */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t prepared;
    int error;
    bool begun;
    bool ended;
};

static void tell(struct fuse_rings *rings, int error, const char *text)
{
    if (!atomic_exchange(&rings->told, true))
        events_push(rings->device->environment->events, VHOSTFS_EVENT_SESSION, -1, error, text);
}

/* ---- To and from the kernel ---- */

/* The kernel lacks the memory to take what is staged. At the end of all it is not worth waiting for. */
static void wait_for_kernel(struct ring_thread *thread)
{
    if (atomic_load(&thread->rings->device->stopping))
        thread->ring.staged = 0;
    nanosleep(&pause_time, NULL);
}

/* Submit what is staged, and sleep until `await` completions are there, or a signal comes. */
static void submit(struct ring_thread *thread, uint32_t await)
{
    do {
        int taken = io_ring_enter(&thread->ring, thread->ring.staged, await);
        if (taken > 0)
            thread->ring.staged -= (uint32_t)taken;
        else if (taken < 0 && taken != -EINTR)
            wait_for_kernel(thread);
    } while (thread->ring.staged > 0 && !io_ring_has_done(&thread->ring));
}

/* The next entry for a submission. */
static struct io_uring_sqe *next_entry(struct ring_thread *thread)
{
    while (thread->ring.staged == SUBMISSIONS)
        submit(thread, 0);
    return io_ring_next_entry(&thread->ring);
}

static void stage_command(struct ring_thread *thread, struct fuse_ring_entry *entry,
                          enum fuse_uring_cmd command)
{
    struct io_uring_sqe *to = next_entry(thread);
    to->opcode = IORING_OP_URING_CMD;
    to->fd = thread->reader.fd;
    to->cmd_op = (uint32_t)command;
    if (command == FUSE_IO_URING_CMD_REGISTER) {
        to->addr = (uintptr_t)entry->vectors;
        to->len = 2;
    }
    to->user_data = (uintptr_t)entry;
    struct fuse_uring_cmd_req what = {.commit_id = entry->header.ring_ent_in_out.commit_id,
                                      .qid = entry->queue};
    memcpy(to->cmd, &what, sizeof(what));
    io_ring_stage(&thread->ring);
}

/* Have the kernel say when somebody else has an answer. */
static void stage_wake(struct ring_thread *thread)
{
    struct io_uring_sqe *to = next_entry(thread);
    to->opcode = IORING_OP_READ;
    to->fd = thread->wake_fd;
    to->addr = (uintptr_t)&thread->wake_count;
    to->len = sizeof(thread->wake_count);
    io_ring_stage(&thread->ring);
}

/* How many threads share the queues. */
static uint32_t thread_count(const struct fuse_rings *rings)
{
    return rings->processors < FUSE_RING_THREADS_MAX ? rings->processors : FUSE_RING_THREADS_MAX;
}

static struct ring_queue *queue_of(const struct ring_thread *thread, const struct fuse_ring_entry *entry)
{
    return &thread->queues[entry->queue / thread_count(thread->rings)];
}

/* One more entry, which the kernel does not have yet. NULL: no memory. */
static struct fuse_ring_entry *make_entry(struct ring_thread *thread, uint32_t processor)
{
    struct fuse_device *device = thread->rings->device;
    struct fuse_ring_entry *entry = malloc(sizeof(*entry));
    if (entry == NULL)
        return NULL;
    pthread_mutex_lock(&device->lock);
    uint8_t *buffer = fuse_device_take_buffer(device);
    pthread_mutex_unlock(&device->lock);
    if (buffer == NULL) {
        free(entry);
        return NULL;
    }
    fuse_ring_entry_init(entry, buffer, device->capacity, (uint16_t)processor);
    pthread_mutex_lock(&thread->lock);
    entry->next = thread->entries;
    thread->entries = entry;
    pthread_mutex_unlock(&thread->lock);
    return entry;
}

/* Let the kernel have a new entry. */
static void register_entry(struct ring_thread *thread, struct fuse_ring_entry *entry)
{
    queue_of(thread, entry)->entries++;
    stage_command(thread, entry, FUSE_IO_URING_CMD_REGISTER);
}

/* Make the entries that each queue begins with. */
static int make_entries(struct ring_thread *thread)
{
    const struct fuse_rings *rings = thread->rings;
    for (uint32_t processor = thread->index; processor < rings->processors;
         processor += thread_count(rings)) {
        for (uint32_t i = 0; i < ENTRIES_AT_HAND; i++) {
            if (make_entry(thread, processor) == NULL)
                return -ENOMEM;
        }
    }
    return 0;
}

/* ---- Requests ---- */

static struct ring_thread *thread_of(const struct request *request)
{
    return request->source;
}

/* The header of a request is the first that its entry holds. */
static struct fuse_ring_entry *entry_of(const struct request *request)
{
    return request->chain.readable[0].iov_base;
}

/* struct request's complete, on any thread: leave the commits to the ring's. */
static void complete_all(struct request *requests)
{
    struct ring_thread *thread = thread_of(requests);
    struct fuse_device *device = thread->rings->device;
    struct fuse_ring_entry *newest = NULL;
    struct fuse_ring_entry *oldest = entry_of(requests);
    uint32_t count = 0;
    while (requests != NULL) {
        struct request *request = requests;
        struct fuse_ring_entry *entry = entry_of(request);
        requests = request->next;
        request_finish(request, request->result);
        fuse_ring_entry_answered(entry, request->used_length);
        request_free(request);
        entry->answered = newest;
        newest = entry;
        count++;
    }
    pthread_mutex_lock(&thread->lock);
    oldest->answered = thread->answered;
    thread->answered = newest;
    bool wakes = !thread->woken;
    thread->woken = true;
    pthread_mutex_unlock(&thread->lock);
    if (wakes)
        eventfd_write(thread->wake_fd, 1);
    pthread_mutex_lock(&device->lock);
    device->in_flight -= count;
    /* The last that is done here: from then on the device may be gone. */
    if (device->in_flight == 0)
        pthread_cond_signal(&device->changed);
    pthread_mutex_unlock(&device->lock);
}

static void commit_answered(struct ring_thread *thread)
{
    pthread_mutex_lock(&thread->lock);
    struct fuse_ring_entry *entry = thread->answered;
    thread->answered = NULL;
    thread->woken = false;
    pthread_mutex_unlock(&thread->lock);
    while (entry != NULL) {
        struct fuse_ring_entry *next = entry->answered;
        thread->away--;
        queue_of(thread, entry)->away--;
        stage_command(thread, entry, FUSE_IO_URING_CMD_COMMIT_AND_FETCH);
        entry = next;
    }
}

/* Give a request that would sleep away; its entry is another's then. 0, or the error to answer. */
static int hand_over(struct ring_thread *thread, struct fuse_ring_entry *entry, const struct request *request)
{
    struct fuse_device *device = thread->rings->device;
    if (atomic_load(&device->stopping))
        return -EIO; /* the thread waits for what is away, and for no more */
    struct request *detached = request_detach(request);
    if (detached == NULL)
        return -ENOMEM;
    pthread_mutex_lock(&device->lock);
    device->in_flight++;
    pthread_mutex_unlock(&device->lock);
    atomic_store(&entry->holder, FUSE_RING_LEAVING);
    struct filesystem *filesystem = detached->filesystem;
    int error = filesystem->submit != NULL ? filesystem->submit(filesystem, detached)
                                           : pool_submit(device->environment->pool, detached);
    if (error != 0) {
        pthread_mutex_lock(&device->lock);
        device->in_flight--;
        pthread_mutex_unlock(&device->lock);
        request_free(detached);
        return error;
    }
    /* Unless it has been answered by now. */
    uint8_t leaving = FUSE_RING_LEAVING;
    atomic_compare_exchange_strong(&entry->holder, &leaving, FUSE_RING_AWAY);
    struct ring_queue *queue = queue_of(thread, entry);
    thread->away++;
    queue->away++;
    if (queue->entries - queue->away < ENTRIES_AT_HAND && queue->entries < ENTRIES_MOST) {
        struct fuse_ring_entry *spare = make_entry(thread, entry->queue);
        if (spare != NULL)
            register_entry(thread, spare);
    }
    return 0;
}

/* Whether it was answered, and not given away. */
static bool answer(struct ring_thread *thread, struct fuse_ring_entry *entry, struct request *request,
                   int32_t result)
{
    if (result == 0)
        result = session_dispatch(request->session, request);
    if (result == REQUEST_WOULD_SLEEP) {
        result = hand_over(thread, entry, request);
        if (result == 0)
            return false;
    }
    request_finish(request, result);
    return true;
}

static void serve_request(struct ring_thread *thread, struct fuse_ring_entry *entry)
{
    struct fuse_device *device = thread->rings->device;
    struct session *session = device->environment->session;
    struct iovec readable[FUSE_RING_VECTORS];
    struct iovec writable[2];
    atomic_store(&entry->holder, FUSE_RING_THREAD);
    ssize_t size = fuse_ring_entry_request(entry, readable);
    if (size < 0) {
        fuse_ring_entry_refuse(entry, (int32_t)size);
        stage_command(thread, entry, FUSE_IO_URING_CMD_COMMIT_AND_FETCH);
        return;
    }
    struct request request = {
        .chain = {.readable = readable,
                  .readable_count = FUSE_RING_VECTORS,
                  .readable_size = (size_t)size,
                  .writable = writable},
        .session = session,
        .memory = device->memory,
        .reader = &thread->reader.epoch,
        .cancelled = &device->stopping,
        .source = thread,
        .complete = complete_all,
    };
    int32_t result = request_begin(&request, thread->reader.arguments);
    if (!fuse_is_unanswered(request.in.opcode)) {
        size_t room = fuse_reply_room(&request);
        room = room < device->capacity ? room : device->capacity;
        fuse_ring_entry_reply(entry, room, writable);
        request.chain.writable_count = 2;
        request.chain.writable_size = sizeof(struct fuse_out_header) + room;
    }
    if (result == 0 && atomic_load_explicit(&session->limited, memory_order_relaxed)) {
        if (thread->ring.staged > 0)
            submit(thread, 0); /* what is answered does not wait with it */
        fuse_device_await_turn(&thread->reader, &request);
    }
    epoch_enter(&session->epochs, &thread->reader.epoch);
    bool answered = answer(thread, entry, &request, result);
    epoch_leave(&session->epochs, &thread->reader.epoch);
    if (!answered)
        return;
    fuse_ring_entry_answered(entry, request.used_length);
    stage_command(thread, entry, FUSE_IO_URING_CMD_COMMIT_AND_FETCH);
}

/* An entry that the kernel does not have any more: because there is no connection, or it did not take it. */
static void lose_entry(struct ring_thread *thread, struct fuse_ring_entry *entry, int error)
{
    queue_of(thread, entry)->entries--;
    if (error != ENOTCONN && error != ECONNABORTED && error != ECANCELED)
        tell(thread->rings, error, "requests go over /dev/fuse, as the kernel refuses io_uring");
}

static void serve_completion(struct ring_thread *thread)
{
    int32_t result = 0;
    struct fuse_ring_entry *entry = (struct fuse_ring_entry *)(uintptr_t)io_ring_take(&thread->ring, &result);
    if (entry == NULL) {
        stage_wake(thread);
    } else if (result < 0) {
        lose_entry(thread, entry, -result);
    } else {
        tell(thread->rings, 0, "requests go over io_uring");
        serve_request(thread, entry);
    }
}

/* ---- The thread ---- */

static void sleep_in_kernel(struct ring_thread *thread)
{
    atomic_store(&thread->reader.sleeping, true);
    /* What is away is answered soon: whoever stops the device sees to that. */
    if (!atomic_load(&thread->rings->device->stopping) || thread->away > 0)
        submit(thread, io_ring_has_done(&thread->ring) ? 0 : 1);
    atomic_store(&thread->reader.sleeping, false);
}

static void serve(struct ring_thread *thread)
{
    struct fuse_device *device = thread->rings->device;
    struct epoch_domain *epochs = &device->environment->session->epochs;
    stage_wake(thread);
    for (struct fuse_ring_entry *entry = thread->entries; entry != NULL; entry = entry->next)
        register_entry(thread, entry);
    while (!atomic_load(&device->stopping) || thread->away > 0) {
        commit_answered(thread);
        if (epoch_crowded(epochs)) {
            submit(thread, 0);
            epoch_wait_for_readers(epochs);
        }
        sleep_in_kernel(thread);
        while (io_ring_has_done(&thread->ring)) {
            serve_completion(thread);
            if (thread->ring.staged >= ANSWERS_TOGETHER)
                submit(thread, 0);
        }
    }
    submit(thread, 0);
}

/* Say that the thread has what it needs, or not, and wait until INIT was answered. Whether there is something to serve. */
static bool await_begin(struct fuse_rings *rings, int error)
{
    pthread_mutex_lock(&rings->lock);
    rings->prepared++;
    if (rings->error == 0)
        rings->error = error;
    pthread_cond_broadcast(&rings->changed);
    while (!rings->begun && !rings->ended)
        pthread_cond_wait(&rings->changed, &rings->lock);
    bool begun = rings->begun;
    pthread_mutex_unlock(&rings->lock);
    return begun && error == 0;
}

static void *ring_main(void *argument)
{
    struct ring_thread *thread = argument;
    struct fuse_device *device = thread->rings->device;
    const struct queue_environment *environment = device->environment;
    epoch_add_reader(&environment->session->epochs, &thread->reader.epoch);
    int error = environment->proc_self_fd >= 0 ? credentials_prepare_thread(environment->proc_self_fd) : 0;
    if (error == 0)
        error = make_entries(thread);
    bool made = false;
    if (error == 0) {
        error = io_ring_create(&thread->ring, SUBMISSIONS, COMPLETIONS, true);
        made = error == 0;
    }
    if (await_begin(thread->rings, error))
        serve(thread);
    if (made)
        io_ring_destroy(&thread->ring);
    epoch_remove_reader(&environment->session->epochs, &thread->reader.epoch);
    fuse_device_reader_ended(&thread->reader);
    return NULL;
}

/* ---- The life of it ---- */

uint32_t fuse_rings_count_processors(const char *list)
{
    uint32_t count = 0;
    const char *at = list;
    do {
        char *end = NULL;
        unsigned long first = strtoul(at, &end, 10);
        if (end == at)
            return 0;
        unsigned long last = first;
        if (*end == '-') {
            at = end + 1;
            last = strtoul(at, &end, 10);
            if (end == at)
                return 0;
        }
        if (last < first || last >= FUSE_RING_QUEUES_MAX)
            return 0;
        count += (uint32_t)(last - first) + 1;
        if (count > FUSE_RING_QUEUES_MAX)
            return 0;
        at = end + 1;
        if (*end != ',')
            return *end == '\n' || *end == '\0' ? count : 0;
    } while (true);
}

/* As the kernel counts its queues, which must all have entries: 0 where it cannot be known. */
static uint32_t possible_processors(void)
{
    char list[256] = "";
    int fd = open("/sys/devices/system/cpu/possible", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t size = read(fd, list, sizeof(list) - 1);
    close(fd);
    bool whole = size > 0 && (size_t)size < sizeof(list) - 1;
    return whole ? fuse_rings_count_processors(list) : 0;
}

static void free_thread(struct ring_thread *thread)
{
    struct fuse_device *device = thread->rings->device;
    pthread_mutex_lock(&device->lock);
    while (thread->entries != NULL) {
        struct fuse_ring_entry *entry = thread->entries;
        thread->entries = entry->next;
        fuse_device_give_buffer(device, entry->vectors[1].iov_base);
        free(entry);
    }
    pthread_mutex_unlock(&device->lock);
    pthread_mutex_destroy(&thread->lock);
    if (thread->reader.fd >= 0)
        close(thread->reader.fd);
    if (thread->wake_fd >= 0)
        close(thread->wake_fd);
    free(thread->reader.arguments);
    free(thread->queues);
}

/* 0 or a negative errno. */
static int start_thread(struct fuse_rings *rings, struct ring_thread *thread, uint32_t index)
{
    struct fuse_device *device = rings->device;
    *thread = (struct ring_thread){.reader = {.device = device}, .rings = rings, .index = index};
    pthread_mutex_init(&thread->lock, NULL);
    thread->reader.fd = fcntl(device->fd, F_DUPFD_CLOEXEC, 3);
    thread->wake_fd = eventfd(0, EFD_CLOEXEC);
    int error = thread->reader.fd < 0 || thread->wake_fd < 0 ? -errno : 0;
    thread->reader.arguments = malloc(sizeof(struct fuse_in_header) + REQUEST_ARGUMENTS_SIZE);
    thread->queues = calloc(rings->processors / thread_count(rings) + 1, sizeof(struct ring_queue));
    if (error == 0 && (thread->reader.arguments == NULL || thread->queues == NULL))
        error = -ENOMEM;
    char name[24];
    snprintf(name, sizeof(name), "vhostfs-ring%u", index);
    pthread_mutex_lock(&device->lock);
    device->running++;
    if (error == 0)
        error = threads_start(&thread->reader.thread, name, ring_main, thread);
    device->running -= error != 0;
    pthread_mutex_unlock(&device->lock);
    if (error != 0)
        free_thread(thread);
    return error;
}

/* Start the threads, and wait until each has its ring. 0 or a negative errno. */
static int start_threads(struct fuse_rings *rings)
{
    uint32_t count = thread_count(rings);
    rings->each = aligned_alloc(alignof(struct ring_thread), count * sizeof(struct ring_thread));
    int error = rings->each == NULL ? -ENOMEM : 0;
    while (error == 0 && rings->threads < count) {
        error = start_thread(rings, &rings->each[rings->threads], rings->threads);
        rings->threads += error == 0;
    }
    pthread_mutex_lock(&rings->lock);
    while (rings->prepared < rings->threads)
        pthread_cond_wait(&rings->changed, &rings->lock);
    if (error == 0)
        error = rings->error;
    pthread_mutex_unlock(&rings->lock);
    return error;
}

static int create(struct fuse_device *device)
{
    uint32_t processors = possible_processors();
    if (processors == 0)
        return -ENOENT;
    struct fuse_rings *rings = calloc(1, sizeof(*rings));
    if (rings == NULL)
        return -ENOMEM;
    *rings = (struct fuse_rings){.device = device, .processors = processors};
    pthread_mutex_init(&rings->lock, NULL);
    pthread_cond_init(&rings->changed, NULL);
    int error = start_threads(rings);
    if (error != 0) {
        fuse_rings_end(rings);
        fuse_rings_free(rings);
        return error;
    }
    atomic_store(&device->rings, rings);
    return 0;
}

void fuse_rings_prepare(struct fuse_reader *reader, const struct request *init)
{
    struct fuse_device *device = reader->device;
    struct vhostfs_session_options *options = &device->environment->session->options;
    uint64_t offered = fuse_argument_at(init, offsetof(struct fuse_init_in, flags)) |
                       (uint64_t)fuse_argument_at(init, offsetof(struct fuse_init_in, flags2)) << 32;
    uint64_t wanted = FUSE_INIT_INIT_EXT | FUSE_INIT_OVER_IO_URING;
    if ((offered & options->init_flags & wanted) != wanted || atomic_load(&device->rings) != NULL)
        return;
    /* Who reads for Python alone would have to be told by another thread. */
    int error = device->pumped || !device->environment->io_uring ? -EOPNOTSUPP : create(device);
    if (error == 0)
        return;
    options->init_flags &= ~FUSE_INIT_OVER_IO_URING;
    if (error != -EOPNOTSUPP)
        events_push(device->environment->events, VHOSTFS_EVENT_SESSION, -1, -error,
                    "requests go over /dev/fuse, as there is no io_uring");
}

void fuse_rings_begin(struct fuse_rings *rings)
{
    const struct session *session = rings->device->environment->session;
    if (atomic_load(&session->minor) == 0)
        return; /* it comes once more, with a version that is ours */
    uint64_t flags = atomic_load(&session->flags);
    pthread_mutex_lock(&rings->lock);
    rings->begun = (flags & FUSE_INIT_OVER_IO_URING) != 0;
    rings->ended = !rings->begun;
    pthread_cond_broadcast(&rings->changed);
    pthread_mutex_unlock(&rings->lock);
}

void fuse_rings_end(struct fuse_rings *rings)
{
    pthread_mutex_lock(&rings->lock);
    rings->ended = true;
    pthread_cond_broadcast(&rings->changed);
    pthread_mutex_unlock(&rings->lock);
}

struct fuse_reader *fuse_rings_source(struct fuse_rings *rings, uint32_t index)
{
    return index < rings->threads ? &rings->each[index].reader : NULL;
}

void fuse_rings_free(struct fuse_rings *rings)
{
    for (uint32_t i = 0; i < rings->threads; i++) {
        pthread_join(rings->each[i].reader.thread, NULL);
        free_thread(&rings->each[i]);
    }
    pthread_cond_destroy(&rings->changed);
    pthread_mutex_destroy(&rings->lock);
    free(rings->each);
    free(rings);
}

/* ---- Interrupts ---- */

/* The kernel has filled an entry before it sends the interrupt of what is in there. NULL: no entry has that request. */
static struct fuse_ring_entry *find_entry(struct fuse_rings *rings, uint64_t unique)
{
    struct fuse_ring_entry *found = NULL;
    for (uint32_t i = 0; i < rings->threads && found == NULL; i++) {
        struct ring_thread *thread = &rings->each[i];
        pthread_mutex_lock(&thread->lock);
        found = thread->entries;
        while (found != NULL && fuse_ring_entry_unique(found) != unique)
            found = found->next;
        pthread_mutex_unlock(&thread->lock);
    }
    return found;
}

bool fuse_rings_interrupt(struct fuse_rings *rings, uint64_t unique)
{
    struct fuse_device *device = rings->device;
    for (int round = 0; round < INTERRUPT_ROUNDS && !atomic_load(&device->stopping); round++) {
        const struct fuse_ring_entry *entry = find_entry(rings, unique);
        if (entry == NULL)
            return round > 0;
        if (atomic_load(&entry->done) == unique)
            return true;
        /* Over /dev/fuse an interrupt could be asked for again; here it is we who try again. */
        if (pool_interrupt(device->environment->pool, unique) == NULL &&
            atomic_load(&entry->holder) == FUSE_RING_AWAY)
            return false;
        nanosleep(&pause_time, NULL);
    }
    return true;
}
