/* Descriptor chains, sound and malformed, in split and packed rings: what one request does never hurts the
 * next. */
#define _GNU_SOURCE 1
#include "check.h"
#include "mock_driver.h"

#include <errno.h>

#define PIECES 64

static struct guest guest;
static struct driver driver;
static bool packed;

/* Memory with a hole: [0, 4 MiB) and [8 MiB, 16 MiB), the latter in two regions side by side. */
static void begin(void)
{
    const struct guest_options options = {
        .size = 16 << 20, .queues = 3, .pool_threads = 2, .features = packed ? VIRTIO_FEATURE_PACKED : 0};
    guest_create(&guest, &options);
    struct vhostfs_region regions[] = {
        guest_region(&guest, 8 << 20, 4 << 20),
        guest_region(&guest, 0, 4 << 20),
        guest_region(&guest, 12 << 20, 4 << 20),
    };
    CHECK_EQUAL(vhostfs_memory_replace(guest.device, regions, 3), 0);
    driver_create(&driver, &guest, 1,
                  &(struct driver_options){.size = 128, .packed = packed, .base = packed ? 0x80008000 : 0});
    driver_init(&driver);
}

static void end(void)
{
    CHECK_EQUAL(driver_call(&driver, FUSE_GETATTR, 1, NULL, 0), 0); /* the ring still serves */
    driver_destroy(&driver);
    guest_destroy(&guest);
}

/* A request's header in the next id's slot. */
static uint64_t put_header(uint32_t opcode, uint32_t length)
{
    uint16_t id = driver_next_id(&driver);
    uint64_t slot = driver.slots + (uint64_t)id * DRIVER_SLOT;
    struct fuse_in_header in = {.len = length, .opcode = opcode, .unique = driver.unique, .nodeid = 7};
    memcpy(guest_at(&guest, slot), &in, sizeof(in));
    driver.unique_of[id] = driver.unique;
    driver.unique += 2;
    return slot;
}

/* Send these buffers and wait: used.len. */
static uint32_t send(const struct buffer *buffers, uint32_t count, uint64_t table, uint16_t *id)
{
    uint32_t length = 0;
    CHECK(driver_add(&driver, buffers, count, table));
    driver_kick(&driver);
    driver_await(&driver, id, &length);
    return length;
}

static void a_request_may_be_cut_into_any_descriptors(void)
{
    begin();
    for (uint32_t piece = 1; piece < 60; piece += 7) {
        for (int indirect = 0; indirect < 2; indirect++) {
            struct buffer buffers[PIECES * 4];
            uint32_t count = 0;
            uint64_t slot = put_header(FUSE_GETATTR, sizeof(struct fuse_in_header));
            for (uint32_t at = 0; at < sizeof(struct fuse_in_header); at += piece) {
                uint32_t left = (uint32_t)sizeof(struct fuse_in_header) - at;
                buffers[count++] = (struct buffer){slot + at, left < piece ? left : piece, false, 0};
            }
            for (uint32_t at = 0; at < 120; at += piece) /* 16 + 104 bytes */
                buffers[count++] = (struct buffer){slot + DRIVER_REPLY_AT + at,
                                                   120 - at < piece ? 120 - at : piece, true, 0};
            if (count > 120 && indirect == 0)
                continue;
            uint16_t id = 0;
            uint32_t length = send(buffers, count, indirect != 0 ? slot + 1024 : 0, &id);
            const struct fuse_out_header *out = driver_reply(&driver, id, length);
            CHECK_EQUAL(out->error, 0);
            CHECK_EQUAL(((const struct fuse_attr_out *)(const void *)(out + 1))->attr.ino, 7);
        }
    }
    end();
}

static void empty_descriptors_are_passed_over(void)
{
    begin();
    uint64_t slot = put_header(FUSE_GETATTR, sizeof(struct fuse_in_header));
    struct buffer buffers[] = {{1, 0, false, 0},
                               {slot, 40, false, 0},
                               {slot, 0, false, 0},
                               {1, 0, true, 0},
                               {slot + DRIVER_REPLY_AT, 4096, true, 0}};
    uint16_t id = 0;
    uint32_t length = send(buffers, 5, 0, &id);
    CHECK_EQUAL(driver_reply(&driver, id, length)->error, 0);
    end();
}

