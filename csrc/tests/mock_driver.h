/* A guest's side of virtqueues, in this process: memory in a memfd, a driver for split and packed rings, and
 * a file system that answers a few operations, so that rings are tested without FUSE's semantics in the way.
 *
 *   GETATTR   a fuse_attr_out whose ino is the nodeid
 *   READ      `size` bytes, each the low byte of its offset
 *   WRITE     the sum of the bytes written, as fuse_write_out's size
 *   READLINK  MOCK_PIECE bytes of the pipe mock_pipe, by a transfer of the kernel's; on the pool, as a sleeper that
 *             the stop of the ring ends, where that cannot be
 *   FSYNC     sleeps on the pool until mock_wake
 *   SETLKW    sleeps on the pool until it is interrupted, or the ring stopped: EINTR
 *   FORGET    no reply; BATCH_FORGET likewise, and is counted
 */
#pragma once
#include "../core.h"
#include "../device.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUEST_BASE 0x40000000ULL     /* guest-physical address of its memory */
#define GUEST_USER 0x7e0000000000ULL /* the front-end's own address of it */
#define WAIT_MILLISECONDS 10000

struct guest {
    int fd;
    uint8_t *host;
    size_t size;
    size_t allocated;
    vhostfs_device *device;
};

struct guest_options {
    size_t size;
    uint32_t queues;
    uint32_t pool_threads;
    uint64_t poll_nanoseconds;
    bool io_uring;
    uint64_t features; /* SET_FEATURES, beside those of the rings */
};

/* A device with the mock file system mounted, its memory mapped in one region; INIT is not sent. */
void guest_create(struct guest *guest, const struct guest_options *options);
void guest_destroy(struct guest *guest);
struct vhostfs_region guest_region(const struct guest *guest, uint64_t offset, uint64_t size);
uint64_t guest_allocate(struct guest *guest, size_t size, size_t alignment);
void *guest_at(const struct guest *guest, uint64_t address);
/* The next event, waited for. */
struct vhostfs_event guest_event(struct guest *guest);
/* The next event of that kind; others are passed over. */
struct vhostfs_event guest_event_of(struct guest *guest, enum vhostfs_event_kind kind);

struct buffer {
    uint64_t address;
    uint32_t length;
    bool writable;
    uint16_t flags; /* further flags of its descriptor */
};

struct driver_options {
    uint32_t size;
    bool packed;
    bool event_index;
    uint32_t base; /* given to SET_VRING_BASE; the driver's own indices begin there too */
};

struct driver {
    struct guest *guest;
    uint32_t index;
    struct driver_options options;
    uint64_t descriptors;
    uint64_t available; /* split: available ring; packed: driver events */
    uint64_t used;      /* split: used ring; packed: device events */
    uint64_t slots;     /* DRIVER_SLOT bytes for each id */
    int kick;
    int call;
    int error;
    uint32_t free_count;
    uint16_t free_head; /* split: linked by descriptors; packed: by next_id */
    uint16_t *next_id;
    uint16_t *length_of; /* descriptors that an id occupies */
    uint64_t *unique_of;
    uint64_t unique;
    uint16_t next;   /* split: avail.idx to be; packed: next slot */
    uint16_t kicked; /* the same at the last kick */
    uint32_t added;  /* descriptors or chains since the last kick */
    bool wrap;
    uint16_t seen; /* split: used.idx as seen; packed: slot */
    bool seen_wrap;
    uint64_t kicks;
    uint64_t calls;
};

#define DRIVER_SLOT 8192
#define DRIVER_REPLY_AT 4096
#define DRIVER_POOL_ROOM 2048

/* Set a ring up over the functions of core.h and enable it. The event index is on where the guest's features
 * say so. */
void driver_create(struct driver *driver, struct guest *guest, uint32_t index,
                   const struct driver_options *options);
/* Frees the driver's side only. */
void driver_destroy(struct driver *driver);
/* The device is told of the ring again: after a stop, with that base. */
void driver_attach(struct driver *driver, uint32_t base);

/* Id of the chain that the next driver_add makes. */
uint16_t driver_next_id(const struct driver *driver);
/* Write buffers as an indirect table. */
void driver_write_table(const struct driver *driver, const struct buffer *buffers, uint32_t count,
                        uint64_t table);
/* Make a chain available; seen by the device after driver_kick. With a table: indirect, placed there. False:
 * full. */
bool driver_add(struct driver *driver, const struct buffer *buffers, uint32_t count, uint64_t table);
/* Publish what was added, and kick where the device asks for it. */
void driver_kick(struct driver *driver);
/* Take a returned chain, where there is one. */
bool driver_take(struct driver *driver, uint16_t *id, uint32_t *length);
/* The same, waited for by the call descriptor; fails the test when none comes. */
void driver_await(struct driver *driver, uint16_t *id, uint32_t *length);

/* A request in the id's own slot: header, body; a reply of up to `room` bytes. Not kicked. False: full. */
bool driver_request(struct driver *driver, uint32_t opcode, uint64_t nodeid, const void *body, size_t size,
                    uint32_t room);
/* The reply of an id, checked: length and unique. */
const struct fuse_out_header *driver_reply(const struct driver *driver, uint16_t id, uint32_t length);
/* Send one request alone and wait for its answer: out.error. */
int32_t driver_call(struct driver *driver, uint32_t opcode, uint64_t nodeid, const void *body, size_t size);
/* INIT, as Linux sends it. */
void driver_init(struct driver *driver);

#define MOCK_PIECE 8
extern _Atomic int mock_pipe; /* the end that is read; the test's */

/* One more of these in a guest's device, which takes it. */
void guest_mount_mock(struct guest *guest, uint16_t mount);
/* How many BATCH_FORGETs the mock file systems were asked for since this was asked last. */
uint32_t mock_batches_of_forgets(void);

/* The mock file system's sleepers: how many there are now, and wake one. */
uint32_t mock_sleeping(void);
void mock_await_sleepers(uint32_t count);
void mock_wake(void);
