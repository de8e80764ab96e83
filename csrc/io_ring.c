/* An io_uring's rings; the contract is in io_ring.h. */
#define _GNU_SOURCE 1
#include "io_ring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int io_ring_enter(const struct io_ring *ring, uint32_t submit, uint32_t await)
{
    long result = syscall(SYS_io_uring_enter, ring->fd, submit, await, IORING_ENTER_GETEVENTS, NULL, 0);
    return result >= 0 ? (int)result : -errno;
}

static bool map_rings(struct io_ring *ring, const struct io_uring_params *at)
{
    size_t submit = at->sq_off.array + ring->count * sizeof(uint32_t);
    size_t done = at->cq_off.cqes + at->cq_entries * sizeof(struct io_uring_cqe);
    ring->rings_size = submit > done ? submit : done;
    ring->rings = mmap(NULL, ring->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd,
                       (off_t)IORING_OFF_SQ_RING);
    if (ring->rings == MAP_FAILED)
        return false;
    void *entries = mmap(NULL, (size_t)ring->count * ring->entry_size, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_POPULATE, ring->fd, (off_t)IORING_OFF_SQES);
    if (entries == MAP_FAILED) {
        munmap(ring->rings, ring->rings_size);
        return false;
    }
    uint8_t *base = ring->rings;
    ring->entries = entries;
    ring->submit_tail = (_Atomic uint32_t *)(void *)(base + at->sq_off.tail);
    ring->submit_flags = (const _Atomic uint32_t *)(void *)(base + at->sq_off.flags);
    ring->done_head = (_Atomic uint32_t *)(void *)(base + at->cq_off.head);
    ring->done_tail = (const _Atomic uint32_t *)(void *)(base + at->cq_off.tail);
    ring->done = (const struct io_uring_cqe *)(void *)(base + at->cq_off.cqes);
    ring->done_mask = at->cq_entries - 1;
    /* The array of indices lets entries be submitted out of order: ours never are. */
    uint32_t *order = (uint32_t *)(void *)(base + at->sq_off.array);
    for (uint32_t i = 0; i < ring->count; i++)
        order[i] = i;
    return true;
}

int io_ring_create(struct io_ring *ring, uint32_t count, uint32_t done_count, bool large)
{
    struct io_uring_params parameters = {
        .flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL |
                 IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
                 (large ? IORING_SETUP_SQE128 : 0),
        .cq_entries = done_count,
    };
    *ring = (struct io_ring){.count = count, .entry_size = large ? 128 : 64};
    ring->fd = (int)syscall(SYS_io_uring_setup, count, &parameters);
    if (ring->fd < 0)
        return -errno;
    if (map_rings(ring, &parameters))
        return 0;
    close(ring->fd);
    return -ENOMEM;
}

void io_ring_destroy(struct io_ring *ring)
{
    munmap(ring->entries, (size_t)ring->count * ring->entry_size);
    munmap(ring->rings, ring->rings_size);
    close(ring->fd);
}

struct io_uring_sqe *io_ring_next_entry(const struct io_ring *ring)
{
    uint32_t tail = atomic_load_explicit(ring->submit_tail, memory_order_relaxed);
    struct io_uring_sqe *entry = io_ring_entry(ring, tail);
    memset(entry, 0, ring->entry_size);
    return entry;
}

void io_ring_stage(struct io_ring *ring)
{
    uint32_t tail = atomic_load_explicit(ring->submit_tail, memory_order_relaxed);
    atomic_store_explicit(ring->submit_tail, tail + 1, memory_order_release);
    ring->staged++;
}