static void direct_descriptors_may_end_in_an_indirect_one(void)
{
    begin();
    uint64_t slot = put_header(FUSE_GETATTR, sizeof(struct fuse_in_header));
    driver_write_table(&driver,
                       (struct buffer[]){{slot + 20, 20, false, 0}, {slot + DRIVER_REPLY_AT, 4096, true, 0}},
                       2, slot + 1024);
    struct buffer buffers[] = {{slot, 20, false, 0}, {slot + 1024, 32, false, DESCRIPTOR_INDIRECT}};
    uint16_t id = 0;
    uint32_t length = send(buffers, 2, 0, &id);
    CHECK_EQUAL(driver_reply(&driver, id, length)->error, 0);
    end();
}

static void buffers_that_straddle_regions_are_served(void)
{
    begin();
    /* 64 KiB across the border of two regions, read and written. */
    uint64_t border = GUEST_BASE + (12 << 20) - 32768;
    uint64_t slot = put_header(FUSE_READ, 80);
    struct fuse_read_in read = {.size = 65536, .offset = 3};
    memcpy((uint8_t *)guest_at(&guest, slot) + 40, &read, sizeof(read));
    struct buffer buffers[] = {
        {slot, 80, false, 0}, {slot + DRIVER_REPLY_AT, 16, true, 0}, {border, 65536, true, 0}};
    uint16_t id = 0;
    uint32_t length = send(buffers, 3, 0, &id);
    CHECK_EQUAL(length, 65552);
    CHECK_EQUAL(driver_reply(&driver, id, length)->error, 0);
    const uint8_t *data = guest_at(&guest, border);
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 65536; i++) {
        CHECK_EQUAL(data[i], (uint8_t)(i + 3));
        sum += data[i];
    }
    slot = put_header(FUSE_WRITE, 80 + 65536);
    struct fuse_write_in write = {.size = 65536};
    memcpy((uint8_t *)guest_at(&guest, slot) + 40, &write, sizeof(write));
    struct buffer back[] = {
        {slot, 80, false, 0}, {border, 65536, false, 0}, {slot + DRIVER_REPLY_AT, 24, true, 0}};
    length = send(back, 3, 0, &id);
    const struct fuse_out_header *out = driver_reply(&driver, id, length);
    CHECK_EQUAL(out->error, 0);
    CHECK_EQUAL(((const struct fuse_write_out *)(const void *)(out + 1))->size, sum);
    end();
}

/* The chain is returned with an EIO reply of exactly a header. */
static void expect_error(const struct buffer *buffers, uint32_t count, uint64_t table)
{
    uint16_t id = 0;
    uint32_t length = send(buffers, count, table, &id);
    CHECK_EQUAL(length, sizeof(struct fuse_out_header));
    CHECK_EQUAL(driver_reply(&driver, id, length)->error, -EIO);
}

static void expect_empty(const struct buffer *buffers, uint32_t count, uint64_t table)
{
    uint16_t id = 0;
    CHECK_EQUAL(send(buffers, count, table, &id), 0);
}

#define HOLE (GUEST_BASE + (5 << 20))

