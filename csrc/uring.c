/* Rings of io_uring; the contract is in uring.h. By bare system calls: of what liburing has, this would be the
 * smaller part. Barriers are those of io_uring(7): a release of the tail or head that is ours pairs with the
 * kernel's acquire, and an acquire of the kernel's with its release. */
#define _GNU_SOURCE 1
#include "uring.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STAGED_MOST 64U /* as many requests as a queue thread takes between two submissions */
/* Vectors of what is staged; a request may have CHAIN_VECTORS. */
#define VECTORS_MOST (4 * CHAIN_VECTORS)

struct uring {
    int fd;
    uint32_t staged;
    uint32_t in_flight;
    void *rings; /* mapped, as `entries` */
    size_t rings_size;
    struct io_uring_sqe *entries;
    _Atomic uint32_t *submit_tail; /* the kernel's memory */
    const _Atomic uint32_t *submit_flags;
    _Atomic uint32_t *done_head;
    const _Atomic uint32_t *done_tail;
    const struct io_uring_cqe *done;
    uint32_t done_mask;
    uint32_t vectors_used;
    struct iovec vectors[VECTORS_MOST];
};

static int enter(const struct uring *ring, uint32_t submit, uint32_t await)
{
    long result = syscall(SYS_io_uring_enter, ring->fd, submit, await, IORING_ENTER_GETEVENTS, NULL, 0);
    return result >= 0 ? (int)result : -errno;
}

static bool map_rings(struct uring *ring, const struct io_uring_params *at)
{
    size_t submit = at->sq_off.array + STAGED_MOST * sizeof(uint32_t);
    size_t done = at->cq_off.cqes + at->cq_entries * sizeof(struct io_uring_cqe);
    ring->rings_size = submit > done ? submit : done;
    ring->rings = mmap(NULL, ring->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd,
                       (off_t)IORING_OFF_SQ_RING);
    if (ring->rings == MAP_FAILED)
        return false;
    void *entries = mmap(NULL, STAGED_MOST * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
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
    for (uint32_t i = 0; i < STAGED_MOST; i++)
        order[i] = i;
    return true;
}

struct uring *uring_create(int wake_fd)
{
    struct uring *ring = calloc(1, sizeof(*ring));
    if (ring == NULL)
        return NULL;
    struct io_uring_params parameters = {
        .flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL |
                 IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        .cq_entries = 2 * URING_IN_FLIGHT,
    };
    ring->fd = (int)syscall(SYS_io_uring_setup, STAGED_MOST, &parameters);
    if (ring->fd < 0)
        goto no_ring;
    if (!map_rings(ring, &parameters))
        goto no_memory;
    if (syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_EVENTFD, &wake_fd, 1) == 0)
        return ring;
    munmap(ring->entries, STAGED_MOST * sizeof(struct io_uring_sqe));
    munmap(ring->rings, ring->rings_size);
no_memory:
    close(ring->fd);
no_ring:
    free(ring);
    return NULL;
}

void uring_destroy(struct uring *ring)
{
    if (ring == NULL)
        return;
    munmap(ring->entries, STAGED_MOST * sizeof(struct io_uring_sqe));
    munmap(ring->rings, ring->rings_size);
    close(ring->fd);
    free(ring);
}

/* The next free entry, empty. All entries are free that are not staged: the kernel has read the others. */
static struct io_uring_sqe *next_entry(struct uring *ring)
{
    uint32_t tail = atomic_load_explicit(ring->submit_tail, memory_order_relaxed);
    struct io_uring_sqe *entry = &ring->entries[tail % STAGED_MOST];
    memset(entry, 0, sizeof(*entry));
    return entry;
}

static void stage_entry(struct uring *ring)
{
    uint32_t tail = atomic_load_explicit(ring->submit_tail, memory_order_relaxed);
    atomic_store_explicit(ring->submit_tail, tail + 1, memory_order_release);
    ring->staged++;
}

