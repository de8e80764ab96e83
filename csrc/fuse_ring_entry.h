/* An entry of a ring to /dev/fuse: the place of one request and its answer, which the kernel fills and reads.
 *
 * It begins with the headers (struct fuse_uring_req_header), behind which is what we keep of it. The payload lies in a buffer,
 * from a page's start on, so that data can go to a file that is open with O_DIRECT. A request's payload and its answer's are
 * in one place: an operation stores no answer before it is done with a WRITE's data, and all else that comes as payload is
 * copied before.
 */
#pragma once
#include "fuse_wire.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#define FUSE_RING_VECTORS 3U /* header, first argument, payload */

/* Who has the request of an entry, as far as an interrupt of it wants to know. */
enum fuse_ring_holder {
    FUSE_RING_KERNEL = 0,  /* nobody, or it has not been seen yet */
    FUSE_RING_THREAD = 1,  /* the ring's thread */
    FUSE_RING_LEAVING = 2, /* it is about to be given to the pool or to Python */
    FUSE_RING_AWAY = 3,    /* it was */
};

struct fuse_ring_entry {
    struct fuse_uring_req_header header;
    struct fuse_ring_entry *next;     /* all of a ring's */
    struct fuse_ring_entry *answered; /* in the list of those to commit */
    struct iovec vectors[2];          /* as registered */
    uint16_t queue;                   /* the processor whose requests it takes */
    _Atomic uint8_t holder;           /* enum fuse_ring_holder */
    _Atomic uint64_t done;            /* the last request that was answered */
};

/* A new entry, with `capacity` bytes for a payload. */
void fuse_ring_entry_init(struct fuse_ring_entry *entry, uint8_t *payload, size_t capacity, uint16_t queue);
/* The request that the kernel has put into it, as vectors. Its size; or -EIO for one that cannot be right. */
ssize_t fuse_ring_entry_request(struct fuse_ring_entry *entry, struct iovec vectors[FUSE_RING_VECTORS]);
/* Its answer's place, with room for so many bytes of payload. */
void fuse_ring_entry_reply(struct fuse_ring_entry *entry, size_t room, struct iovec vectors[2]);
/* An answer was stored, with so many bytes of header and payload; 0: there is none to give, and nobody waits for it. */
void fuse_ring_entry_answered(struct fuse_ring_entry *entry, uint32_t size);
/* Instead: answer with a negative errno what could not be made out. */
void fuse_ring_entry_refuse(struct fuse_ring_entry *entry, int32_t error);
/* The number of the request that it holds, or held last. From any thread. */
uint64_t fuse_ring_entry_unique(const struct fuse_ring_entry *entry);
