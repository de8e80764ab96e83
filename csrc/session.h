/* A FUSE session of one device: INIT, which file system answers what, and the end of it. */
#pragma once
#include "core.h"
#include "epoch.h"
#include "request.h"

struct mount_tree;

/* Mount numbers; the last is that of the directories which no file system provides (mount_tree.h). */
#define SESSION_MOUNTS 256
#define PSEUDO_MOUNT (SESSION_MOUNTS - 1)

struct vhostfs_rate_limit;

/* Most limits of one mount. */
#define FILESYSTEM_LIMITS 4

/* A native file system, embedded at the start of its own state. */
struct filesystem {
    operation *const
        *operations; /* FUSE_OPCODES of them; NULL answers ENOSYS. Called from several threads at once */
    /* A session begins with these negotiated INIT flags. A hostile guest may have requests under way even so.
     */
    void (*begin)(struct filesystem *filesystem, uint64_t flags);
    /* Take a detached request whose operation said that it would sleep; 0, or it stays the caller's. NULL: the
     * pool's threads run the operation again. */
    int (*submit)(struct filesystem *filesystem, struct request *request);
    /* Where there is submit. A copy of an unanswered request, whose chain is returned by other means. Dropped
     * where too many wait. */
    void (*submit_copy)(struct filesystem *filesystem, const struct request *request);
    /* A source of requests (request.h) is to be stopped: see to it that its blocking locks, or all its requests, are answered soon; */
    void (*cancel)(struct filesystem *filesystem, const void *source, bool all);
    /* later: answer what still is not. */
    void (*give_up)(struct filesystem *filesystem, const void *source);
    /* Give up descriptors that can be opened again. False: there are none. May be NULL. */
    bool (*relieve)(struct filesystem *filesystem);
    /* The session has ended: every node and handle is gone (retired: others may still be looking). Also called
     * where there is nothing to end. */
    void (*end)(struct filesystem *filesystem);
    /* Free all; no reader is left. */
    void (*destroy)(struct filesystem *filesystem);
    /* What is below is the session's, but that the file system counts what it retires, and what was released. */
    _Atomic uint64_t retiring;
    _Atomic uint32_t pins;   /* requests that use it outside of an epoch */
    bool ended;              /* removed, and ended once more when nobody used it any longer */
    struct filesystem *next; /* of those that were removed */
    struct epoch_retired retired;
    _Atomic(struct vhostfs_rate_limit *) limits[FILESYSTEM_LIMITS]; /* from the first on; set once */
};

struct session {
    struct epoch_domain epochs;
    struct vhostfs_session_options options;
    _Atomic uint64_t flags;   /* negotiated INIT flags */
    _Atomic uint32_t minor;   /* negotiated; 0 before INIT */
    pthread_mutex_t lock;     /* INIT, DESTROY and the end of a connection, one after the other */
    uint32_t beginning_minor; /* under lock: that of the session which begins */
    int fuse_fd;              /* the connection to this host's kernel; -1: requests come by rings */
    /* Read by queue threads inside an epoch; set under lock. */
    _Atomic(struct filesystem *) mounts[SESSION_MOUNTS];
    _Atomic uint32_t mounts_end;       /* mounts from this number on were never made; PSEUDO_MOUNT apart */
    _Atomic(struct mount_tree *) tree; /* NULL: one mount, at the root */
    _Atomic bool limited;              /* some mount has, or had, a limit */
    bool used[SESSION_MOUNTS];         /* under lock: numbers that nodeids of this session may have */
    struct filesystem *removed;        /* under lock: those that are freed with the session */
    void (*announce)(void *context, const char *text); /* VHOSTFS_EVENT_SESSION */
    void *announce_context;
};

void session_init(struct session *session, const struct vhostfs_session_options *options);
void session_destroy(struct session *session);
/* Owns the file system from then on. -EBUSY where the place is taken, -EINVAL where the number is too large.
 */
int session_mount(struct session *session, uint16_t mount, struct filesystem *filesystem);
/* A number that no mount had in the session that runs, or -ENOSPC. */
int session_free_mount(struct session *session);
/* Turn mounts into a tree: see mount_tree.h. -EBUSY: it is one. */
int session_plant(struct session *session);
/* Let a mount be found at a path. See vhostfs_device_attach. */
int session_attach(struct session *session, const char *path, uint16_t mount);
/* Take a mount away: its nodeids are stale from now on. It is freed when no request under way uses it any more;
 * one that is answered outside of the rings' threads (submit) with the session. -EBUSY: the root, or one that others
 * lie below; -ENOENT. */
int session_unmount(struct session *session, uint16_t mount);
/* End the session, if one runs: nodes and handles are dropped. The next request but INIT answers EIO. */
void session_end(struct session *session);
/* A source of requests is to be stopped: hurry what is under way outside the pool. See struct filesystem. */
void session_cancel(struct session *session, const void *source, bool all);
void session_give_up(struct session *session, const void *source);
/* session_limits.c: have a mount's requests keep to a limit, which is held from then on. See core.h. */
int session_limit(struct session *session, uint16_t mount, struct vhostfs_rate_limit *limit);
/* Nanoseconds for which a request that request_begin accepted has to wait, and is to be asked about again; 0: it
 * may go on, and was paid for. Inside an epoch; of interest only where `limited`. */
uint64_t session_delay(struct session *session, const struct request *request, uint64_t now);
void filesystem_drop_limits(struct filesystem *filesystem);
/* Answer a request that request_begin accepted: an operation's result, see request.h. */
int32_t session_dispatch(struct session *session, struct request *request);

/* The mount of a number, or NULL. Inside an epoch, or by who removes mounts. */
static inline struct filesystem *session_find(const struct session *session, uint16_t mount)
{
    return mount < SESSION_MOUNTS ? atomic_load_explicit(&session->mounts[mount], memory_order_acquire)
                                  : NULL;
}

/* Retire what belongs to a file system, which is not freed before. */
static inline void filesystem_retire(struct filesystem *filesystem, struct epoch_domain *epochs,
                                     struct epoch_retired *retired,
                                     bool (*release)(struct epoch_retired *retired))
{
    atomic_fetch_add_explicit(&filesystem->retiring, 1, memory_order_relaxed);
    epoch_retire(epochs, retired, release);
}

/* The last that the release function does. */
static inline void filesystem_released(struct filesystem *filesystem)
{
    atomic_fetch_sub_explicit(&filesystem->retiring, 1, memory_order_release);
}

static inline uint16_t nodeid_mount(uint64_t nodeid)
{
    return (uint16_t)(nodeid >> 48);
}

static inline uint64_t nodeid_index(uint64_t nodeid)
{
    return nodeid & ((1ULL << 48) - 1);
}

static inline uint64_t make_nodeid(uint16_t mount, uint64_t index)
{
    return (uint64_t)mount << 48 | index;
}