static void unmapped_memory_fails_that_request_alone(void)
{
    begin();
    uint64_t slot = put_header(FUSE_GETATTR, sizeof(struct fuse_in_header));
    expect_empty((struct buffer[]){{HOLE, 40, false, 0}, {slot + DRIVER_REPLY_AT, 512, true, 0}}, 2, 0);
    slot = put_header(FUSE_GETATTR, sizeof(struct fuse_in_header));
    expect_empty((struct buffer[]){{slot, 40, false, 0}, {HOLE, 512, true, 0}}, 2, 0);
    slot = put_header(FUSE_GETATTR, sizeof(struct fuse_in_header));
    expect_error(
        (struct buffer[]){{slot, 40, false, 0}, {slot + DRIVER_REPLY_AT, 512, true, 0}, {HOLE, 512, true, 0}},
        3, 0);
    slot = put_header(FUSE_WRITE, sizeof(struct fuse_in_header));
    expect_error((struct buffer[]){{slot, 40, false, 0},
                                   {HOLE, 512, false, 0},
                                   {slot + DRIVER_REPLY_AT, 512, true, 0}},
                 3, 0);
    /* The first writable bytes are lost: nothing may be put into the later ones, where a header does not
     * belong. */
    slot = put_header(FUSE_GETATTR, sizeof(struct fuse_in_header));
    memset(guest_at(&guest, slot + DRIVER_REPLY_AT), 0x5a, 512);
    expect_empty(
        (struct buffer[]){{slot, 40, false, 0}, {HOLE, 8, true, 0}, {slot + DRIVER_REPLY_AT, 512, true, 0}},
        3, 0);
    CHECK_EQUAL(*(uint8_t *)guest_at(&guest, slot + DRIVER_REPLY_AT), 0x5a);
    /* Runs off the end of memory, and wraps around the address space. */
    slot = put_header(FUSE_GETATTR, sizeof(struct fuse_in_header));
    expect_error((struct buffer[]){{slot, 40, false, 0},
                                   {slot + DRIVER_REPLY_AT, 512, true, 0},
                                   {GUEST_BASE + (16 << 20) - 8, 16, true, 0}},
                 3, 0);
    slot = put_header(FUSE_GETATTR, sizeof(struct fuse_in_header));
    expect_error((struct buffer[]){{slot, 40, false, 0},
                                   {slot + DRIVER_REPLY_AT, 512, true, 0},
                                   {UINT64_MAX - 4, 16, true, 0}},
                 3, 0);
    end();
}

static void readable_after_writable_fails_that_request_alone(void)
{
    begin();
    uint64_t slot = put_header(FUSE_GETATTR, sizeof(struct fuse_in_header));
    expect_error((struct buffer[]){{slot, 40, false, 0},
                                   {slot + DRIVER_REPLY_AT, 512, true, 0},
                                   {slot + 512, 8, false, 0}},
                 3, 0);
    slot = put_header(FUSE_GETATTR, sizeof(struct fuse_in_header));
    expect_empty((struct buffer[]){{slot + DRIVER_REPLY_AT, 512, true, 0}, {slot, 40, false, 0}}, 2, 0);
    end();
}

static void a_header_that_cannot_be_right_fails_that_request_alone(void)
{
    begin();
    uint64_t slot = put_header(FUSE_GETATTR, sizeof(struct fuse_in_header));
    expect_empty((struct buffer[]){{slot, 39, false, 0}, {slot + DRIVER_REPLY_AT, 512, true, 0}}, 2, 0);
    put_header(FUSE_GETATTR, 41);
    slot = driver.slots + (uint64_t)driver_next_id(&driver) * DRIVER_SLOT;
    expect_error((struct buffer[]){{slot, 40, false, 0}, {slot + DRIVER_REPLY_AT, 512, true, 0}}, 2, 0);
    put_header(FUSE_GETATTR, 39);
    slot = driver.slots + (uint64_t)driver_next_id(&driver) * DRIVER_SLOT;
    expect_error((struct buffer[]){{slot, 40, false, 0}, {slot + DRIVER_REPLY_AT, 512, true, 0}}, 2, 0);
    put_header(FUSE_GETATTR, UINT32_MAX);
    slot = driver.slots + (uint64_t)driver_next_id(&driver) * DRIVER_SLOT;
    expect_error((struct buffer[]){{slot, 40, false, 0}, {slot + DRIVER_REPLY_AT, 512, true, 0}}, 2, 0);
    /* Nothing to answer into; and too little room for a header. */
    slot = put_header(FUSE_GETATTR, 40);
    expect_empty((struct buffer[]){{slot, 40, false, 0}}, 1, 0);
    slot = put_header(FUSE_GETATTR, 40);
    expect_empty((struct buffer[]){{slot, 40, false, 0}, {slot + DRIVER_REPLY_AT, 15, true, 0}}, 2, 0);
    end();
}

