/* What split and packed virtqueues share; the contract is in virtqueue.h. */
#include "virtqueue.h"
#include "dirty_log.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "rings are little-endian (VIRTIO_F_VERSION_1), as the host");

void virtqueue_sizes(bool packed, uint32_t size, size_t *descriptors, size_t *driver, size_t *device)
{
    *descriptors = (size_t)size * DESCRIPTOR_SIZE;
    *driver = packed ? 4 : 4 + 2 * (size_t)size + 2;
    *device = packed ? 4 : 4 + 8 * (size_t)size + 2;
}

void virtqueue_begin(struct virtqueue *queue, uint32_t base)
{
    queue->fault = NULL;
    queue->signalled_valid = false;
    queue->unpublished = 0;
    if (queue->packed)
        packed_begin(queue, base);
    else
        split_begin(queue, base);
}

uint32_t virtqueue_base(const struct virtqueue *queue)
{
    return queue->packed ? packed_base(queue) : split_base(queue);
}

enum virtqueue_result virtqueue_pop(struct virtqueue *queue, struct chain *chain)
{
    return queue->packed ? packed_pop(queue, chain) : split_pop(queue, chain);
}

void virtqueue_unpop(struct virtqueue *queue)
{
    queue->next_available = queue->popped_from;
    queue->available_wrap = queue->popped_wrap;
}

bool virtqueue_has(struct virtqueue *queue)
{
    return queue->packed ? packed_has(queue) : split_has(queue);
}

bool virtqueue_crowded(const struct virtqueue *queue)
{
    return queue->packed ? packed_crowded(queue) : split_crowded(queue);
}

bool virtqueue_enable_notifications(struct virtqueue *queue)
{
    return queue->packed ? packed_enable_notifications(queue) : split_enable_notifications(queue);
}

void virtqueue_disable_notifications(struct virtqueue *queue)
{
    if (queue->packed)
        packed_disable_notifications(queue);
    else
        split_disable_notifications(queue);
}

void virtqueue_push(struct virtqueue *queue, uint16_t head, uint16_t slots, uint32_t length)
{
    if (queue->packed)
        packed_push(queue, head, slots, length);
    else
        split_push(queue, head, length);
}

bool virtqueue_publish(struct virtqueue *queue)
{
    return queue->packed ? packed_publish(queue) : split_publish(queue);
}

void virtqueue_log_used(struct virtqueue *queue, size_t offset, size_t size)
{
    if (!atomic_load_explicit(&queue->log_used, memory_order_acquire))
        return;
    uint64_t address = atomic_load_explicit(&queue->log_address, memory_order_relaxed);
    dirty_log_mark(queue->memory->log, address + offset, size);
}

/* ---- Chains ---- */

void chain_walk_begin(struct chain_walk *walk, struct virtqueue *queue, struct chain *chain)
{
    *walk = (struct chain_walk){.queue = queue, .chain = chain};
    chain->readable_count = 0;
    chain->writable_count = 0;
    chain->readable_size = 0;
    chain->writable_size = 0;
}

/* Add host bytes to a vector list, to its last entry where they follow it. False: the list is full. */
static bool add_vector(struct iovec *vectors, uint32_t *count, uint8_t *host, size_t length)
{
    if (*count > 0) {
        struct iovec *last = &vectors[*count - 1];
        if ((uint8_t *)last->iov_base + last->iov_len == host) {
            last->iov_len += length;
            return true;
        }
    }
    if (*count == CHAIN_VECTORS)
        return false;
    vectors[(*count)++] = (struct iovec){.iov_base = host, .iov_len = length};
    return true;
}

