/* Packed virtqueues (virtio 1.2 section 2.8); the contract is in virtqueue.h. */
#include "virtqueue.h"

#include <stddef.h>

#define PACKED_AVAILABLE 0x80
#define PACKED_USED 0x8000

#define EVENT_ENABLE 0
#define EVENT_DISABLE 1
#define EVENT_DESCRIPTOR 2

#define WRAP_BIT 0x8000

struct packed_descriptor { /* 2.8.13 */
    uint64_t address;
    uint32_t length;
    uint16_t id;
    uint16_t flags;
};

struct event_suppression { /* 2.8.14 */
    uint16_t offset_wrap;
    uint16_t flags;
};

_Static_assert(sizeof(struct packed_descriptor) == DESCRIPTOR_SIZE && sizeof(struct event_suppression) == 4,
               "layouts of the wire");

static struct packed_descriptor *descriptor_at(const struct virtqueue *queue, uint32_t slot)
{
    return (struct packed_descriptor *)(void *)(queue->at.descriptors + (size_t)slot * DESCRIPTOR_SIZE);
}

/* Barrier "made available before seen": acquire; the driver stores the head's flags last (2.8.6). */
static uint16_t load_flags(const struct virtqueue *queue, uint32_t slot)
{
    return __atomic_load_n(&descriptor_at(queue, slot)->flags, __ATOMIC_ACQUIRE);
}

static bool is_available(uint16_t flags, bool wrap)
{
    return ((flags & PACKED_AVAILABLE) != 0) == wrap && ((flags & PACKED_USED) != 0) != wrap;
}

/* A base of 0 is what a front-end sends that knows split rings only, for a fresh ring; or the real position
 * of a ring that has just gone round. In the latter the device has marked descriptors used. */
static bool never_used(const struct virtqueue *queue)
{
    for (uint32_t slot = 0; slot < queue->size; slot++) {
        if ((load_flags(queue, slot) & PACKED_USED) != 0)
            return false;
    }
    return true;
}

void packed_begin(struct virtqueue *queue, uint32_t base)
{
    if (base == 0 && never_used(queue))
        base = (uint32_t)WRAP_BIT << 16 | WRAP_BIT;
    uint32_t available = base & UINT16_MAX;
    uint32_t used = base >> 16;
    if (used == 0) /* cut to 16 bits on its way; nothing was in flight */
        used = available;
    queue->next_available = (uint16_t)((available & (WRAP_BIT - 1)) % queue->size);
    queue->available_wrap = (available & WRAP_BIT) != 0;
    queue->next_used = (uint16_t)((used & (WRAP_BIT - 1)) % queue->size);
    queue->used_wrap = (used & WRAP_BIT) != 0;
}

uint32_t packed_base(const struct virtqueue *queue)
{
    uint32_t available = queue->next_available | (queue->available_wrap ? WRAP_BIT : 0U);
    uint32_t used = queue->next_used | (queue->used_wrap ? WRAP_BIT : 0U);
    return used << 16 | available;
}

/* Slot and wrap counter `distance` slots further on; distance <= size. */
static uint16_t advance(const struct virtqueue *queue, uint16_t slot, uint32_t distance, bool *wrap)
{
    uint32_t next = slot + distance;
    if (next >= queue->size) {
        next -= queue->size;
        *wrap = !*wrap;
    }
    return (uint16_t)next;
}

bool packed_has(const struct virtqueue *queue)
{
    return is_available(load_flags(queue, queue->next_available), queue->available_wrap);
}

bool packed_crowded(const struct virtqueue *queue)
{
    if (VIRTQUEUE_CROWD > queue->size)
        return false;
    bool wrap = queue->available_wrap;
    uint16_t slot = advance(queue, queue->next_available, VIRTQUEUE_CROWD - 1, &wrap);
    return is_available(load_flags(queue, slot), wrap);
}

enum virtqueue_result packed_pop(struct virtqueue *queue, struct chain *chain)
{
    bool wrap = queue->available_wrap;
    uint16_t slot = queue->next_available;
    uint16_t flags = load_flags(queue, slot);
    if (!is_available(flags, wrap))
        return VIRTQUEUE_EMPTY;
    struct chain_walk walk;
    chain_walk_begin(&walk, queue, chain);
    for (uint32_t slots = 1; slots <= queue->size; slots++) {
        struct descriptor descriptor = descriptor_read(descriptor_at(queue, slot));
        if (slots > 1)
            flags = descriptor.fourth; /* the head's were read first, and once */
        if ((flags & DESCRIPTOR_INDIRECT) != 0) {
            chain_walk_table(&walk, descriptor.address, descriptor.length);
            /* 2.8.19: a table does not go with a list. */
            walk.faulty = walk.faulty || (flags & DESCRIPTOR_NEXT) != 0;
        } else {
            chain_walk_buffer(&walk, descriptor.address, descriptor.length, (flags & DESCRIPTOR_WRITE) != 0);
        }
        slot = advance(queue, slot, 1, &wrap);
        if ((flags & DESCRIPTOR_NEXT) != 0)
            continue;
        chain->head = descriptor.third;
        chain->slots = (uint16_t)slots;
        queue->popped_from = queue->next_available;
        queue->popped_wrap = queue->available_wrap;
        queue->next_available = slot;
        queue->available_wrap = wrap;
        return walk.faulty ? VIRTQUEUE_FAULTY : VIRTQUEUE_CHAIN;
    }
    queue->fault = "a descriptor list is longer than the ring";
    return VIRTQUEUE_BROKEN;
}

