/* The functions of core.h. They belong to one control thread; who else may touch what is said in queue.h. */
#define _GNU_SOURCE 1
#include "device.h"
#include "handoff.h"
#include "passthrough.h"
#include "sigbus.h"
#include "threads.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Rings beyond this make no sense to anybody; the index of vhost-user messages has eight bits for some. */
#define QUEUES_MAX 65535

/* A notification's structure, a name and its NUL, or data. */
#define NOTIFY_SEGMENTS 16

int vhostfs_core_initialise(void)
{
    int error = sigbus_install();
    return error != 0 ? error : threads_install_cancel();
}

static void announce_session(void *context, const char *text)
{
    struct vhostfs_device *device = context;
    events_push(&device->events, VHOSTFS_EVENT_SESSION, -1, 0, text);
}

int vhostfs_device_create(const struct vhostfs_device_options *options,
                          const struct vhostfs_session_options *session, vhostfs_device **device)
{
    if (options->queues < 2 || options->queues > QUEUES_MAX || options->pool_threads < 1)
        return -EINVAL;
    int error = vhostfs_core_initialise();
    if (error != 0)
        return error;
    struct vhostfs_device *made =
        aligned_alloc(alignof(struct vhostfs_device), sizeof(struct vhostfs_device));
    if (made == NULL)
        return -ENOMEM;
    *made = (struct vhostfs_device){.options = *options, .proc_self_fd = -1};
    made->queues = calloc(options->queues, sizeof(struct queue *));
    made->memory = memory_table_create(&made->log);
    error = made->queues != NULL && made->memory != NULL ? events_init(&made->events) : -ENOMEM;
    if (error != 0)
        goto fail;
    dirty_log_init(&made->log);
    session_init(&made->session, session);
    made->session.announce = announce_session;
    made->session.announce_context = made;
    pool_init(&made->pool, &made->session, options->pool_threads);
    made->environment = (struct queue_environment){
        .session = &made->session,
        .pool = &made->pool,
        .events = &made->events,
        .log = &made->log,
        .poll_nanoseconds = options->poll_nanoseconds,
        .io_uring = options->io_uring != 0,
        .proc_self_fd = -1,
    };
    *device = made;
    return 0;
fail:
    memory_table_put(made->memory);
    free(made->queues);
    free(made);
    return error;
}

/* End the threads of all rings, at the same time. */
static void end_queues(struct vhostfs_device *device)
{
    for (uint32_t i = 0; i < device->options.queues; i++) {
        if (device->queues[i] != NULL)
            queue_begin_end(device->queues[i]);
    }
    for (uint32_t i = 0; i < device->options.queues; i++) {
        if (device->queues[i] != NULL)
            queue_end(device->queues[i]);
    }
}

void vhostfs_device_disconnect(vhostfs_device *device)
{
    vhostfs_device_detach_fuse(device);
    end_queues(device);
    for (uint32_t i = 0; i < device->options.queues; i++) {
        if (device->queues[i] != NULL)
            queue_destroy(device->queues[i]);
        device->queues[i] = NULL;
    }
    session_end(&device->session);
    epoch_reclaim(&device->session.epochs);
    vhostfs_memory_replace(device, NULL, 0);
    dirty_log_set(&device->log, -1, 0, 0);
    atomic_store(&device->log.log_writes, false);
    atomic_store(&device->environment.memory_gone, false);
    device->features = 0;
    device->has_features = false;
}

void vhostfs_device_destroy(vhostfs_device *device)
{
    vhostfs_device_disconnect(device);
    pool_destroy(&device->pool);
    session_destroy(&device->session);
    if (device->fuse != NULL)
        fuse_device_free(device->fuse);
    memory_table_put(device->memory);
    dirty_log_destroy(&device->log);
    events_destroy(&device->events);
    if (device->proc_self_fd >= 0)
        close(device->proc_self_fd);
    free(device->queues);
    free(device);
}

void vhostfs_device_reset(vhostfs_device *device)
{
    end_queues(device);
    for (uint32_t i = 0; i < device->options.queues; i++) {
        if (device->queues[i] == NULL)
            continue;
        queue_finish(device->queues[i]);
        queue_set_enabled(device->queues[i], false);
        queue_set_base(device->queues[i], 0);
    }
    session_end(&device->session);
    epoch_reclaim(&device->session.epochs);
}

int vhostfs_device_set_features(vhostfs_device *device, uint64_t features)
{
    device->features = features;
    device->has_features = true;
    atomic_store_explicit(&device->log.log_writes, (features & VIRTIO_FEATURE_LOG_ALL) != 0,
                          memory_order_release);
    int error = 0;
    for (uint32_t i = 0; i < device->options.queues; i++) {
        int failed = device->queues[i] != NULL ? queue_set_features(device->queues[i], features) : 0;
        if (error == 0)
            error = failed;
    }
    return error;
}