bool uring_stage(struct uring *ring, struct request *request)
{
    if (ring->staged == STAGED_MOST || ring->in_flight + ring->staged >= URING_IN_FLIGHT ||
        ring->vectors_used + CHAIN_VECTORS > VECTORS_MOST)
        return false;
    struct iovec *vector = &ring->vectors[ring->vectors_used];
    int count = reply_vectors(request, 0, request->transfer.size, vector);
    if (count < 0)
        return false;
    ring->vectors_used += (uint32_t)count;
    struct io_uring_sqe *entry = next_entry(ring);
    entry->opcode = IORING_OP_READV;
    entry->fd = request->transfer.fd;
    entry->addr = (uintptr_t)vector;
    entry->len = (uint32_t)count;
    entry->off = request->transfer.offset;
    entry->user_data = (uintptr_t)request;
    stage_entry(ring);
    return true;
}

bool uring_has_staged(const struct uring *ring)
{
    return ring->staged > 0;
}

/* Take back what is staged, the newest first, which leaves the oldest first in the list. */
static struct request *take_back(struct uring *ring)
{
    struct request *list = NULL;
    uint32_t tail = atomic_load_explicit(ring->submit_tail, memory_order_relaxed);
    for (; ring->staged > 0; ring->staged--) {
        tail--;
        struct request *request = (struct request *)(uintptr_t)ring->entries[tail % STAGED_MOST].user_data;
        if (request == NULL)
            continue; /* a cancellation */
        request->next = list;
        list = request;
    }
    atomic_store_explicit(ring->submit_tail, tail, memory_order_release);
    return list;
}

struct request *uring_submit(struct uring *ring)
{
    struct request *refused = NULL;
    while (ring->staged > 0 && refused == NULL) {
        int taken = enter(ring, ring->staged, 0);
        if (taken == -EINTR)
            continue;
        if (taken <= 0) {
            refused = take_back(ring);
            break;
        }
        ring->staged -= (uint32_t)taken;
        ring->in_flight += (uint32_t)taken;
    }
    ring->vectors_used = 0;
    return refused;
}

static bool has_entries(const struct uring *ring)
{
    return atomic_load_explicit(ring->done_tail, memory_order_acquire) !=
           atomic_load_explicit(ring->done_head, memory_order_relaxed);
}

/* The kernel waits for us to come and finish something. */
static bool has_work(const struct uring *ring)
{
    return (atomic_load_explicit(ring->submit_flags, memory_order_relaxed) & IORING_SQ_TASKRUN) != 0;
}

bool uring_has_done(const struct uring *ring)
{
    return has_entries(ring) || has_work(ring);
}

struct request *uring_next(struct uring *ring, int32_t *moved)
{
    /* Linux does some of the work each time, and not all work ends a transfer; what is left wakes nobody. */
    while (!has_entries(ring) && has_work(ring)) {
        int error = enter(ring, 0, 0);
        if (error < 0 && error != -EINTR)
            break;
    }
    while (has_entries(ring)) {
        uint32_t head = atomic_load_explicit(ring->done_head, memory_order_relaxed);
        const struct io_uring_cqe *entry = &ring->done[head & ring->done_mask];
        struct request *request = (struct request *)(uintptr_t)entry->user_data;
        *moved = entry->res;
        atomic_store_explicit(ring->done_head, head + 1, memory_order_release);
        ring->in_flight--;
        if (request != NULL)
            return request;
    }
    return NULL;
}

bool uring_is_busy(const struct uring *ring)
{
    return ring->in_flight > 0;
}

bool uring_wait(struct uring *ring)
{
    return enter(ring, 0, 1) != -EINTR;
}

void uring_cancel(struct uring *ring)
{
    struct io_uring_sqe *entry = next_entry(ring);
    entry->opcode = IORING_OP_ASYNC_CANCEL;
    entry->fd = -1;
    entry->cancel_flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL;
    stage_entry(ring);
    (void)uring_submit(ring);
}
