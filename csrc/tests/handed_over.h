/* A test in Python's place: takes the requests that a guest sends to a mount that Python answers, as records, and
 * answers them by token. One device, whose mount 0 is the native mock of mock_driver.h and whose mount MOUNT the handoff.
 */
#pragma once
#include "../handoff.h"
#include "mock_driver.h"

#define MOUNT 3
#define NODE (((uint64_t)MOUNT << 48) | 7)
#define BATCH_SIZE (128 * 1024)
#define RING 1

#define BIT(opcode) (1ULL << (opcode))
#define SERVED                                                                                               \
    (BIT(FUSE_GETATTR) | BIT(FUSE_READ) | BIT(FUSE_WRITE) | BIT(FUSE_SETLKW) | BIT(FUSE_SETXATTR) |          \
     BIT(FUSE_FORGET) | BIT(FUSE_BATCH_FORGET) | BIT(FUSE_INTERRUPT))

extern struct guest handed_guest;
extern struct driver handed_driver; /* of ring RING */
extern vhostfs_handoff *handoff;

/* What was taken last, and how far `handed_take` has come in it. */
extern _Alignas(8) uint8_t batch[BATCH_SIZE];
extern size_t batch_used;
extern size_t batch_position;

struct taken {
    struct vhostfs_handoff_record record;
    struct fuse_in_header in;
    const uint8_t *arguments;
};

/* A device and a ring of that size; INIT is not sent. */
void handed_begin_with(uint32_t ring_size);
/* A device with a session: BEGIN was taken. */
void handed_begin(void);
/* Close the handoff, and free all. */
void handed_finish(void);

/* Whether the handoff's descriptor is readable, now or within WAIT_MILLISECONDS. */
bool handed_readable(void);
bool handed_becomes_readable(void);
/* The next record of what was taken, taking more, waited for, where there is none. */
struct taken handed_take(void);
struct taken handed_take_kind(enum vhostfs_handoff_kind kind);
/* The token of the next, which must be a request for this. */
uint64_t handed_take_request(uint32_t opcode);
bool handed_nothing_to_take(void);

/* Requests of the guest's for NODE, kicked. */
void handed_ask(uint32_t opcode);
void handed_ask_with(uint32_t opcode, const void *body, size_t size, uint32_t room);
/* One of 40 + `size` + `data_size` bytes whose data lies in two pieces, as does the reply's room. The reply's address in
 * the guest; its second piece lies 2,048 bytes behind the first. */
uint64_t handed_ask_in_pieces(uint32_t opcode, const void *structure, size_t size, const void *data,
                              uint32_t data_size, uint32_t room);
#define POEM_SIZE 36
extern const char handed_poem[POEM_SIZE];
/* A WRITE of the poem in two pieces, taken. The reply's address. */
uint64_t handed_ask_to_write(struct taken *taken);

/* Answer with an errno, or with nothing where it is 0, and flush. */
void handed_answer(uint64_t token, int error);
/* The next answer that the guest gets, waited for. */
const struct fuse_out_header *handed_await(void);
/* The guest has no answer now. */
bool handed_guest_waits(void);
