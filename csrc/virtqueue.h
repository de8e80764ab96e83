/* One virtqueue, split or packed, as the device sees it (virtio 1.2 sections 2.7 and 2.8).
 *
 * Two sides, which different threads may use at once: the available side (pop, notifications asked for)
 * belongs to one thread; the used side (push, publish) belongs to who holds the ring's used lock. Positions
 * and addresses change only while neither is used. Everything that the guest wrote is read once, into our own
 * memory, and checked there.
 *
 *   virtqueue.c         what both layouts share: addresses, positions, descriptor chains, indirect tables
 *   virtqueue_split.c   descriptor table, available ring, used ring
 *   virtqueue_packed.c  one ring of descriptors
 *
 * Barriers come in pairs with the driver's; each is named where it stands:
 *   "made available before seen"  acquire of avail.idx or of a descriptor's flags; the driver's release
 *   "asked before looked again"   we ask for notifications, full barrier, look at the ring again;
 *                                 the driver makes available, full barrier, looks whether we asked
 *   "used before seen"            release of used.idx or of a descriptor's flags; the driver's acquire
 *   "used before asked"           we publish, full barrier, look whether the driver asks; the driver asks,
 * full barrier, looks at the ring again
 */
#pragma once
#include "memory.h"
#include "request.h"
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define VIRTQUEUE_SIZE_MAX 32768

/* virtio feature bits (section 6) and vhost-user's. */
#define VIRTIO_FEATURE_LOG_ALL (1ULL << 26)
#define VIRTIO_FEATURE_INDIRECT (1ULL << 28)
#define VIRTIO_FEATURE_EVENT_INDEX (1ULL << 29)
#define VHOST_USER_FEATURE_PROTOCOL (1ULL << 30)
#define VIRTIO_FEATURE_PACKED (1ULL << 34)

#define DESCRIPTOR_NEXT 1
#define DESCRIPTOR_WRITE 2
#define DESCRIPTOR_INDIRECT 4

/* A descriptor (2.7.5, 2.8.13), our copy. `third` and `fourth`: split flags and next; packed id and flags. */
struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t third;
    uint16_t fourth;
};

#define DESCRIPTOR_SIZE 16

/* So many chains behind the one in hand make a crowd. */
#define VIRTQUEUE_CROWD 7

enum virtqueue_result {
    VIRTQUEUE_EMPTY,  /* nothing is available */
    VIRTQUEUE_CHAIN,  /* a chain */
    VIRTQUEUE_FAULTY, /* a chain that cannot be served: what was found of it is there, and it is to be
                         returned */
    VIRTQUEUE_BROKEN, /* the ring makes no sense: stop it. `fault` says why */
};

/* Where a ring is; host addresses of three areas, checked for their sizes. */
struct virtqueue_addresses {
    uint8_t *descriptors;
    uint8_t *driver; /* split: available ring; packed: driver event suppression */
    uint8_t *device; /* split: used ring; packed: device event suppression */
};

struct virtqueue {
    /* Set while the ring is idle. */
    uint32_t size;
    bool packed;
    bool event_index;
    struct virtqueue_addresses at;
    struct memory_table
        *memory; /* that the addresses and chains are translated with; the owner's reference */

    /* Used-ring writes are logged at this guest address while the flag is set (VHOST_VRING_F_LOG); any
     * thread. */
    _Atomic bool log_used;
    _Atomic uint64_t log_address;

    alignas(128) uint16_t next_available; /* split: free-running; packed: a slot */
    bool available_wrap;                  /* packed */
    uint16_t available_seen;              /* split: avail.idx as last read */
    uint16_t popped_from;                 /* where the last chain began, for virtqueue_unpop */
    bool popped_wrap;
    uint32_t near_table; /* region of the last indirect table, of the last readable, of the last writable */
    uint32_t near_buffer[2];
    const char *fault; /* why it is broken */
    bool met_unmapped; /* a buffer lay in no memory region; set here, cleared by the owner */

    alignas(128) uint16_t next_used; /* split: free-running; packed: a slot */
    bool used_wrap;                  /* packed */
    bool signalled_valid;            /* false until the first publication */
    uint16_t published;              /* split: used.idx as last stored */
    uint32_t unpublished;            /* packed: slots pushed since the last publication */
    uint32_t first_unpublished;      /* packed: slot whose flags are stored last */
    uint16_t first_flags;
};

