/* Limits: token buckets on a clock of the test's own; and rings whose requests wait for them. */
#define _GNU_SOURCE 1
#include "../rate_limit.h"
#include "check.h"
#include "mock_driver.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#define SECOND 1000000000ULL
#define MILLISECOND 1000000ULL

static vhostfs_rate_limit *make(uint64_t requests, uint64_t requests_burst, uint64_t bytes,
                                uint64_t bytes_burst)
{
    vhostfs_rate_limit *limit = NULL;
    CHECK_EQUAL(
        vhostfs_rate_limit_create(&(struct vhostfs_rate_limit_options){.requests = requests,
                                                                       .requests_burst = requests_burst,
                                                                       .bytes = bytes,
                                                                       .bytes_burst = bytes_burst},
                                  &limit),
        0);
    return limit;
}

/* How many requests of a size are taken until `until`, by one who waits as long as he is told. */
static uint64_t taken(vhostfs_rate_limit *limit, uint64_t now, uint64_t until, uint64_t bytes)
{
    uint64_t count = 0;
    while (now <= until) {
        uint64_t wait = rate_limit_wait(limit, now);
        if (wait == 0) {
            rate_limit_pay(limit, now, bytes);
            count++;
        }
        now += wait;
    }
    return count;
}

static void a_burst_comes_at_once_and_then_the_rate_holds(void)
{
    vhostfs_rate_limit *limit = make(100, 20, 0, 0);
    uint64_t begin = 5 * SECOND;
    CHECK_EQUAL(taken(limit, begin, begin, 1000000), 20);
    CHECK_EQUAL(taken(limit, begin + 1, begin + 10 * SECOND, 1000000), 1000);
    /* After a pause, however long, one burst. */
    CHECK_EQUAL(taken(limit, begin + 1000 * SECOND, begin + 1000 * SECOND, 0), 20);
    vhostfs_rate_limit_put(limit);
}

static void bytes_are_bounded_beside_requests(void)
{
    vhostfs_rate_limit *limit = make(1000, 10, 1 << 20, 1 << 20);
    uint64_t begin = SECOND;
    uint64_t count = taken(limit, begin, begin + 10 * SECOND, 1 << 16);
    CHECK(count >= 11 * 16 && count <= 11 * 16 + 1);
    /* Those without data are not held up by what those with data owe, beyond it being paid. */
    begin += 20 * SECOND;
    CHECK_EQUAL(taken(limit, begin, begin, 0), 10);
    vhostfs_rate_limit_put(limit);
}

static void a_request_larger_than_the_burst_passes_and_is_paid_for(void)
{
    vhostfs_rate_limit *limit = make(0, 0, 1000, 1000);
    CHECK_EQUAL(rate_limit_wait(limit, SECOND), 0);
    rate_limit_pay(limit, SECOND, 10000);
    uint64_t wait = rate_limit_wait(limit, SECOND);
    CHECK(wait > 8 * SECOND && wait <= 9 * SECOND + 1);
    CHECK_EQUAL(rate_limit_wait(limit, SECOND + wait), 0);
    vhostfs_rate_limit_put(limit);
}

static void a_rate_of_none_bounds_nothing(void)
{
    vhostfs_rate_limit *limit = make(0, 0, 0, 0);
    for (int i = 0; i < 1000; i++)
        CHECK_EQUAL(vhostfs_rate_limit_take(limit, UINT64_MAX), 0);
    vhostfs_rate_limit_put(limit);
    CHECK_EQUAL(vhostfs_rate_limit_create(&(struct vhostfs_rate_limit_options){.bytes = UINT64_MAX}, &limit),
                -EINVAL);
}

static void the_largest_of_numbers_do_no_harm(void)
{
    vhostfs_rate_limit *limit = make(1, UINT64_MAX, 1, UINT64_MAX);
    uint64_t now = SECOND;
    rate_limit_pay(limit, now, UINT64_MAX);
    CHECK(rate_limit_wait(limit, now) > 0);
    vhostfs_rate_limit_put(limit);
}

/* ---- Rings ---- */

static struct guest guest;

static void begin(struct driver *driver, vhostfs_rate_limit *limit)
{
    guest_create(&guest, &(struct guest_options){.size = 8 << 20, .queues = 4, .pool_threads = 2});
    driver_create(driver, &guest, 1, &(struct driver_options){.size = 256});
    driver_init(driver);
    CHECK_EQUAL(vhostfs_device_limit_mount(guest.device, 0, limit), 0);
}

