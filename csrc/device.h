/* A device: the functions of core.h, over its memory, its rings, its pool and one FUSE session. */
#pragma once
#include "core.h"
#include "dirty_log.h"
#include "events.h"
#include "fuse_device.h"
#include "memory.h"
#include "pool.h"
#include "queue.h"
#include "session.h"

struct vhostfs_device {
    struct vhostfs_device_options options;
    struct session session;
    struct events events;
    struct pool pool;
    struct dirty_log log;
    struct queue_environment environment;
    struct memory_table *memory; /* the newest; the control thread's */
    struct queue **queues;       /* options.queues of them; NULL until first set */
    uint64_t features;
    bool has_features;
    int proc_self_fd;         /* -1 before a passthrough mount */
    struct fuse_device *fuse; /* NULL before vhostfs_device_attach_fuse */
    bool fuse_attached;
};