/* Begin at a position in the protocol's encoding (VHOST_USER_SET_VRING_BASE), with addresses set; reads the
 * ring. */
void virtqueue_begin(struct virtqueue *queue, uint32_t base);
/* The position at which another would go on (VHOST_USER_GET_VRING_BASE), all that was popped having been
 * published. */
uint32_t virtqueue_base(const struct virtqueue *queue);
/* Bytes of the three areas for this size and layout. */
void virtqueue_sizes(bool packed, uint32_t size, size_t *descriptors, size_t *driver, size_t *device);

/* ---- The available side ---- */

/* Take the next chain. Vectors go to the chain's own arrays of CHAIN_VECTORS. */
enum virtqueue_result virtqueue_pop(struct virtqueue *queue, struct chain *chain);
/* Put the chain of the last pop back, unanswered. */
void virtqueue_unpop(struct virtqueue *queue);
/* True where a chain waits. */
bool virtqueue_has(struct virtqueue *queue);
/* True where many chains are known to wait, so that returning them together costs the driver no time. */
bool virtqueue_crowded(const struct virtqueue *queue);
/* Ask the driver for notifications, or ask it for none. The first returns true where chains came in between. */
bool virtqueue_enable_notifications(struct virtqueue *queue);
void virtqueue_disable_notifications(struct virtqueue *queue);

/* ---- The used side ---- */

/* Return a chain with the bytes written to it; seen by the driver when published. */
void virtqueue_push(struct virtqueue *queue, uint16_t head, uint16_t slots, uint32_t length);
/* Show what was pushed. True where the driver wants a call for it. */
bool virtqueue_publish(struct virtqueue *queue);

/* ---- Between the files of the virtqueue ---- */

/* Bounds of a chain under way. */
struct chain_walk {
    struct virtqueue *queue;
    struct chain *chain;
    bool faulty;
    bool readable_closed; /* a readable part was lost or a writable one has begun: no more is added */
    bool writable_closed;
};

void chain_walk_begin(struct chain_walk *walk, struct virtqueue *queue, struct chain *chain);
void chain_walk_buffer(struct chain_walk *walk, uint64_t address, uint32_t length, bool writable);
/* An indirect table (2.7.5.3, 2.8.7); split ones are linked by `next`, packed ones go in order. */
void chain_walk_table(struct chain_walk *walk, uint64_t address, uint32_t length);

/* Read a descriptor of our own alignment once. */
static inline struct descriptor descriptor_read(const void *at)
{
    const uint64_t *words = at;
    uint64_t first = __atomic_load_n(&words[0], __ATOMIC_RELAXED);
    uint64_t second = __atomic_load_n(&words[1], __ATOMIC_RELAXED);
    return (struct descriptor){
        .address = first,
        .length = (uint32_t)second,
        .third = (uint16_t)(second >> 32),
        .fourth = (uint16_t)(second >> 48),
    };
}

/* vring_need_event (2.7.10): whether `event` lies among what went from `before` to `now`. */
static inline bool event_passed(uint16_t event, uint16_t now, uint16_t before)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

/* Log a write to the used area. */
void virtqueue_log_used(struct virtqueue *queue, size_t offset, size_t size);

void split_begin(struct virtqueue *queue, uint32_t base);
uint32_t split_base(const struct virtqueue *queue);
enum virtqueue_result split_pop(struct virtqueue *queue, struct chain *chain);
bool split_has(struct virtqueue *queue);
bool split_crowded(const struct virtqueue *queue);
bool split_enable_notifications(struct virtqueue *queue);
void split_disable_notifications(struct virtqueue *queue);
void split_push(struct virtqueue *queue, uint16_t head, uint32_t length);
bool split_publish(struct virtqueue *queue);

void packed_begin(struct virtqueue *queue, uint32_t base);
uint32_t packed_base(const struct virtqueue *queue);
enum virtqueue_result packed_pop(struct virtqueue *queue, struct chain *chain);
bool packed_has(const struct virtqueue *queue);
bool packed_crowded(const struct virtqueue *queue);
bool packed_enable_notifications(struct virtqueue *queue);
void packed_disable_notifications(struct virtqueue *queue);
void packed_push(struct virtqueue *queue, uint16_t id, uint16_t slots, uint32_t length);
bool packed_publish(struct virtqueue *queue);
