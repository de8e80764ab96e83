/* Reads by io_uring; the contract is in uring.h. */
#define _GNU_SOURCE 1
#include "uring.h"
#include "io_ring.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STAGED_MOST 64U /* as many requests as a queue thread takes between two submissions */
/* Vectors of what is staged; a request may have CHAIN_VECTORS. */
#define VECTORS_MOST (4 * CHAIN_VECTORS)

struct uring {
    struct io_ring ring;
    uint32_t in_flight;
    uint32_t vectors_used;
    struct iovec vectors[VECTORS_MOST];
};

struct uring *uring_create(int wake_fd)
{
    struct uring *ring = calloc(1, sizeof(*ring));
    if (ring == NULL)
        return NULL;
    if (io_ring_create(&ring->ring, STAGED_MOST, 2 * URING_IN_FLIGHT, false) != 0)
        goto no_ring;
    if (syscall(SYS_io_uring_register, ring->ring.fd, IORING_REGISTER_EVENTFD, &wake_fd, 1) == 0)
        return ring;
    io_ring_destroy(&ring->ring);
no_ring:
    free(ring);
    return NULL;
}

void uring_destroy(struct uring *ring)
{
    if (ring == NULL)
        return;
    io_ring_destroy(&ring->ring);
    free(ring);
}

bool uring_stage(struct uring *ring, struct request *request)
{
    if (ring->ring.staged == STAGED_MOST || ring->in_flight + ring->ring.staged >= URING_IN_FLIGHT ||
        ring->vectors_used + CHAIN_VECTORS > VECTORS_MOST)
        return false;
    struct iovec *vector = &ring->vectors[ring->vectors_used];
    int count = reply_vectors(request, 0, request->transfer.size, vector);
    if (count < 0)
        return false;
    ring->vectors_used += (uint32_t)count;
    struct io_uring_sqe *entry = io_ring_next_entry(&ring->ring);
    entry->opcode = IORING_OP_READV;
    entry->fd = request->transfer.fd;
    entry->addr = (uintptr_t)vector;
    entry->len = (uint32_t)count;
    entry->off = request->transfer.offset;
    entry->user_data = (uintptr_t)request;
    io_ring_stage(&ring->ring);
    return true;
}

bool uring_has_staged(const struct uring *ring)
{
    return ring->ring.staged > 0;
}

/* Take back what is staged, the newest first, which leaves the oldest first in the list. */
static struct request *take_back(struct uring *ring)
{
    struct request *list = NULL;
    uint32_t tail = atomic_load_explicit(ring->ring.submit_tail, memory_order_relaxed);
    for (; ring->ring.staged > 0; ring->ring.staged--) {
        tail--;
        struct request *request = (struct request *)(uintptr_t)io_ring_entry(&ring->ring, tail)->user_data;
        if (request == NULL)
            continue; /* a cancellation */
        request->next = list;
        list = request;
    }
    atomic_store_explicit(ring->ring.submit_tail, tail, memory_order_release);
    return list;
}

struct request *uring_submit(struct uring *ring)
{
    struct request *refused = NULL;
    while (ring->ring.staged > 0 && refused == NULL) {
        int taken = io_ring_enter(&ring->ring, ring->ring.staged, 0);
        if (taken == -EINTR)
            continue;
        if (taken <= 0) {
            refused = take_back(ring);
            break;
        }
        ring->ring.staged -= (uint32_t)taken;
        ring->in_flight += (uint32_t)taken;
    }
    ring->vectors_used = 0;
    return refused;
}

bool uring_has_done(const struct uring *ring)
{
    return io_ring_has_done(&ring->ring) || io_ring_has_work(&ring->ring);
}

struct request *uring_next(struct uring *ring, int32_t *moved)
{
    /* Linux does some of the work each time, and not all work ends a transfer; what is left wakes nobody. */
    while (!io_ring_has_done(&ring->ring) && io_ring_has_work(&ring->ring)) {
        int error = io_ring_enter(&ring->ring, 0, 0);
        if (error < 0 && error != -EINTR)
            break;
    }
    while (io_ring_has_done(&ring->ring)) {
        struct request *request = (struct request *)(uintptr_t)io_ring_take(&ring->ring, moved);
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
    return io_ring_enter(&ring->ring, 0, 1) != -EINTR;
}

void uring_cancel(struct uring *ring)
{
    struct io_uring_sqe *entry = io_ring_next_entry(&ring->ring);
    entry->opcode = IORING_OP_ASYNC_CANCEL;
    entry->fd = -1;
    entry->cancel_flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL;
    io_ring_stage(&ring->ring);
    (void)uring_submit(ring);
}
