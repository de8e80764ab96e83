/* The driver's side of a ring; the contract is in ring.h. */
#define _GNU_SOURCE 1
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <unistd.h>

int ring_begin(struct ring *ring, const struct guest_ring *from)
{
    *ring = (struct ring){.descriptors = from->descriptors,
                          .available = from->available,
                          .used = from->used,
                          .size = from->size,
                          .kick_fd = from->kick_fd,
                          .call_fd = from->call_fd};
    int flags = fcntl(from->call_fd, F_GETFL);
    if (flags < 0 || fcntl(from->call_fd, F_SETFL, flags & ~O_NONBLOCK) != 0)
        return -errno;
    return 0;
}

static bool passed(uint16_t event, uint16_t now, uint16_t before)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

void ring_offer(struct ring *ring, uint16_t head, uint64_t table, uint32_t entries)
{
    ring->descriptors[head] =
        (struct vring_descriptor){.address = table,
                                  .length = entries * (uint32_t)sizeof(*ring->descriptors),
                                  .flags = DESCRIPTOR_INDIRECT};
    ring->available[2 + ring->offered % ring->size] = head;
    uint16_t before = ring->offered++;
    /* The chain before its index; then our index before we look at the device's event (2.7.13). */
    __atomic_store_n(&ring->available[1], ring->offered, __ATOMIC_RELEASE);
    atomic_thread_fence(memory_order_seq_cst);
    if (!passed(ring->used[2 + 4 * ring->size], ring->offered, before))
        return;
    uint64_t one = 1;
    ring->kicks++;
    if (write(ring->kick_fd, &one, sizeof(one)) < 0)
        return; /* full: it is readable anyhow */
}

static bool something_used(const struct ring *ring)
{
    return __atomic_load_n(&ring->used[1], __ATOMIC_ACQUIRE) != ring->taken;
}

bool ring_take(struct ring *ring, uint16_t *head, uint32_t *length)
{
    if (!something_used(ring))
        return false;
    const volatile uint32_t *elements = (const volatile uint32_t *)(const volatile void *)(ring->used + 2);
    uint32_t at = 2 * (ring->taken % ring->size);
    *head = (uint16_t)elements[at];
    *length = elements[at + 1];
    ring->taken++;
    return true;
}

int ring_wait(struct ring *ring)
{
    ring->available[2 + ring->size] = ring->taken;
    atomic_thread_fence(memory_order_seq_cst);
    if (something_used(ring))
        return 0;
    uint64_t calls = 0;
    if (read(ring->call_fd, &calls, sizeof(calls)) < 0)
        return errno == EINTR ? 0 : -errno;
    ring->calls += calls;
    return 0;
}
