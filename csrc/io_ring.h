/* The plumbing of an io_uring: two rings that are mapped, and three system calls. By bare system calls: of what liburing
 * has, this would be the smaller part. What goes by a ring is its owner's: uring.h, fuse_uring.h.
 *
 * A ring belongs to the thread that makes it, and what the kernel has to finish there it finishes when that thread enters
 * it (IORING_SETUP_DEFER_TASKRUN). Barriers are those of io_uring(7): a release of the tail or head that is ours pairs
 * with the kernel's acquire, and an acquire of the kernel's with its release.
 */
#pragma once
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct io_ring {
    int fd;
    uint32_t count;      /* of submission entries */
    uint32_t entry_size; /* bytes of one */
    uint32_t staged;     /* written, and not submitted */
    void *rings;         /* mapped, as `entries` */
    size_t rings_size;
    uint8_t *entries;
    _Atomic uint32_t *submit_tail; /* the kernel's memory */
    const _Atomic uint32_t *submit_flags;
    _Atomic uint32_t *done_head;
    const _Atomic uint32_t *done_tail;
    const struct io_uring_cqe *done;
    uint32_t done_mask;
};

/* Make a ring of the calling thread's with `count` submission entries, a power of two, and room for `done_count`
 * completions; `large`: entries of 128 bytes. 0 or a negative errno: the host has no io_uring, forbids it, or has one
 * older than Linux 6.1. */
int io_ring_create(struct io_ring *ring, uint32_t count, uint32_t done_count, bool large);
/* What is under way is cancelled by the kernel, in a while. */
void io_ring_destroy(struct io_ring *ring);
/* The kernel's own: submit so many entries, and sleep until there are `await` completions. Entries taken, or a negative
 * errno. */
int io_ring_enter(const struct io_ring *ring, uint32_t submit, uint32_t await);

/* Entry number `number` of those ever staged. */
static inline struct io_uring_sqe *io_ring_entry(const struct io_ring *ring, uint32_t number)
{
    return (struct io_uring_sqe *)(void *)(ring->entries +
                                           (size_t)(number & (ring->count - 1)) * ring->entry_size);
}

/* The next free entry, empty. All entries are free that are not staged: the kernel has read the others. */
struct io_uring_sqe *io_ring_next_entry(const struct io_ring *ring);
/* What io_ring_next_entry gave is written. */
void io_ring_stage(struct io_ring *ring);

static inline bool io_ring_has_done(const struct io_ring *ring)
{
    return atomic_load_explicit(ring->done_tail, memory_order_acquire) !=
           atomic_load_explicit(ring->done_head, memory_order_relaxed);
}

/* The kernel waits for us to come and finish something. */
static inline bool io_ring_has_work(const struct io_ring *ring)
{
    return (atomic_load_explicit(ring->submit_flags, memory_order_relaxed) & IORING_SQ_TASKRUN) != 0;
}

/* Take the oldest completion; there is one. The `user_data` of its entry, and what came of that. */
static inline uint64_t io_ring_take(const struct io_ring *ring, int32_t *result)
{
    uint32_t head = atomic_load_explicit(ring->done_head, memory_order_relaxed);
    const struct io_uring_cqe *taken = &ring->done[head & ring->done_mask];
    uint64_t user_data = taken->user_data;
    *result = taken->res;
    atomic_store_explicit(ring->done_head, head + 1, memory_order_release);
    return user_data;
}