static void end(struct driver *driver)
{
    driver_destroy(driver);
    guest_destroy(&guest);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static void what_is_beyond_the_limit_waits_in_the_ring_and_is_answered(void)
{
    vhostfs_rate_limit *limit = make(1000, 10, 0, 0);
    struct driver driver;
    begin(&driver, limit);
    uint64_t before = now();
    for (int i = 0; i < 60; i++)
        CHECK(driver_request(&driver, FUSE_GETATTR, 1, NULL, 0, 512));
    driver_kick(&driver);
    for (int i = 0; i < 60; i++) {
        uint16_t id = 0;
        uint32_t length = 0;
        driver_await(&driver, &id, &length);
        CHECK_EQUAL(driver_reply(&driver, id, length)->error, 0);
    }
    /* 50 beyond the burst. No earlier; how much later is the machine's business. */
    CHECK(now() - before >= 49 * MILLISECOND);
    end(&driver);
    vhostfs_rate_limit_put(limit);
}

/* Empties a limit for far longer than a test lasts. */
static void exhaust(vhostfs_rate_limit *limit)
{
    rate_limit_pay(limit, now(), 1 << 30);
    CHECK(rate_limit_wait(limit, now()) > 1000 * SECOND);
}

static void stopping_a_ring_that_waits_hangs_nowhere_and_loses_nothing(void)
{
    vhostfs_rate_limit *limit = make(0, 0, 1000, 1000);
    struct driver driver;
    begin(&driver, limit);
    exhaust(limit);
    for (int i = 0; i < 3; i++)
        CHECK(driver_request(&driver, FUSE_GETATTR, 1, NULL, 0, 512));
    driver_kick(&driver);
    uint32_t base = 0;
    CHECK_EQUAL(vhostfs_queue_stop(guest.device, 1, &base), 0);
    CHECK_EQUAL(base, 1); /* after INIT: the three are still the driver's */
    uint16_t id = 0;
    uint32_t length = 0;
    CHECK(!driver_take(&driver, &id, &length));
    driver_attach(&driver, base);
    CHECK_EQUAL(vhostfs_queue_stop(guest.device, 1, &base), 0);
    CHECK_EQUAL(base, 1);
    end(&driver);
    vhostfs_rate_limit_put(limit);
}

static void forgetting_never_waits(void)
{
    vhostfs_rate_limit *limit = make(0, 0, 1000, 1000);
    struct driver driver;
    begin(&driver, limit);
    exhaust(limit);
    CHECK(driver_request(&driver, FUSE_FORGET, 1, &(struct fuse_forget_in){.nlookup = 1},
                         sizeof(struct fuse_forget_in), 0));
    driver_kick(&driver);
    uint16_t id = 0;
    uint32_t length = 0;
    driver_await(&driver, &id, &length);
    CHECK_EQUAL(driver_call(&driver, FUSE_DESTROY, 0, NULL, 0), 0);
    end(&driver);
    vhostfs_rate_limit_put(limit);
}

static void several_devices_share_a_limit(void)
{
    vhostfs_rate_limit *limit = make(0, 0, 1000, 1000);
    struct guest other;
    struct driver driver;
    struct driver others;
    begin(&driver, limit);
    guest_create(&other, &(struct guest_options){.size = 8 << 20, .queues = 4, .pool_threads = 2});
    driver_create(&others, &other, 1, &(struct driver_options){.size = 64});
    driver_init(&others);
    CHECK_EQUAL(vhostfs_device_limit_mount(other.device, 0, limit), 0);
    CHECK_EQUAL(driver_call(&driver, FUSE_GETATTR, 1, NULL, 0), 0);
    CHECK_EQUAL(driver_call(&others, FUSE_GETATTR, 1, NULL, 0), 0);
    struct fuse_read_in read = {.size = 2000};
    CHECK(driver_request(&driver, FUSE_READ, 1, &read, sizeof(read), sizeof(struct fuse_out_header) + 2000));
    driver_kick(&driver);
    uint16_t id = 0;
    uint32_t length = 0;
    driver_await(&driver, &id, &length);
    CHECK_EQUAL(driver_reply(&driver, id, length)->error, 0);
    /* What one has read, the other waits for: a second of it is owed. */
    CHECK(rate_limit_wait(limit, now()) > SECOND / 2);
    CHECK(driver_request(&others, FUSE_GETATTR, 1, NULL, 0, 512));
    driver_kick(&others);
    uint32_t base = 0;
    CHECK_EQUAL(vhostfs_queue_stop(other.device, 1, &base), 0);
    CHECK_EQUAL(base, 2);
    /* The limit outlives whoever let go of it first. */
    vhostfs_rate_limit_put(limit);
    driver_destroy(&others);
    guest_destroy(&other);
    end(&driver);
}

static void a_mount_keeps_to_each_of_its_limits(void)
{
    vhostfs_rate_limit *wide = make(1000000, 1000000, 0, 0);
    vhostfs_rate_limit *narrow = make(0, 0, 1000, 1000);
    struct driver driver;
    begin(&driver, wide);
    CHECK_EQUAL(vhostfs_device_limit_mount(guest.device, 0, narrow), 0);
    CHECK_EQUAL(vhostfs_device_limit_mount(guest.device, 0, wide), 0);
    CHECK_EQUAL(vhostfs_device_limit_mount(guest.device, 0, wide), 0);
    CHECK_EQUAL(vhostfs_device_limit_mount(guest.device, 0, wide), -ENOSPC);
    CHECK_EQUAL(vhostfs_device_limit_mount(guest.device, 3, wide), -ENOENT);
    CHECK_EQUAL(driver_call(&driver, FUSE_GETATTR, 1, NULL, 0), 0);
    exhaust(narrow);
    CHECK(driver_request(&driver, FUSE_GETATTR, 1, NULL, 0, 512));
    driver_kick(&driver);
    uint32_t base = 0;
    CHECK_EQUAL(vhostfs_queue_stop(guest.device, 1, &base), 0);
    CHECK_EQUAL(base, 2);
    end(&driver);
    vhostfs_rate_limit_put(narrow);
    vhostfs_rate_limit_put(wide);
}

int main(void)
{
    PROMISE(a_burst_comes_at_once_and_then_the_rate_holds);
    PROMISE(bytes_are_bounded_beside_requests);
    PROMISE(a_request_larger_than_the_burst_passes_and_is_paid_for);
    PROMISE(a_rate_of_none_bounds_nothing);
    PROMISE(the_largest_of_numbers_do_no_harm);
    PROMISE(what_is_beyond_the_limit_waits_in_the_ring_and_is_answered);
    PROMISE(stopping_a_ring_that_waits_hangs_nowhere_and_loses_nothing);
    PROMISE(forgetting_never_waits);
    PROMISE(several_devices_share_a_limit);
    PROMISE(a_mount_keeps_to_each_of_its_limits);
    return 0;
}
