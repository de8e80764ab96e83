/* The readers of /dev/fuse; the contract is in fuse_device.h. */
#define _GNU_SOURCE 1
#include "fuse_device.h"
#include "events.h"
#include "fuse_uring.h"
#include "fuse_wire.h"
#include "monotonic.h"
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
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096U
/* What comes before a WRITE's data and a READ's: data begins at a page, so that it can go to a file that is
 * open with O_DIRECT. */
#define BEFORE_DATA (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
#define BEFORE_REPLY sizeof(struct fuse_out_header)

/* How many requests that come alone are between two tries to find more than one. */
#define TRIES_EVERY 8U
/* Of what else ended a sleep only that there is something counts. */
#define FEW_EVENTS 4

/* Buffers that are kept for requests to come. */
#define IDLE_BUFFERS 64U

/* How long all of a stop's parts may take: as for rings (queue_control.c). */
#define CANCEL_NANOSECONDS 5000000
#define GRACE_ROUNDS 400

/* ---- Buffers: a page for headers, then `capacity` bytes ---- */

static size_t buffer_size(const struct fuse_device *device)
{
    return PAGE + device->capacity;
}

uint8_t *fuse_device_take_buffer(struct fuse_device *device)
{
    uint8_t *buffer = device->idle_buffers;
    if (buffer != NULL) {
        memcpy(&device->idle_buffers, buffer, sizeof(device->idle_buffers));
        device->idle_count--;
        return buffer;
    }
    buffer = mmap(NULL, buffer_size(device), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return buffer != MAP_FAILED ? buffer : NULL;
}

void fuse_device_give_buffer(struct fuse_device *device, uint8_t *buffer)
{
    if (buffer == NULL)
        return;
    if (device->idle_count >= IDLE_BUFFERS && !device->giving_up) {
        munmap(buffer, buffer_size(device));
        return;
    }
    memcpy(buffer, &device->idle_buffers, sizeof(device->idle_buffers));
    device->idle_buffers = buffer;
    device->idle_count++;
}

/* The buffers that a detached request has taken along; NULL where it needs none. */
static uint8_t *data_of(const struct request *request)
{
    bool takes = request->in.opcode == FUSE_WRITE;
    return takes ? (uint8_t *)request->chain.readable[0].iov_base - (PAGE - BEFORE_DATA) : NULL;
}

static uint8_t *reply_of(const struct request *request)
{
    bool takes = request->chain.writable_count > 0;
    return takes ? (uint8_t *)request->chain.writable[0].iov_base - (PAGE - BEFORE_REPLY) : NULL;
}

/* ---- Replies ---- */

/* What the kernel refuses as it stands is answered EIO: a request that stays unanswered holds its caller for
 * ever. ENOENT: nobody waits any more; ENODEV: there is no connection any more. */
static void send_reply(int fd, const struct request *request)
{
    /* With unique 0 it would be a notification: to what is not even a header. */
    if (request->used_length == 0 || request->in.unique == 0)
        return;
    const void *reply = request->chain.writable[0].iov_base;
    if (write(fd, reply, request->used_length) >= 0 || errno == ENOENT || errno == ENODEV)
        return;
    struct fuse_out_header failed = {.len = sizeof(failed), .error = -EIO, .unique = request->in.unique};
    ssize_t written = write(fd, &failed, sizeof(failed));
    (void)written;
}

/* struct request's complete: write the replies, take the buffers back. */
static void complete_all(struct request *requests)
{
    struct fuse_reader *reader = requests->source;
    struct fuse_device *device = reader->device;
    for (struct request *request = requests; request != NULL; request = request->next) {
        request_finish(request, request->result);
        send_reply(reader->fd, request);
    }
    pthread_mutex_lock(&device->lock);
    while (requests != NULL) {
        struct request *request = requests;
        requests = request->next;
        fuse_device_give_buffer(device, data_of(request));
        fuse_device_give_buffer(device, reply_of(request));
        request_free(request);
        device->in_flight--;
    }
    /* The last that is done here: from then on the device may be gone. */
    if (device->in_flight == 0)
        pthread_cond_signal(&device->changed);
    pthread_mutex_unlock(&device->lock);
}

/* ---- Requests ---- */

static void set_room(struct request *request, const struct fuse_reader *reader)
{
    if (fuse_is_unanswered(request->in.opcode))
        return;
    size_t room = fuse_reply_room(request);
    if (room > reader->device->capacity)
        room = reader->device->capacity;
    request->chain.writable[0] = (struct iovec){.iov_base = reader->out + (PAGE - BEFORE_REPLY),
                                                .iov_len = sizeof(struct fuse_out_header) + room};
    request->chain.writable_count = 1;
    request->chain.writable_size = sizeof(struct fuse_out_header) + room;
}

/* Give a request that would sleep away, with the buffers that it needs. 0, or the error to answer. */
static int hand_over(struct fuse_reader *reader, const struct request *request)
{
    struct fuse_device *device = reader->device;
    struct request *detached = request_detach(request);
    if (detached == NULL)
        return -ENOMEM;
    bool data = data_of(request) != NULL;
    bool reply = reply_of(request) != NULL;
    pthread_mutex_lock(&device->lock);
    uint8_t *in = data ? fuse_device_take_buffer(device) : NULL;
    uint8_t *out = reply ? fuse_device_take_buffer(device) : NULL;
    device->in_flight++;
    pthread_mutex_unlock(&device->lock);
    int error = (data && in == NULL) || (reply && out == NULL) ? -ENOMEM : 0;
    struct filesystem *filesystem = detached->filesystem;
    if (error == 0)
        error = filesystem->submit != NULL ? filesystem->submit(filesystem, detached)
                                           : pool_submit(device->environment->pool, detached);
    if (error == 0) {
        reader->in = data ? in : reader->in;
        reader->out = reply ? out : reader->out;
        return 0;
    }
    pthread_mutex_lock(&device->lock);
    fuse_device_give_buffer(device, in);
    fuse_device_give_buffer(device, out);
    device->in_flight--;
    pthread_mutex_unlock(&device->lock);
    request_free(detached);
    return error;
}

static void answer(struct fuse_reader *reader, struct request *request, int32_t result)
{
    if (result == 0)
        result = session_dispatch(request->session, request);
    if (result == REQUEST_WOULD_SLEEP) {
        result = hand_over(reader, request);
        if (result == 0)
            return;
    }
    request_finish(request, result);
    send_reply(reader->fd, request);
}

/* ---- The thread ---- */

void fuse_device_await_turn(struct fuse_reader *reader, const struct request *request)
{
    struct session *session = request->session;
    uint64_t delay = 1;
    atomic_store(&reader->sleeping, true);
    while (delay > 0 && !atomic_load(&reader->device->stopping)) {
        epoch_enter(&session->epochs, &reader->epoch);
        delay = session_delay(session, request, monotonic_now());
        epoch_leave(&session->epochs, &reader->epoch);
        struct timespec time = monotonic_time(delay);
        if (delay > 0)
            nanosleep(&time, NULL);
    }
    atomic_store(&reader->sleeping, false);
}

static void serve_one(struct fuse_reader *reader, size_t size)
{
    struct fuse_device *device = reader->device;
    struct session *session = device->environment->session;
    struct iovec readable = {.iov_base = reader->in + (PAGE - BEFORE_DATA), .iov_len = size};
    struct iovec writable;
    struct request request = {
        .chain = {.readable = &readable, .readable_count = 1, .readable_size = size, .writable = &writable},
        .session = session,
        .memory = device->memory,
        .reader = &reader->epoch,
        .cancelled = &device->stopping,
        .source = reader,
        .complete = complete_all,
    };
    int32_t result = request_begin(&request, reader->arguments);
    set_room(&request, reader);
    if (result == 0 && request.in.opcode == FUSE_INTERRUPT && fuse_interrupt(reader, &request))
        return;
    /* Who reads for Python alone must not sleep, and Python keeps to its limits by itself. */
    if (result == 0 && !device->pumped && atomic_load_explicit(&session->limited, memory_order_relaxed))
        fuse_device_await_turn(reader, &request);
    bool begins = result == 0 && request.in.opcode == FUSE_INIT;
    if (begins)
        fuse_rings_prepare(reader, &request);
    bool early = fuse_interrupt_note(reader, request.in.unique);
    epoch_enter(&session->epochs, &reader->epoch);
    answer(reader, &request, result);
    epoch_leave(&session->epochs, &reader->epoch);
    atomic_store(&reader->serving, 0);
    if (early)
        fuse_interrupt_ask_again(reader, request.in.unique);
    struct fuse_rings *rings = atomic_load(&device->rings);
    if (begins && rings != NULL)
        fuse_rings_begin(rings);
}

/* Wait for a request. Its size; or 0 or a negative errno where there will be no more. */
static ssize_t next_request(struct fuse_reader *reader)
{
    struct fuse_device *device = reader->device;
    size_t room = BEFORE_DATA + device->capacity;
    ssize_t size = -EINTR;
    atomic_store(&reader->sleeping, true);
    while (!atomic_load(&device->stopping)) {
        size = read(reader->fd, reader->in + (PAGE - BEFORE_DATA), room);
        if (size >= 0)
            break;
        size = -errno;
        /* ENOENT: the request was taken back while it was read. */
        if (size != -EINTR && size != -ENOENT && size != -EAGAIN)
            break;
    }
    atomic_store(&reader->sleeping, false);
    return size;
}

/* Say once that there is no connection any more, whoever of the readers sees it first. */
static void tell_end(struct fuse_device *device, int error)
{
    pthread_mutex_lock(&device->lock);
    bool told = device->end_told;
    device->end_told = true;
    pthread_mutex_unlock(&device->lock);
    if (told)
        return;
    const char *text = "the file system was unmounted";
    if (error == ECONNABORTED)
        text = "the connection to the kernel was aborted";
    else if (error != 0 && error != ENODEV)
        text = "no more requests can be read";
    events_push(device->environment->events, VHOSTFS_EVENT_UNMOUNTED, -1, error == ENODEV ? 0 : error, text);
}

/* What a read that failed means: 0: nothing waits now. */
static int reading_failed(struct fuse_device *device, int error)
{
    if (error == EAGAIN || error == EINTR || error == ENOENT)
        return 0;
    if (!atomic_load(&device->stopping))
        tell_end(device, error);
    return -error;
}

/* Serve what waits, up to so many requests. How many, or a negative errno. */
static int serve_waiting(struct fuse_reader *reader, uint32_t most)
{
    size_t room = BEFORE_DATA + reader->device->capacity;
    int served = 0;
    while ((uint32_t)served < most) {
        ssize_t size = read(reader->fd, reader->in + (PAGE - BEFORE_DATA), room);
        if (size <= 0)
            return served > 0 ? served : reading_failed(reader->device, size < 0 ? errno : ENODEV);
        serve_one(reader, (size_t)size);
        served++;
    }
    return served;
}

/* Sleep in the place of the loop that pumps, as it would. Whether a request is what ended that. */
static bool await_request(const struct fuse_reader *reader, int epoll_fd, int milliseconds)
{
    struct epoll_event events[FEW_EVENTS];
    int count = epoll_wait(epoll_fd, events, FEW_EVENTS, milliseconds);
    bool found = false;
    for (int i = 0; i < count; i++)
        found = found || events[i].data.fd == reader->fd;
    return found;
}

/* Where requests come one by one, each is waited for and read alone, as a read in vain costs as much as one; now and then it is
 * tried whether there are more. Where they come together, all are read, and waited for when there was none. */
static int pump(struct fuse_device *device, uint32_t most, int epoll_fd, int milliseconds)
{
    struct fuse_reader *reader = &device->readers[0];
    struct epoch_domain *epochs = &device->environment->session->epochs;
    if (epoch_crowded(epochs))
        epoch_wait_for_readers(epochs);
    int served = 0;
    if (device->together || milliseconds == 0) {
        served = serve_waiting(reader, most);
        device->together = served > 1;
        if (served != 0 || milliseconds == 0)
            return served;
    }
    if (!await_request(reader, epoll_fd, milliseconds))
        return 0;
    bool tries = ++device->alone % TRIES_EVERY == 0;
    served = serve_waiting(reader, tries ? most : 1);
    device->together = served > 1;
    return served;
}

/* False: somebody does, or nobody is to any more. */
static bool begin_pumping(struct fuse_device *device)
{
    pthread_mutex_lock(&device->lock);
    bool begins = !device->pumping && !atomic_load(&device->stopping);
    device->pumping = device->pumping || begins;
    pthread_mutex_unlock(&device->lock);
    return begins;
}

static void end_pumping(struct fuse_device *device)
{
    pthread_mutex_lock(&device->lock);
    device->pumping = false;
    if (atomic_load(&device->stopping))
        pthread_cond_signal(&device->changed);
    pthread_mutex_unlock(&device->lock);
}

int fuse_device_pump(struct fuse_device *device, uint32_t most, int epoll_fd, int milliseconds)
{
    if (!device->pumped || !begin_pumping(device))
        return -ENODEV;
    int served = pump(device, most, epoll_fd, milliseconds);
    end_pumping(device);
    return served;
}

/* Where nobody else pumps any more, what a notification waits for may be a request that nobody reads. */
static void pump_for_notifier(struct fuse_device *device)
{
    if (!device->pumped || !begin_pumping(device))
        return;
    (void)pump(device, IDLE_BUFFERS, -1, 0);
    end_pumping(device);
}

static int prepare(struct fuse_reader *reader)
{
    const struct queue_environment *environment = reader->device->environment;
    return environment->proc_self_fd >= 0 ? credentials_prepare_thread(environment->proc_self_fd) : 0;
}

static void serve(struct fuse_reader *reader)
{
    struct fuse_device *device = reader->device;
    struct epoch_domain *epochs = &device->environment->session->epochs;
    ssize_t size = prepare(reader);
    if (size != 0) {
        tell_end(device, (int)-size);
        return;
    }
    while (!atomic_load(&device->stopping)) {
        if (epoch_crowded(epochs)) {
            epoch_wait_for_readers(epochs);
            continue;
        }
        size = next_request(reader);
        if (size > 0) {
            serve_one(reader, (size_t)size);
            continue;
        }
        if (!atomic_load(&device->stopping))
            tell_end(device, (int)-size);
        return;
    }
}

void fuse_device_reader_ended(struct fuse_reader *reader)
{
    struct fuse_device *device = reader->device;
    pthread_mutex_lock(&device->lock);
    reader->ended = true;
    device->running--;
    pthread_cond_signal(&device->changed);
    pthread_mutex_unlock(&device->lock);
}

static void *reader_main(void *argument)
{
    struct fuse_reader *reader = argument;
    struct fuse_device *device = reader->device;
    epoch_add_reader(&device->environment->session->epochs, &reader->epoch);
    serve(reader);
    epoch_remove_reader(&device->environment->session->epochs, &reader->epoch);
    fuse_device_reader_ended(reader);
    return NULL;
}

/* ---- The life of it ---- */

/* A descriptor of the same connection: one with a queue of its own where the kernel gives it, else the same
 * again. */
static int another_descriptor(int fd)
{
    int made = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    uint32_t joined = (uint32_t)fd;
    if (made >= 0 && ioctl(made, FUSE_DEV_IOC_CLONE, &joined) == 0)
        return made;
    if (made >= 0)
        close(made);
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* Under the lock. */
static int start_reader(struct fuse_device *device, uint32_t index)
{
    struct fuse_reader *reader = &device->readers[index];
    bool first = index == 0 && !device->pumped;
    reader->fd = first ? fcntl(device->fd, F_DUPFD_CLOEXEC, 3) : another_descriptor(device->fd);
    if (reader->fd < 0)
        return -errno;
    reader->arguments = malloc(sizeof(struct fuse_in_header) + REQUEST_ARGUMENTS_SIZE);
    reader->in = fuse_device_take_buffer(device);
    reader->out = fuse_device_take_buffer(device);
    int error = reader->arguments == NULL || reader->in == NULL || reader->out == NULL ? -ENOMEM : 0;
    char name[24];
    snprintf(name, sizeof(name), "vhostfs-fuse%u", index);
    if (error == 0 && device->pumped) {
        reader->ended = true; /* as far as its thread goes */
        epoch_add_reader(&device->environment->session->epochs, &reader->epoch);
        error = fcntl(reader->fd, F_SETFL, O_NONBLOCK) != 0 ? -errno : 0;
        if (error == 0)
            return 0;
        epoch_remove_reader(&device->environment->session->epochs, &reader->epoch);
    } else if (error == 0) {
        device->running++;
        error = threads_start(&reader->thread, name, reader_main, reader);
        if (error == 0)
            return 0;
        device->running--;
    }
    fuse_device_give_buffer(device, reader->in);
    fuse_device_give_buffer(device, reader->out);
    free(reader->arguments);
    close(reader->fd);
    return error;
}

static int start_readers(struct fuse_device *device, uint32_t readers)
{
    int error = 0;
    for (uint32_t i = 0; i < readers; i++)
        device->readers[i] = (struct fuse_reader){.device = device, .fd = -1};
    pthread_mutex_lock(&device->lock);
    while (error == 0 && device->count < readers) {
        error = start_reader(device, device->count);
        device->count += error == 0;
    }
    pthread_mutex_unlock(&device->lock);
    return error;
}

int fuse_device_start(struct queue_environment *environment, struct memory_table *memory, int fd,
                      uint32_t readers, size_t capacity, struct fuse_device **device)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    if ((flags & O_NONBLOCK) != 0 && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != 0)
        return -errno;
    struct fuse_device *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return -ENOMEM;
    made->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (made->fd < 0) {
        free(made);
        return -errno;
    }
    made->environment = environment;
    made->memory = memory;
    made->capacity = (capacity + PAGE - 1) / PAGE * PAGE;
    pthread_mutex_init(&made->lock, NULL);
    threads_condition(&made->changed);
    made->pumped = readers == 0;
    readers += made->pumped;
    made->readers = aligned_alloc(alignof(struct fuse_reader), readers * sizeof(struct fuse_reader));
    environment->session->fuse_fd = made->fd;
    int error = made->readers != NULL ? fuse_notifier_start(made->fd, &made->notifier) : -ENOMEM;
    if (error == 0)
        error = start_readers(made, readers);
    if (error == 0) {
        *device = made;
        return 0;
    }
    fuse_device_stop(made);
    fuse_device_free(made);
    return error;
}

/* A source of requests: a reader, or a ring's thread. NULL: there are no more. */
static struct fuse_reader *source_at(struct fuse_device *device, uint32_t index)
{
    struct fuse_rings *rings = atomic_load(&device->rings);
    if (index < device->count)
        return &device->readers[index];
    return rings != NULL ? fuse_rings_source(rings, index - device->count) : NULL;
}

/* One more round of waiting has passed. Until there were some, a call on the host is left to finish: only locks are given up. */
static void hurry(struct fuse_device *device, uint32_t round)
{
    const struct queue_environment *environment = device->environment;
    bool all = round >= GRACE_ROUNDS;
    bool give_up = round > 2 * GRACE_ROUNDS;
    struct fuse_reader *source;
    pthread_mutex_lock(&device->lock);
    device->giving_up = device->giving_up || give_up;
    for (uint32_t i = 0; (source = source_at(device, i)) != NULL; i++) {
        if (!source->ended && (all || atomic_load(&source->sleeping)))
            threads_cancel_sleep(source->thread);
        pool_cancel_sleeps(environment->pool, source, all);
    }
    pthread_mutex_unlock(&device->lock);
    for (uint32_t i = 0; (source = source_at(device, i)) != NULL; i++) {
        session_cancel(environment->session, source, all);
        if (give_up)
            session_give_up(environment->session, source);
    }
    if (round == 2 * GRACE_ROUNDS)
        events_push(environment->events, VHOSTFS_EVENT_WARNING, -1, 0,
                    "the file system cannot end: a system call on the share does not return");
}

/* What is told first, while there is somebody who answers what its writes may wait for: a lock of the kernel's
 * that is held for a request, which is ended if it takes its time. */
static void end_notifier(struct fuse_device *device)
{
    struct timespec until = monotonic_after(CANCEL_NANOSECONDS);
    fuse_notifier_end(device->notifier);
    for (uint32_t round = 0; !fuse_notifier_ended(device->notifier, &until); round++) {
        pump_for_notifier(device);
        hurry(device, round);
        until = monotonic_after(CANCEL_NANOSECONDS);
    }
    fuse_notifier_join(device->notifier);
}

/* Wait until the readers have ended and all is answered, for a while. */
static bool await_end(struct fuse_device *device)
{
    struct timespec until = monotonic_after(CANCEL_NANOSECONDS);
    int waited = 0;
    pthread_mutex_lock(&device->lock);
    while ((device->running > 0 || device->pumping || device->in_flight > 0) && waited == 0)
        waited = pthread_cond_timedwait(&device->changed, &device->lock, &until);
    bool ended = device->running == 0 && !device->pumping && device->in_flight == 0;
    pthread_mutex_unlock(&device->lock);
    return ended;
}

/* The reader of INIT may be about to make them. */
static void end_rings(struct fuse_device *device)
{
    struct fuse_rings *rings = atomic_load(&device->rings);
    if (rings != NULL)
        fuse_rings_end(rings);
}

void fuse_device_stop(struct fuse_device *device)
{
    if (device->notifier != NULL)
        end_notifier(device);
    atomic_store(&device->stopping, true);
    uint32_t round = 0;
    do {
        hurry(device, round++);
        end_rings(device);
    } while (!await_end(device));
    struct fuse_rings *rings = atomic_exchange(&device->rings, NULL);
    if (rings != NULL)
        fuse_rings_free(rings);
    for (uint32_t i = 0; i < device->count; i++) {
        struct fuse_reader *reader = &device->readers[i];
        if (device->pumped)
            epoch_remove_reader(&device->environment->session->epochs, &reader->epoch);
        else
            pthread_join(reader->thread, NULL);
        close(reader->fd);
        free(reader->arguments);
        fuse_device_give_buffer(device, reader->in);
        fuse_device_give_buffer(device, reader->out);
    }
    device->count = 0;
    device->environment->session->fuse_fd = -1;
    close(device->fd);
    device->fd = -1;
}

void fuse_device_free(struct fuse_device *device)
{
    if (device->notifier != NULL)
        fuse_notifier_free(device->notifier);
    while (device->idle_buffers != NULL)
        munmap(fuse_device_take_buffer(device), buffer_size(device));
    pthread_cond_destroy(&device->changed);
    pthread_mutex_destroy(&device->lock);
    free(device->readers);
    free(device);
}