/* Add guest-physical bytes, piece by piece where they straddle regions. False: unmapped, or too many pieces. */
static bool add_guest_bytes(struct chain_walk *walk, uint64_t address, uint32_t length, bool writable)
{
    struct chain *chain = walk->chain;
    struct iovec *vectors = writable ? chain->writable : chain->readable;
    uint32_t *count = writable ? &chain->writable_count : &chain->readable_count;
    size_t *size = writable ? &chain->writable_size : &chain->readable_size;
    uint32_t *near = &walk->queue->near_buffer[writable];
    if (length > UINT32_MAX - *size) /* 2.7.5: no chain is longer than 2^32 bytes */
        return false;
    while (length > 0) {
        size_t step = length;
        uint8_t *host = memory_translate_near(walk->queue->memory, near, address, &step);
        if (host == NULL) {
            walk->queue->met_unmapped = true;
            return false;
        }
        if (!add_vector(vectors, count, host, step))
            return false;
        *size += step;
        address += step;
        length -= (uint32_t)step;
    }
    return true;
}

void chain_walk_buffer(struct chain_walk *walk, uint64_t address, uint32_t length, bool writable)
{
    /* 2.7.4.2: what the device reads comes before what it writes. */
    bool *closed = writable ? &walk->writable_closed : &walk->readable_closed;
    if (*closed) {
        walk->faulty = true;
        return;
    }
    if (writable)
        walk->readable_closed = true;
    if (!add_guest_bytes(walk, address, length, writable)) {
        walk->faulty = true;
        *closed = true;
    }
}

/* Copy guest-physical bytes that may straddle regions or be unaligned. False: unmapped. */
static bool copy_from_guest(struct virtqueue *queue, uint64_t address, void *to, size_t size)
{
    uint8_t *bytes = to;
    while (size > 0) {
        size_t step = size;
        const volatile uint8_t *host =
            memory_translate_near(queue->memory, &queue->near_table, address, &step);
        if (host == NULL)
            return false;
        for (size_t i = 0; i < step; i++)
            bytes[i] = host[i];
        bytes += step;
        address += step;
        size -= step;
    }
    return true;
}

/* One entry of an indirect table: from `host` where the whole table lies there, aligned; else copied
 * together. */
static bool table_entry(struct virtqueue *queue, const uint8_t *host, uint64_t address, uint32_t index,
                        struct descriptor *entry)
{
    if (host != NULL) {
        *entry = descriptor_read(host + (size_t)index * DESCRIPTOR_SIZE);
        return true;
    }
    uint64_t words[2];
    if (!copy_from_guest(queue, address + (uint64_t)index * DESCRIPTOR_SIZE, words, sizeof(words)))
        return false;
    *entry = descriptor_read(words);
    return true;
}

void chain_walk_table(struct chain_walk *walk, uint64_t address, uint32_t length)
{
    struct virtqueue *queue = walk->queue;
    uint32_t count = length / DESCRIPTOR_SIZE;
    if (count == 0 || length % DESCRIPTOR_SIZE != 0 || count > VIRTQUEUE_SIZE_MAX) {
        walk->faulty = true;
        return;
    }
    size_t contiguous = length;
    const uint8_t *host = memory_translate_near(queue->memory, &queue->near_table, address, &contiguous);
    if (contiguous < length || (uintptr_t)host % alignof(uint64_t) != 0)
        host = NULL;
    uint32_t index = 0;
    for (uint32_t steps = 0; steps < count; steps++) {
        struct descriptor entry;
        if (!table_entry(queue, host, address, index, &entry))
            break;
        uint16_t flags = queue->packed ? entry.fourth : entry.third;
        if ((flags & DESCRIPTOR_INDIRECT) != 0)
            break;
        chain_walk_buffer(walk, entry.address, entry.length, (flags & DESCRIPTOR_WRITE) != 0);
        if (queue->packed) {
            if (++index == count)
                return;
            continue;
        }
        if ((flags & DESCRIPTOR_NEXT) == 0)
            return;
        index = entry.fourth;
        if (index >= count)
            break;
    }
    /* Unmapped, nested, out of its bounds, or a loop. */
    walk->faulty = true;
}
