/* A FUSE session of one device: INIT, which file system answers what, and the end of it. */
#pragma once
#include "core.h"
#include "epoch.h"
#include "request.h"

#define SESSION_MOUNTS 64

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
    /* A ring is to be stopped: see to it that its blocking locks, or all its requests,
     * are answered soon; */
    void (*cancel)(struct filesystem *filesystem, const struct queue *queue, bool all);
    /* later: answer what still is not. */
    void (*give_up)(struct filesystem *filesystem, const struct queue *queue);
    /* Give up descriptors that can be opened again. False: there are none. May be NULL. */
    bool (*relieve)(struct filesystem *filesystem);
    /* The session has ended: every node and handle is gone (retired: others may still be looking). Also called
     * where there is nothing to end. */
    void (*end)(struct filesystem *filesystem);
    /* Free all; no reader is left. */
    void (*destroy)(struct filesystem *filesystem);
};

struct session {
    struct epoch_domain epochs;
    struct vhostfs_session_options options;
    _Atomic uint64_t flags;   /* negotiated INIT flags */
    _Atomic uint32_t minor;   /* negotiated; 0 before INIT */
    pthread_mutex_t lock;     /* INIT, DESTROY and the end of a connection, one after the other */
    uint32_t beginning_minor; /* under lock: that of the session which begins */
    struct filesystem *mounts[SESSION_MOUNTS];
    void (*announce)(void *context, const char *text); /* VHOSTFS_EVENT_SESSION */
    void *announce_context;
};

void session_init(struct session *session, const struct vhostfs_session_options *options);
void session_destroy(struct session *session);
/* Owns the file system from then on. -EBUSY where the place is taken, -EINVAL where the number is too large.
 */
int session_mount(struct session *session, uint16_t mount, struct filesystem *filesystem);
/* End the session, if one runs: nodes and handles are dropped. The next request but INIT answers EIO. */
void session_end(struct session *session);
/* A ring is to be stopped: hurry what is under way outside the pool. See struct filesystem. */
void session_cancel(struct session *session, const struct queue *queue, bool all);
void session_give_up(struct session *session, const struct queue *queue);
/* Answer a request that request_begin accepted: an operation's result, see request.h. */
int32_t session_dispatch(struct session *session, struct request *request);

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