static struct event_suppression *device_event(const struct virtqueue *queue)
{
    return (struct event_suppression *)(void *)queue->at.device;
}

bool packed_enable_notifications(struct virtqueue *queue)
{
    struct event_suppression *event = device_event(queue);
    uint16_t flags = EVENT_ENABLE;
    if (queue->event_index) {
        uint32_t position = queue->next_available | (queue->available_wrap ? WRAP_BIT : 0U);
        __atomic_store_n(&event->offset_wrap, (uint16_t)position, __ATOMIC_RELAXED);
        flags = EVENT_DESCRIPTOR;
    }
    /* Release: the driver reads the flags, then the offset (2.8.14). */
    __atomic_store_n(&event->flags, flags, __ATOMIC_RELEASE);
    virtqueue_log_used(queue, 0, sizeof(*event));
    /* Barrier "asked before looked again". */
    atomic_thread_fence(memory_order_seq_cst);
    return packed_has(queue);
}

void packed_disable_notifications(struct virtqueue *queue)
{
    struct event_suppression *event = device_event(queue);
    __atomic_store_n(&event->flags, EVENT_DISABLE, __ATOMIC_RELAXED);
    virtqueue_log_used(queue, 0, sizeof(*event));
}

/* What is used is written into the descriptors, which the ring's log address does not cover. */
static void log_descriptor(const struct virtqueue *queue, const struct packed_descriptor *descriptor)
{
    if (atomic_load_explicit(&queue->log_used, memory_order_acquire))
        memory_mark_dirty(queue->memory, descriptor, sizeof(*descriptor));
}

void packed_push(struct virtqueue *queue, uint16_t id, uint16_t slots, uint32_t length)
{
    struct packed_descriptor *descriptor = descriptor_at(queue, queue->next_used);
    uint16_t flags = queue->used_wrap ? PACKED_AVAILABLE | PACKED_USED : 0;
    if (length > 0)
        flags |= DESCRIPTOR_WRITE;
    __atomic_store_n(&descriptor->id, id, __ATOMIC_RELAXED);
    __atomic_store_n(&descriptor->length, length, __ATOMIC_RELAXED);
    if (queue->unpublished == 0) {
        queue->first_unpublished = queue->next_used;
        queue->first_flags = flags;
    } else {
        /* Not reached by the driver before the first one's flags are stored. */
        __atomic_store_n(&descriptor->flags, flags, __ATOMIC_RELEASE);
        log_descriptor(queue, descriptor);
    }
    queue->unpublished += slots;
    queue->next_used = advance(queue, queue->next_used, slots, &queue->used_wrap);
}

/* Whether the driver asked for a call by what went from `unpublished` slots ago to next_used
 * (2.8.14, 2.7.10). */
static bool driver_asks(const struct virtqueue *queue, uint32_t published)
{
    const struct event_suppression *event = (const struct event_suppression *)(const void *)queue->at.driver;
    uint16_t flags = __atomic_load_n(&event->flags, __ATOMIC_ACQUIRE);
    if (flags != EVENT_DESCRIPTOR || !queue->event_index)
        return flags != EVENT_DISABLE;
    uint16_t offset_wrap = __atomic_load_n(&event->offset_wrap, __ATOMIC_RELAXED);
    uint16_t offset = offset_wrap & (WRAP_BIT - 1);
    if (((offset_wrap & WRAP_BIT) != 0) != queue->used_wrap)
        offset = (uint16_t)(offset - queue->size); /* of the round before */
    return event_passed(offset, queue->next_used, (uint16_t)(queue->next_used - published));
}

bool packed_publish(struct virtqueue *queue)
{
    uint32_t published = queue->unpublished;
    if (published == 0)
        return false;
    queue->unpublished = 0;
    struct packed_descriptor *first_used = descriptor_at(queue, queue->first_unpublished);
    /* Barrier "used before seen": release; the driver loads the flags before id and length. */
    __atomic_store_n(&first_used->flags, queue->first_flags, __ATOMIC_RELEASE);
    log_descriptor(queue, first_used);
    /* Barrier "used before asked". */
    atomic_thread_fence(memory_order_seq_cst);
    bool first = !queue->signalled_valid;
    queue->signalled_valid = true;
    return first || driver_asks(queue, published);
}