int vhostfs_device_event_fd(const vhostfs_device *device)
{
    return device->events.fd;
}

void vhostfs_device_next_event(vhostfs_device *device, struct vhostfs_event *event)
{
    events_take(&device->events, event);
}

/* ---- Memory ---- */

/* Takes over the caller's reference. */
static int publish_memory(struct vhostfs_device *device, int error, struct memory_table *table)
{
    if (error != 0)
        return error;
    struct memory_table *old = device->memory;
    device->memory = table;
    for (uint32_t i = 0; i < device->options.queues; i++) {
        if (device->queues[i] != NULL)
            queue_set_memory(device->queues[i], table);
    }
    memory_table_put(old);
    return 0;
}

int vhostfs_memory_add(vhostfs_device *device, const struct vhostfs_region *region)
{
    struct memory_table *table = NULL;
    int error = memory_table_add(device->memory, region, &table);
    return publish_memory(device, error, table);
}

int vhostfs_memory_remove(vhostfs_device *device, const struct vhostfs_region *region)
{
    struct memory_table *table = NULL;
    int error = memory_table_remove(device->memory, region, &table);
    return publish_memory(device, error, table);
}

int vhostfs_memory_replace(vhostfs_device *device, const struct vhostfs_region *regions, uint32_t count)
{
    struct memory_table *table = NULL;
    int error = memory_table_replace(device->memory, regions, count, &table);
    return publish_memory(device, error, table);
}

int vhostfs_memory_log(vhostfs_device *device, int fd, uint64_t size, uint64_t offset)
{
    return dirty_log_set(&device->log, fd, size, offset);
}

/* ---- Rings ---- */

/* The queue of an index, made when it is first spoken of. */
static int find_queue(struct vhostfs_device *device, uint32_t index, struct queue **queue)
{
    if (index >= device->options.queues)
        return -EINVAL;
    if (device->queues[index] == NULL) {
        int error = queue_create(&device->environment, index, &device->queues[index]);
        if (error != 0)
            return error;
        queue_set_memory(device->queues[index], device->memory);
        if (device->has_features)
            queue_set_features(device->queues[index], device->features);
    }
    *queue = device->queues[index];
    return 0;
}

int vhostfs_queue_set_size(vhostfs_device *device, uint32_t index, uint32_t size)
{
    struct queue *queue = NULL;
    int error = find_queue(device, index, &queue);
    return error != 0 ? error : queue_set_size(queue, size);
}

int vhostfs_queue_set_addresses(vhostfs_device *device, uint32_t index, uint32_t flags, uint64_t descriptors,
                                uint64_t used, uint64_t available, uint64_t log)
{
    struct queue *queue = NULL;
    int error = find_queue(device, index, &queue);
    return error != 0 ? error : queue_set_addresses(queue, flags, descriptors, used, available, log);
}

int vhostfs_queue_set_base(vhostfs_device *device, uint32_t index, uint32_t base)
{
    struct queue *queue = NULL;
    int error = find_queue(device, index, &queue);
    return error != 0 ? error : queue_set_base(queue, base);
}

/* Hand a descriptor over, or close it where there is no queue for it. */
static int hand_descriptor(struct vhostfs_device *device, uint32_t index, int fd,
                           int (*setter)(struct queue *queue, int fd))
{
    struct queue *queue = NULL;
    int error = find_queue(device, index, &queue);
    if (error == 0)
        return setter(queue, fd);
    if (fd >= 0)
        close(fd);
    return error;
}

int vhostfs_queue_set_kick(vhostfs_device *device, uint32_t index, int fd)
{
    return hand_descriptor(device, index, fd, queue_set_kick);
}

int vhostfs_queue_set_call(vhostfs_device *device, uint32_t index, int fd)
{
    return hand_descriptor(device, index, fd, queue_set_call);
}

int vhostfs_queue_set_error(vhostfs_device *device, uint32_t index, int fd)
{
    return hand_descriptor(device, index, fd, queue_set_error);
}

int vhostfs_queue_set_enabled(vhostfs_device *device, uint32_t index, int enabled)
{
    struct queue *queue = NULL;
    int error = find_queue(device, index, &queue);
    return error != 0 ? error : queue_set_enabled(queue, enabled != 0);
}

int vhostfs_queue_stop(vhostfs_device *device, uint32_t index, uint32_t *base)
{
    struct queue *queue = NULL;
    int error = find_queue(device, index, &queue);
    if (error != 0)
        return error;
    queue_end(queue);
    *base = queue_finish(queue);
    return 0;
}

/* ---- /dev/fuse ---- */

