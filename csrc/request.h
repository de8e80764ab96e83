/* One FUSE request: a cursor over what the guest sent, and the place for the reply.
 *
 * The header and the arguments are copied out of guest memory once, before anything looks at them; only file
 * data stays there and is handed to preadv2 and pwritev2 as vectors. A file system sees requests, never
 * descriptors.
 */
#pragma once
#include "fuse_wire.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct request;
struct session;
struct filesystem;
struct epoch_domain;
struct epoch_reader;
struct memory_table;

/* Most vectors a chain may have each way, after neighbours are merged; IOV_MAX, so that one preadv2 takes
 * them. */
#define CHAIN_VECTORS 1024

/* A descriptor chain, translated to host addresses. */
struct chain {
    uint32_t readable_count;
    uint32_t writable_count;
    size_t readable_size; /* bytes, all vectors */
    size_t writable_size;
    struct iovec *readable; /* CHAIN_VECTORS in a queue thread's own; exactly the counts when detached */
    struct iovec *writable;
    uint16_t head;  /* split: index of the first descriptor; packed: buffer id */
    uint16_t slots; /* packed: ring slots that the chain occupies */
};

/* Most bytes of header and arguments: SETXATTR's value of 64 KiB with its name, rounded up. */
#define REQUEST_ARGUMENTS_SIZE (72 * 1024)

/* An operation returns the size of the reply's payload, which it has stored by the reply_ functions; or a
 * negative errno; or one of these. */
#define REQUEST_WOULD_SLEEP INT32_MIN /* nothing was done yet: call again where request_may_sleep is true */
#define REQUEST_NO_REPLY (INT32_MIN + 1) /* FORGET and its like: the chain is returned empty */
#define REQUEST_NO_DESCRIPTORS                                                                               \
    (INT32_MIN +                                                                                             \
     2) /* EMFILE or ENFILE before anything was done: called again, once, if some can be given up */

typedef int32_t operation(struct request *request);

/* What an operation that says REQUEST_WOULD_SLEEP would have read into its reply, from the payload's start: the
 * kernel may do that by itself (uring.h) instead of a thread of the pool. */
struct request_transfer {
    int fd;         /* open until the request's epoch is left */
    uint32_t grain; /* of the operation's own, for `outcome` */
    size_t size;    /* bytes; 0: there is no such transfer */
    uint64_t offset;
    /* The request's result, of the bytes moved or a negative errno; REQUEST_WOULD_SLEEP: the pool is to run the
     * request from its start. Called outside epochs. */
    int32_t (*outcome)(struct request *request, int32_t moved);
};

#define REQUEST_PINS 5 /* four objects, and their file system */

/* What becomes of an answer in a tree of mounts (mount_tree.c). */
enum tree_step {
    TREE_NONE,
    TREE_ROOT_ENTRY, /* the attributes of a mount's root become the entry that was looked up */
    TREE_NOTE_ENTRY, /* the way to a mount leads through this directory */
    TREE_LISTING,    /* names that lead to mounts are to be looked up */
    TREE_STATX,      /* attributes become what STATX asked for */
};

struct request {
    struct fuse_in_header in; /* our copy */
    struct chain chain;
    const uint8_t *arguments; /* our copy of what follows the header, 8-byte aligned */
    size_t arguments_size;
    size_t arguments_position;
    size_t readable_position; /* where in the chain the bytes that were not copied (WRITE's data) begin */
    struct session *session;
    struct filesystem *filesystem;   /* set at dispatch */
    struct memory_table *memory;     /* the guest memory that the vectors point into */
    struct epoch_reader *reader;     /* of the thread that runs it */
    const _Atomic bool *cancelled;   /* its source is being stopped: a blocking lock gives up with EINTR */
    const _Atomic bool *interrupted; /* pool: likewise, by whoever waits for it; may be NULL */
    bool on_pool;                    /* runs on a thread that may sleep */
    bool inside_epoch;               /* pool: not yet left by request_may_sleep */
    bool log_writes;                 /* LOG_ALL: what is written is marked dirty */
    uint8_t tree_step;               /* enum tree_step, with the waypoint it is about */
    uint32_t used_length;            /* set by request_finish */
    uint64_t waypoint;
    uint32_t pins;
    _Atomic uint32_t *pinned[REQUEST_PINS];
    struct request_transfer transfer;
    void *source;         /* a ring (struct queue) or a reader of /dev/fuse (struct fuse_reader) */
    struct request *next; /* in the list of who has it */
    int32_t result;       /* an operation's, for `complete` */
    /* Take back detached requests that were answered, linked by next and of one source; frees them. */
    void (*complete)(struct request *requests);
};

/* Take a chain and copy its header and arguments into `buffer` (REQUEST_ARGUMENTS_SIZE + 40 bytes, 8-byte
 * aligned). 0; or -EIO for a header or length that cannot be right, in which case request_finish may still
 * answer. */
int request_begin(struct request *request, uint8_t *buffer);
/* Write the reply's header for an operation's result and set used_length: out.len where a reply fits, else 0.
 */
void request_finish(struct request *request, int32_t result);
/* Copy a request, with vectors and arguments, to the heap, for the pool. NULL: no memory. */
struct request *request_detach(const struct request *request);
/* Free what request_detach returned. */
void request_free(struct request *request);

/* ---- For operations: what was sent ---- */

/* The next `size` bytes of the arguments, or NULL where there are not so many. */
const void *request_argument(struct request *request, size_t size);
/* The next NUL-terminated string of the arguments, or NULL where no NUL follows. */
const char *request_string(struct request *request);
/* Bytes of arguments not yet taken. */
size_t request_left(const struct request *request);
/* Vectors over the next `size` bytes of uncopied data (WRITE). Count in `vector` (CHAIN_VECTORS), or -EIO:
 * too few. */
int request_data_vectors(const struct request *request, size_t size, struct iovec *vector);
/* The supplementary group of the caller that came as an extension (CREATE_SUPP_GROUP). False: none. */
bool request_supplementary_group(const struct request *request, uint32_t *group);

/* Make a request that did nothing yet fit to be called again, in a new epoch: what was retired before is
 * released. */
void request_again(struct request *request);

/* True on a pool thread, which from then on holds nodes and handles by their pins alone; false on a queue
 * thread: return REQUEST_WOULD_SLEEP. Nothing may be looked up in a table after it has said true. */
bool request_may_sleep(struct request *request);
/* Whether a request that sleeps until others act is to give up, with EINTR. */
static inline bool request_cancelled(const struct request *request)
{
    return atomic_load(request->cancelled) ||
           (request->interrupted != NULL && atomic_load(request->interrupted));
}
/* Keep an object beyond the epoch: counts `pins` up where the request runs on the pool, down again when it
 * ends. */
void request_pin(struct request *request, _Atomic uint32_t *pins);

/* ---- For operations: the reply ---- */

/* Bytes that fit behind the reply's header. */
size_t reply_room(const struct request *request);
/* Store `size` bytes as the payload, return size, or -EIO where they do not fit. */
int32_t reply_bytes(struct request *request, const void *payload, size_t size);
/* Store bytes at an offset into the payload. False: they do not fit. */
bool reply_at(struct request *request, size_t offset, const void *bytes, size_t size);
/* Read back what was stored; a guest may have changed it. False: beyond the room. */
bool reply_back(const struct request *request, size_t offset, void *bytes, size_t size);
/* Vectors over the first `size` bytes of payload room from `offset` on. Count in `vector` (CHAIN_VECTORS);
 * -EIO: no room. */
int reply_vectors(const struct request *request, size_t offset, size_t size, struct iovec *vector);
