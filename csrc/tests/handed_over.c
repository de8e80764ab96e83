/* A test in Python's place; the contract is in handed_over.h. */
#define _GNU_SOURCE 1
#include "handed_over.h"
#include "check.h"

#include <poll.h>

struct guest handed_guest;
struct driver handed_driver;
vhostfs_handoff *handoff;

_Alignas(8) uint8_t batch[BATCH_SIZE];
size_t batch_used;
size_t batch_position;

void handed_begin_with(uint32_t ring_size)
{
    guest_create(&handed_guest, &(struct guest_options){.size = 64 << 20, .queues = 3, .pool_threads = 1});
    CHECK_EQUAL(vhostfs_device_mount_handoff(handed_guest.device, MOUNT, SERVED, &handoff), 0);
    driver_create(&handed_driver, &handed_guest, RING, &(struct driver_options){.size = ring_size});
    batch_used = batch_position = 0;
}

bool handed_readable(void)
{
    struct pollfd ready = {.fd = vhostfs_handoff_fd(handoff), .events = POLLIN};
    return poll(&ready, 1, 0) == 1;
}

bool handed_becomes_readable(void)
{
    struct pollfd ready = {.fd = vhostfs_handoff_fd(handoff), .events = POLLIN};
    return poll(&ready, 1, WAIT_MILLISECONDS) == 1;
}

struct taken handed_take(void)
{
    while (batch_position == batch_used) {
        CHECK(handed_becomes_readable());
        int64_t used = vhostfs_handoff_take(handoff, batch, BATCH_SIZE, UINT32_MAX);
        CHECK(used >= 0);
        batch_used = (size_t)used;
        batch_position = 0;
    }
    struct taken taken = {0};
    memcpy(&taken.record, batch + batch_position, sizeof(taken.record));
    size_t size = sizeof(taken.record) + taken.record.size;
    CHECK(batch_position + size <= batch_used);
    if (taken.record.size > 0) {
        memcpy(&taken.in, batch + batch_position + sizeof(taken.record), sizeof(taken.in));
        taken.arguments = batch + batch_position + sizeof(taken.record) + sizeof(taken.in);
    }
    batch_position += (size + 7) & ~(size_t)7;
    return taken;
}

struct taken handed_take_kind(enum vhostfs_handoff_kind kind)
{
    struct taken taken = handed_take();
    CHECK_EQUAL(taken.record.kind, kind);
    return taken;
}

uint64_t handed_take_request(uint32_t opcode)
{
    struct taken taken = handed_take_kind(VHOSTFS_HANDOFF_REQUEST);
    CHECK_EQUAL(taken.in.opcode, opcode);
    return taken.record.token;
}

/* The wake-up of a request that was taken early may come late: taking nothing once more silences it. */
bool handed_nothing_to_take(void)
{
    for (int i = 0; i < 100 && batch_position == batch_used; i++) {
        if (vhostfs_handoff_take(handoff, batch, BATCH_SIZE, 1) != 0)
            return false;
        if (!handed_readable())
            return true;
    }
    return false;
}

void handed_begin(void)
{
    handed_begin_with(64);
    driver_init(&handed_driver);
    handed_take_kind(VHOSTFS_HANDOFF_BEGIN);
}

void handed_finish(void)
{
    vhostfs_handoff_close(handoff);
    guest_destroy(&handed_guest);
    driver_destroy(&handed_driver);
}

void handed_ask_with(uint32_t opcode, const void *body, size_t size, uint32_t room)
{
    CHECK(driver_request(&handed_driver, opcode, NODE, body, size, room));
    driver_kick(&handed_driver);
}

void handed_ask(uint32_t opcode)
{
    handed_ask_with(opcode, NULL, 0, 512);
}

void handed_answer(uint64_t token, int error)
{
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, token, error, NULL, 0), 0);
    vhostfs_handoff_flush(handoff);
}

const struct fuse_out_header *handed_await(void)
{
    uint16_t id = 0;
    uint32_t length = 0;
    driver_await(&handed_driver, &id, &length);
    return driver_reply(&handed_driver, id, length);
}

bool handed_guest_waits(void)
{
    uint16_t id = 0;
    uint32_t length = 0;
    return !driver_take(&handed_driver, &id, &length);
}

uint64_t handed_ask_in_pieces(uint32_t opcode, const void *structure, size_t size, const void *data,
                              uint32_t data_size, uint32_t room)
{
    uint64_t head = guest_allocate(&handed_guest, 4096, 4096);
    uint64_t tail = guest_allocate(&handed_guest, data_size + 1, 4096);
    uint64_t reply = guest_allocate(&handed_guest, room + 4096, 4096);
    struct fuse_in_header in = {
        .len = (uint32_t)(sizeof(in) + size) + data_size, .opcode = opcode, .unique = 99, .nodeid = NODE};
    uint32_t first = data_size / 3;
    uint8_t *to = guest_at(&handed_guest, head);
    memcpy(to, &in, sizeof(in));
    memcpy(to + sizeof(in), structure, size);
    if (data_size > 0) {
        memcpy(to + sizeof(in) + size, data, first);
        memcpy(guest_at(&handed_guest, tail), (const uint8_t *)data + first, data_size - first);
    }
    uint32_t half = room / 2;
    struct buffer buffers[] = {
        {.address = head, .length = (uint32_t)(sizeof(in) + size) + first},
        {.address = tail, .length = data_size > 0 ? data_size - first : 1},
        {.address = reply, .length = (uint32_t)sizeof(struct fuse_out_header) + half, .writable = true},
        {.address = reply + 2048 + half, .length = room - half, .writable = true},
    };
    CHECK(driver_add(&handed_driver, buffers, 4, 0));
    driver_kick(&handed_driver);
    return reply;
}

const char handed_poem[POEM_SIZE] = "what the guest wrote, in two pieces";

uint64_t handed_ask_to_write(struct taken *taken)
{
    struct fuse_write_in in = {.size = sizeof(handed_poem), .offset = 12};
    uint64_t reply = handed_ask_in_pieces(FUSE_WRITE, &in, sizeof(in), handed_poem, sizeof(handed_poem), 64);
    *taken = handed_take_kind(VHOSTFS_HANDOFF_REQUEST);
    CHECK_EQUAL(taken->record.data, sizeof(handed_poem));
    CHECK_EQUAL(taken->record.size, sizeof(struct fuse_in_header) + sizeof(in));
    return reply;
}
