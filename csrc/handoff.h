/* A mount whose requests are answered by Python: handed over in batches, answered one by one.
 *
 * A queue thread (or any other source of requests) submits detached requests; one thread, the event loop's,
 * takes them as records of core.h and answers them by token. A token names a slot and its generation, so an
 * answer that comes late or twice finds nothing. What the requests and the file system's life have to say
 * shares one order: a session's BEGIN comes before its requests, its END, or the next one's BEGIN, behind them.
 *
 * Who owns a request: the source until handoff's submit has returned 0; the slot until it is answered or given
 * up; then the source again, by `complete`, which frees it. Threads that move data between the guest's memory
 * and a file count as users of the slot: an answer waits for them, because the guest may use the memory
 * again as soon as it sees it.
 */
#pragma once
#include "core.h"
#include "session.h"
#include <pthread.h>

/* What waits to be taken, or has been taken and waits for its answer; or a note, which is gone once taken. */
struct handoff_slot {
    struct request *request;   /* NULL: a note, or given up */
    struct memory_table *kept; /* given up: the memory that Python may still have views of */
    uint64_t value;            /* a note's */
    uint64_t extra;
    uint32_t generation; /* of the token; counts up when the slot is free again */
    uint32_t next;       /* in the list of those that wait, or of the free ones */
    uint32_t users;
    int32_t result; /* answered, and waiting for the users to be done */
    uint16_t kind;  /* enum vhostfs_handoff_kind */
    bool taken;
    bool answered;
    bool cancelled;
};

struct vhostfs_handoff {
    struct filesystem filesystem;
    operation *operations[FUSE_OPCODES];
    struct session *session;
    uint16_t mount;
    int wake_fd;
    pthread_mutex_t lock; /* of all below */
    struct handoff_slot *slots;
    uint32_t slot_count;
    uint32_t first_free;
    uint32_t oldest;
    uint32_t newest;
    uint32_t copies;          /* of unanswered requests that wait, beside those of rings */
    bool woken;               /* the eventfd was written to since the list was last found empty */
    bool attended;            /* somebody will take in a moment: nobody needs to be woken */
    uint32_t writes;          /* to the eventfd, that are to come or were not read yet */
    bool closed;              /* nobody takes any more: everything is answered EIO */
    struct request *returned; /* answered, not yet flushed; linked by next, the newest first */
};

/* A loop that reads its requests by itself: what is submitted until it takes, soon, needs no waking. Whether something
 * waits already. */
bool handoff_attend(struct vhostfs_handoff *handoff);
/* As vhostfs_handoff_take; what it leaves wakes again. */
int64_t handoff_take_attended(struct vhostfs_handoff *handoff, uint8_t *buffer, size_t size, uint32_t most);

/* A mount for these operations (bit n: opcode n); others are answered ENOSYS. 0 or a negative errno. */
int handoff_create(struct session *session, uint16_t mount, uint64_t opcodes,
                   struct vhostfs_handoff **handoff);
