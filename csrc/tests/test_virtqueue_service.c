/* Rings are served: every layout, size and wrap-around, with and without an event index. */
#define _GNU_SOURCE 1
#include "check.h"
#include "mock_driver.h"

static const struct guest_options ordinary = {.size = 8 << 20, .queues = 3, .pool_threads = 4};

static void serve(const struct driver_options *options, uint32_t requests, uint32_t depth)
{
    struct guest guest;
    struct guest_options with = ordinary;
    with.size = (size_t)(2 << 20) + (size_t)options->size * (DRIVER_SLOT + 32);
    with.features = (options->packed ? VIRTIO_FEATURE_PACKED : 0) |
                    (options->event_index ? VIRTIO_FEATURE_EVENT_INDEX : 0);
    guest_create(&guest, &with);
    struct driver driver;
    driver_create(&driver, &guest, 1, options);
    driver_init(&driver);
    uint32_t sent = 0;
    uint32_t answered = 0;
    while (answered < requests) {
        while (sent < requests && sent - answered < depth &&
               driver_request(&driver, FUSE_GETATTR, sent % 1000 + 1, NULL, 0, 512))
            sent++;
        driver_kick(&driver);
        uint16_t id = 0;
        uint32_t length = 0;
        driver_await(&driver, &id, &length);
        do {
            const struct fuse_out_header *out = driver_reply(&driver, id, length);
            CHECK_EQUAL(out->error, 0);
            CHECK_EQUAL(out->len, sizeof(*out) + sizeof(struct fuse_attr_out));
            answered++;
        } while (driver_take(&driver, &id, &length));
    }
    uint32_t base = 0;
    CHECK_EQUAL(vhostfs_queue_stop(guest.device, 1, &base), 0);
    if (!options->packed)
        CHECK_EQUAL(base, (uint16_t)(options->base + requests + 1));
    else
        CHECK_EQUAL(base & 0xffff, driver.next | (driver.wrap ? 0x8000 : 0));
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void a_split_ring_serves_across_the_wrap_of_its_index(void)
{
    serve(&(struct driver_options){.size = 256}, 70000, 64);
}

static void an_event_index_survives_the_wrap(void)
{
    serve(&(struct driver_options){.size = 256, .event_index = true}, 70000, 64);
}

static void a_ring_may_begin_anywhere(void)
{
    serve(&(struct driver_options){.size = 64, .event_index = true, .base = 65500}, 200, 16);
}

static void a_split_ring_of_the_largest_size_serves(void)
{
    serve(&(struct driver_options){.size = 32768, .event_index = true}, 40000, 8192);
}

static void a_tiny_ring_serves(void)
{
    serve(&(struct driver_options){.size = 2}, 1000, 1);
}

static void a_packed_ring_serves_across_many_wraps(void)
{
    serve(&(struct driver_options){.size = 256, .packed = true, .base = 0x80008000}, 70000, 64);
}

static void a_packed_ring_of_any_size_serves_with_an_event_index(void)
{
    serve(&(struct driver_options){.size = 117, .packed = true, .event_index = true, .base = 0x80008000},
          70000, 50);
}

static void a_packed_ring_begins_at_base_zero_as_a_fresh_one(void)
{
    serve(&(struct driver_options){.size = 64, .packed = true, .event_index = true}, 500, 20);
}

static void one_request_at_a_time_is_called_for(void)
{
    serve(&(struct driver_options){.size = 128, .event_index = true}, 3000, 1);
    serve(&(struct driver_options){.size = 128, .packed = true, .event_index = true}, 3000, 1);
}

int main(void)
{
    PROMISE(a_tiny_ring_serves);
    PROMISE(a_split_ring_serves_across_the_wrap_of_its_index);
    PROMISE(an_event_index_survives_the_wrap);
    PROMISE(a_ring_may_begin_anywhere);
    PROMISE(a_split_ring_of_the_largest_size_serves);
    PROMISE(a_packed_ring_serves_across_many_wraps);
    PROMISE(a_packed_ring_of_any_size_serves_with_an_event_index);
    PROMISE(a_packed_ring_begins_at_base_zero_as_a_fresh_one);
    PROMISE(one_request_at_a_time_is_called_for);
    return 0;
}
