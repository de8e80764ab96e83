/* The driver's side of a split virtqueue (virtio 1.2 section 2.7), with an event index and a call descriptor
 * that is waited on where a guest would sleep until its interrupt. */
#pragma once
#include "load.h"

#include <stdbool.h>

struct vring_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

enum {
    DESCRIPTOR_NEXT = 1,
    DESCRIPTOR_WRITE = 2,
    DESCRIPTOR_INDIRECT = 4,
};

struct ring {
    struct vring_descriptor *descriptors;
    volatile uint16_t *available; /* flags, index, ring[size], used_event */
    volatile uint16_t *used;      /* flags, index, {id, length}[size], avail_event */
    uint32_t size;
    int kick_fd;
    int call_fd;
    uint16_t offered;
    uint16_t taken;
    uint64_t kicks;
    uint64_t calls;
};

/* 0, or a negative errno. */
int ring_begin(struct ring *ring, const struct guest_ring *from);
/* Make a chain available through an indirect table; kick if the device asked for it. head < size, and free.
 */
void ring_offer(struct ring *ring, uint16_t head, uint64_t table, uint32_t entries);
/* The next chain that the device has used. False: none. */
bool ring_take(struct ring *ring, uint16_t *head, uint32_t *length);
/* Sleep until the device has used a chain, or another call comes. 0, or a negative errno. */
int ring_wait(struct ring *ring);