int vhostfs_device_attach_fuse(vhostfs_device *device, int fd, uint32_t threads)
{
    if (threads > FUSE_READERS_MAX)
        return -EINVAL;
    if (device->fuse != NULL)
        return -EBUSY;
    const struct vhostfs_session_options *options = &device->session.options;
    size_t capacity = (size_t)options->max_pages * 4096;
    if (capacity < options->max_write)
        capacity = options->max_write;
    if (capacity < REQUEST_ARGUMENTS_SIZE)
        capacity = REQUEST_ARGUMENTS_SIZE;
    int error = fuse_device_start(&device->environment, device->memory, fd, threads, capacity, &device->fuse);
    device->fuse_attached = error == 0;
    return error;
}

int vhostfs_device_fuse_fd(const vhostfs_device *device)
{
    return device->fuse_attached && device->fuse->pumped ? device->fuse->readers[0].fd : -1;
}

int64_t vhostfs_handoff_pump(vhostfs_handoff *handoff, vhostfs_device *device, uint8_t *buffer, size_t size,
                             uint32_t most, int epoll_fd, int milliseconds)
{
    vhostfs_handoff_flush(handoff);
    bool waits = handoff_attend(handoff);
    int served = fuse_device_pump(device->fuse, most, epoll_fd, waits ? 0 : milliseconds);
    int64_t used = handoff_take_attended(handoff, buffer, size, most);
    return used == 0 && served < 0 ? served : used;
}

void vhostfs_device_detach_fuse(vhostfs_device *device)
{
    if (!device->fuse_attached)
        return;
    device->fuse_attached = false;
    fuse_device_stop(device->fuse);
    session_end(&device->session);
    epoch_reclaim(&device->session.epochs);
}

int vhostfs_device_notify(vhostfs_device *device, int32_t code, const struct vhostfs_segment *payload,
                          uint32_t count)
{
    struct iovec vector[NOTIFY_SEGMENTS];
    if (device->fuse == NULL)
        return -ENOSYS;
    if (count > NOTIFY_SEGMENTS)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++)
        vector[i] = (struct iovec){.iov_base = payload[i].start, .iov_len = payload[i].size};
    return fuse_notifier_post(device->fuse->notifier, code, vector, count);
}

/* ---- Mounts ---- */

/* Keep the first for the threads that are started from now on. */
static int keep_proc_self_fd(struct vhostfs_device *device, int proc_self_fd)
{
    if (device->proc_self_fd >= 0)
        return 0;
    for (uint32_t i = 0; i < device->options.queues; i++) {
        if (device->queues[i] != NULL && device->queues[i]->has_thread)
            return -EBUSY;
    }
    device->proc_self_fd = fcntl(proc_self_fd, F_DUPFD_CLOEXEC, 3);
    if (device->proc_self_fd < 0)
        return -errno;
    device->environment.proc_self_fd = device->proc_self_fd;
    device->pool.proc_self_fd = device->proc_self_fd;
    return 0;
}

int vhostfs_device_plant(vhostfs_device *device, int proc_self_fd)
{
    int error = proc_self_fd >= 0 ? keep_proc_self_fd(device, proc_self_fd) : 0;
    return error != 0 ? error : session_plant(&device->session);
}

int vhostfs_device_free_mount(vhostfs_device *device)
{
    return session_free_mount(&device->session);
}

int vhostfs_device_attach(vhostfs_device *device, const char *path, uint16_t mount)
{
    return session_attach(&device->session, path, mount);
}

int vhostfs_device_unmount(vhostfs_device *device, uint16_t mount)
{
    return session_unmount(&device->session, mount);
}

int vhostfs_device_mount_handoff(vhostfs_device *device, uint16_t mount, uint64_t opcodes,
                                 vhostfs_handoff **handoff)
{
    vhostfs_handoff *made = NULL;
    int error = handoff_create(&device->session, mount, opcodes, &made);
    if (error != 0)
        return error;
    error = session_mount(&device->session, mount, &made->filesystem);
    if (error != 0)
        made->filesystem.destroy(&made->filesystem);
    else
        *handoff = made;
    return error;
}

int vhostfs_device_limit_mount(vhostfs_device *device, uint16_t mount, vhostfs_rate_limit *limit)
{
    return session_limit(&device->session, mount, limit);
}

int vhostfs_device_mount_passthrough(vhostfs_device *device, uint16_t mount,
                                     const struct vhostfs_passthrough_options *options)
{
    struct filesystem *filesystem = NULL;
    int error = keep_proc_self_fd(device, options->proc_self_fd);
    if (error == 0)
        error = passthrough_create(options, &device->session, mount, &filesystem);
    if (error != 0)
        return error;
    error = session_mount(&device->session, mount, filesystem);
    if (error != 0)
        filesystem->destroy(filesystem);
    return error;
}
