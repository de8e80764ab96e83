/* Split virtqueues (virtio 1.2 section 2.7); the contract is in virtqueue.h. */
#include "virtqueue.h"

#include <stddef.h>

#define AVAILABLE_NO_INTERRUPT 1
#define USED_NO_NOTIFY 1

struct available_ring { /* 2.7.6; used_event follows the ring */
    uint16_t flags;
    uint16_t index;
    uint16_t ring[];
};

struct used_element {
    uint32_t id;
    uint32_t length;
};

struct used_ring { /* 2.7.8; avail_event follows the ring */
    uint16_t flags;
    uint16_t index;
    struct used_element ring[];
};

_Static_assert(offsetof(struct available_ring, ring) == 4 && sizeof(struct used_element) == 8 &&
                   offsetof(struct used_ring, ring) == 4,
               "layouts of the wire");

static struct available_ring *available_of(const struct virtqueue *queue)
{
    return (struct available_ring *)(void *)queue->at.driver;
}

static struct used_ring *used_of(const struct virtqueue *queue)
{
    return (struct used_ring *)(void *)queue->at.device;
}

static uint16_t *available_event_of(const struct virtqueue *queue)
{
    return (uint16_t *)(void *)&used_of(queue)->ring[queue->size];
}

/* Barrier "made available before seen": acquire; the driver stores avail.idx after the chain and its ring
 * entry. */
static uint16_t load_available(const struct virtqueue *queue)
{
    return __atomic_load_n(&available_of(queue)->index, __ATOMIC_ACQUIRE);
}

void split_begin(struct virtqueue *queue, uint32_t base)
{
    queue->next_available = (uint16_t)base;
    queue->available_seen = (uint16_t)base;
    /* Where the ring was left: the driver counts on used.idx going on from there. */
    queue->next_used = __atomic_load_n(&used_of(queue)->index, __ATOMIC_RELAXED);
    queue->published = queue->next_used;
}

uint32_t split_base(const struct virtqueue *queue)
{
    return queue->next_available;
}

/* Chains that wait, by the avail.idx last read: that cache line is the driver's, and looked at when it is
 * needed. */
static uint16_t known_waiting(const struct virtqueue *queue)
{
    return (uint16_t)(queue->available_seen - queue->next_available);
}

static uint16_t waiting(struct virtqueue *queue)
{
    if (known_waiting(queue) == 0)
        queue->available_seen = load_available(queue);
    return known_waiting(queue);
}

bool split_has(struct virtqueue *queue)
{
    return waiting(queue) > 0;
}

bool split_crowded(const struct virtqueue *queue)
{
    return known_waiting(queue) >= VIRTQUEUE_CROWD;
}

static enum virtqueue_result broken(struct virtqueue *queue, const char *fault)
{
    queue->fault = fault;
    return VIRTQUEUE_BROKEN;
}

/* Follow a chain from its head (2.7.5). */
static enum virtqueue_result walk_chain(struct virtqueue *queue, uint16_t head, struct chain *chain)
{
    struct chain_walk walk;
    chain_walk_begin(&walk, queue, chain);
    uint32_t index = head;
    for (uint32_t steps = 0; steps < queue->size; steps++) {
        struct descriptor descriptor =
            descriptor_read(queue->at.descriptors + (size_t)index * DESCRIPTOR_SIZE);
        uint16_t flags = descriptor.third;
        if ((flags & DESCRIPTOR_INDIRECT) != 0) {
            chain_walk_table(&walk, descriptor.address, descriptor.length);
            /* 2.7.5.3.1: a table ends its chain. */
            walk.faulty = walk.faulty || (flags & DESCRIPTOR_NEXT) != 0;
            return walk.faulty ? VIRTQUEUE_FAULTY : VIRTQUEUE_CHAIN;
        }
        chain_walk_buffer(&walk, descriptor.address, descriptor.length, (flags & DESCRIPTOR_WRITE) != 0);
        if ((flags & DESCRIPTOR_NEXT) == 0)
            return walk.faulty ? VIRTQUEUE_FAULTY : VIRTQUEUE_CHAIN;
        index = descriptor.fourth;
        if (index >= queue->size)
            return broken(queue, "a descriptor's next lies outside the table");
    }
    return broken(queue, "a descriptor chain is longer than the ring, or a loop");
}