/* A sound table of two entries for the next id, at 1024 of its slot. */
static uint64_t put_table(void)
{
    uint64_t slot = put_header(FUSE_GETATTR, 40);
    driver_write_table(&driver,
                       (struct buffer[]){{slot, 40, false, 0}, {slot + DRIVER_REPLY_AT, 512, true, 0}}, 2,
                       slot + 1024);
    return slot + 1024;
}

static void an_indirect_table_of_no_sound_length_fails_that_request_alone(void)
{
    begin();
    for (uint32_t length = 0; length < 32; length++) {
        /* 16 cut the entry off that the reply goes to; an entry that names the next one then is out of
         * bounds. */
        expect_empty(&(struct buffer){put_table(), length, false, DESCRIPTOR_INDIRECT}, 1, 0);
    }
    expect_empty(&(struct buffer){put_table(), 33, false, DESCRIPTOR_INDIRECT}, 1, 0);
    expect_empty(&(struct buffer){put_table(), UINT32_MAX & ~15U, false, DESCRIPTOR_INDIRECT}, 1, 0);
    end();
}

static void an_indirect_table_in_unmapped_memory_fails_that_request_alone(void)
{
    begin();
    put_table();
    expect_empty(&(struct buffer){HOLE, 32, false, DESCRIPTOR_INDIRECT}, 1, 0);
    /* One entry is mapped, the next is not. */
    uint64_t slot = put_header(FUSE_GETATTR, 40);
    uint64_t end_of_region = GUEST_BASE + (4 << 20) - DESCRIPTOR_SIZE;
    driver_write_table(&driver, (struct buffer[]){{slot, 40, false, DESCRIPTOR_NEXT}}, 1, end_of_region);
    expect_empty(&(struct buffer){end_of_region, 32, false, DESCRIPTOR_INDIRECT}, 1, 0);
    end();
}

static void an_indirect_table_may_lie_anywhere(void)
{
    begin();
    /* Across the border of two regions, and not aligned. */
    for (uint64_t shift = 0; shift < 32; shift += 4) {
        uint64_t slot = put_header(FUSE_GETATTR, 40);
        uint64_t table = GUEST_BASE + (12 << 20) - shift;
        struct buffer entries[] = {{slot, 40, false, 0}, {slot + DRIVER_REPLY_AT, 512, true, 0}};
        uint8_t bytes[32];
        driver_write_table(&driver, entries, 2, slot + 1024);
        memcpy(bytes, guest_at(&guest, slot + 1024), sizeof(bytes));
        memcpy(guest_at(&guest, table), bytes, sizeof(bytes));
        uint16_t id = 0;
        uint32_t length = send(&(struct buffer){table, 32, false, DESCRIPTOR_INDIRECT}, 1, 0, &id);
        CHECK_EQUAL(driver_reply(&driver, id, length)->error, 0);
    }
    end();
}

static void nested_tables_fail_that_request_alone(void)
{
    begin();
    uint64_t slot = put_header(FUSE_GETATTR, 40);
    expect_error((struct buffer[]){{slot, 40, false, 0},
                                   {slot + DRIVER_REPLY_AT, 512, true, 0},
                                   {slot + 2048, 32, true, DESCRIPTOR_INDIRECT}},
                 3, slot + 1024);
    /* A table that the ring goes on after. */
    slot = put_header(FUSE_GETATTR, 40);
    driver_write_table(&driver, (struct buffer[]){{slot, 40, false, 0}}, 1, slot + 1024);
    struct buffer buffers[] = {{slot + 1024, 16, false, DESCRIPTOR_INDIRECT},
                               {slot + DRIVER_REPLY_AT, 512, true, 0}};
    uint16_t id = 0;
    uint32_t length = send(buffers, 2, 0, &id);
    CHECK(length == 0 || driver_reply(&driver, id, length)->error == -EIO);
    end();
}