enum virtqueue_result split_pop(struct virtqueue *queue, struct chain *chain)
{
    uint16_t count = waiting(queue);
    if (count == 0)
        return VIRTQUEUE_EMPTY;
    if (count > queue->size)
        return broken(queue, "avail.idx is further ahead than the ring is long");
    uint16_t *entry = &available_of(queue)->ring[queue->next_available & (queue->size - 1)];
    uint16_t head = __atomic_load_n(entry, __ATOMIC_RELAXED);
    if (head >= queue->size)
        return broken(queue, "an available entry names a descriptor outside the table");
    enum virtqueue_result result = walk_chain(queue, head, chain);
    if (result == VIRTQUEUE_BROKEN)
        return result;
    chain->head = head;
    chain->slots = 0;
    queue->popped_from = queue->next_available++;
    return result;
}

bool split_enable_notifications(struct virtqueue *queue)
{
    if (queue->event_index) {
        uint16_t *event = available_event_of(queue);
        __atomic_store_n(event, queue->next_available, __ATOMIC_RELAXED);
        virtqueue_log_used(queue, (size_t)((uint8_t *)event - queue->at.device), sizeof(*event));
    } else {
        __atomic_store_n(&used_of(queue)->flags, 0, __ATOMIC_RELAXED);
        virtqueue_log_used(queue, 0, sizeof(uint16_t));
    }
    /* Barrier "asked before looked again" (2.7.10.2 and 2.7.13.4.1). */
    atomic_thread_fence(memory_order_seq_cst);
    queue->available_seen = load_available(queue);
    return queue->available_seen != queue->next_available;
}

void split_disable_notifications(struct virtqueue *queue)
{
    /* With an event index the driver stays silent by itself until we move it (2.7.10.1). */
    if (queue->event_index)
        return;
    __atomic_store_n(&used_of(queue)->flags, USED_NO_NOTIFY, __ATOMIC_RELAXED);
    virtqueue_log_used(queue, 0, sizeof(uint16_t));
}

void split_push(struct virtqueue *queue, uint16_t head, uint32_t length)
{
    struct used_element *element = &used_of(queue)->ring[queue->next_used & (queue->size - 1)];
    __atomic_store_n(&element->id, head, __ATOMIC_RELAXED);
    __atomic_store_n(&element->length, length, __ATOMIC_RELAXED);
    virtqueue_log_used(queue, (size_t)((uint8_t *)element - queue->at.device), sizeof(*element));
    queue->next_used++;
}

bool split_publish(struct virtqueue *queue)
{
    uint16_t before = queue->published;
    uint16_t now = queue->next_used;
    if (now == before)
        return false;
    /* Barrier "used before seen": release; the driver loads used.idx before the elements. */
    __atomic_store_n(&used_of(queue)->index, now, __ATOMIC_RELEASE);
    virtqueue_log_used(queue, offsetof(struct used_ring, index), sizeof(uint16_t));
    queue->published = now;
    /* Barrier "used before asked" (2.7.7.2). */
    atomic_thread_fence(memory_order_seq_cst);
    bool first = !queue->signalled_valid;
    queue->signalled_valid = true;
    const struct available_ring *available = available_of(queue);
    if (!queue->event_index)
        return first || (__atomic_load_n(&available->flags, __ATOMIC_RELAXED) & AVAILABLE_NO_INTERRUPT) == 0;
    uint16_t event = __atomic_load_n(&available->ring[queue->size], __ATOMIC_RELAXED);
    return first || event_passed(event, now, before);
}