static void a_loop_in_an_indirect_table_fails_that_request_alone(void)
{
    if (packed)
        return; /* its entries are not linked */
    begin();
    for (uint16_t next = 0; next < 3; next++) {
        uint64_t table = put_table();
        uint8_t *entry = guest_at(&guest, table + DESCRIPTOR_SIZE);
        *(uint16_t *)(void *)(entry + 12) |= DESCRIPTOR_NEXT;
        *(uint16_t *)(void *)(entry + 14) = next; /* the head, itself, out of bounds */
        expect_error(&(struct buffer){table, 32, false, DESCRIPTOR_INDIRECT}, 1, 0);
    }
    end();
}

static void a_chain_of_more_pieces_than_one_call_takes_is_refused_alone(void)
{
    begin();
    uint64_t table = guest_allocate(&guest, 2000 * DESCRIPTOR_SIZE, 16);
    uint64_t slot = put_header(FUSE_WRITE, 40);
    static struct buffer buffers[2000];
    for (uint32_t i = 0; i < 1999; i++)
        buffers[i] = (struct buffer){slot + 2 * (i % 1000), 1, false, 0};
    buffers[0] = (struct buffer){slot, 40, false, 0};
    buffers[1999] = (struct buffer){slot + DRIVER_REPLY_AT, 512, true, 0};
    expect_error(buffers, 2000, table);
    end();
}

static void neighbours_in_memory_are_one_vector(void)
{
    begin();
    /* 1,900 descriptors would be too many, but they lie side by side. */
    uint64_t table = guest_allocate(&guest, 2000 * DESCRIPTOR_SIZE, 16);
    uint64_t data = guest_allocate(&guest, 1900, 1);
    uint64_t slot = put_header(FUSE_WRITE, 80 + 1900);
    struct fuse_write_in write = {.size = 1900};
    memcpy((uint8_t *)guest_at(&guest, slot) + 40, &write, sizeof(write));
    memset(guest_at(&guest, data), 2, 1900);
    static struct buffer buffers[1902];
    buffers[0] = (struct buffer){slot, 80, false, 0};
    for (uint32_t i = 0; i < 1900; i++)
        buffers[i + 1] = (struct buffer){data + i, 1, false, 0};
    buffers[1901] = (struct buffer){slot + DRIVER_REPLY_AT, 512, true, 0};
    uint16_t id = 0;
    uint32_t length = send(buffers, 1902, table, &id);
    const struct fuse_out_header *out = driver_reply(&driver, id, length);
    CHECK_EQUAL(out->error, 0);
    CHECK_EQUAL(((const struct fuse_write_out *)(const void *)(out + 1))->size, 3800);
    end();
}

static void a_forget_is_returned_empty(void)
{
    begin();
    uint64_t slot = put_header(FUSE_FORGET, 40);
    expect_empty((struct buffer[]){{slot, 40, false, 0}}, 1, 0);
    slot = put_header(FUSE_FORGET, 40);
    expect_empty((struct buffer[]){{slot, 40, false, 0}, {slot + DRIVER_REPLY_AT, 512, true, 0}}, 2, 0);
    end();
}

int main(void)
{
    for (int layout = 0; layout < 2; layout++) {
        packed = layout == 1;
        printf(" %s\n", packed ? "packed" : "split");
        PROMISE(a_request_may_be_cut_into_any_descriptors);
        PROMISE(empty_descriptors_are_passed_over);
        PROMISE(direct_descriptors_may_end_in_an_indirect_one);
        PROMISE(buffers_that_straddle_regions_are_served);
        PROMISE(unmapped_memory_fails_that_request_alone);
        PROMISE(readable_after_writable_fails_that_request_alone);
        PROMISE(a_header_that_cannot_be_right_fails_that_request_alone);
        PROMISE(an_indirect_table_of_no_sound_length_fails_that_request_alone);
        PROMISE(an_indirect_table_in_unmapped_memory_fails_that_request_alone);
        PROMISE(an_indirect_table_may_lie_anywhere);
        PROMISE(nested_tables_fail_that_request_alone);
        PROMISE(a_loop_in_an_indirect_table_fails_that_request_alone);
        PROMISE(a_chain_of_more_pieces_than_one_call_takes_is_refused_alone);
        PROMISE(neighbours_in_memory_are_one_vector);
        PROMISE(a_forget_is_returned_empty);
    }
    return 0;
}
