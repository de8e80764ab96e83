/* The life of a ring: begun, stopped, broken, set up anew, its memory exchanged, while requests are under
 * way. */
#define _GNU_SOURCE 1
#include "check.h"
#include "mock_driver.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static struct guest guest;

static void begin(uint32_t pool_threads, uint64_t features)
{
    guest_create(&guest,
                 &(struct guest_options){
                     .size = 8 << 20, .queues = 4, .pool_threads = pool_threads, .features = features});
}

static void attach(struct driver *driver, uint32_t index)
{
    driver_create(driver, &guest, index, &(struct driver_options){.size = 64});
}

static void submit(struct driver *driver, uint32_t opcode)
{
    CHECK(driver_request(driver, opcode, 1, NULL, 0, 512));
    driver_kick(driver);
}

static int32_t await(struct driver *driver)
{
    uint16_t id = 0;
    uint32_t length = 0;
    driver_await(driver, &id, &length);
    return driver_reply(driver, id, length)->error;
}

static uint32_t stop(uint32_t index)
{
    uint32_t base = 0;
    CHECK_EQUAL(vhostfs_queue_stop(guest.device, index, &base), 0);
    return base;
}

static void what_sleeps_holds_up_no_other_request(void)
{
    begin(4, 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    submit(&driver, FUSE_FSYNC);
    mock_await_sleepers(1);
    for (int i = 0; i < 100; i++)
        CHECK_EQUAL(driver_call(&driver, FUSE_GETATTR, 1, NULL, 0), 0);
    mock_wake();
    CHECK_EQUAL(await(&driver), 0);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

struct stopper {
    uint32_t base;
    _Atomic bool done;
};

static void *stop_ring(void *argument)
{
    struct stopper *stopper = argument;
    stopper->base = stop(1);
    atomic_store(&stopper->done, true);
    return NULL;
}

static void stopping_waits_for_what_was_taken(void)
{
    begin(4, 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    submit(&driver, FUSE_FSYNC);
    submit(&driver, FUSE_FSYNC);
    mock_await_sleepers(2);
    struct stopper stopper = {0};
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, stop_ring, &stopper), 0);
    mock_wake();
    mock_await_sleepers(1);
    CHECK(!atomic_load(&stopper.done));
    mock_wake();
    pthread_join(thread, NULL);
    CHECK_EQUAL(stopper.base, 3);
    uint16_t id = 0;
    uint32_t length = 0;
    CHECK(driver_take(&driver, &id, &length));
    CHECK(driver_take(&driver, &id, &length));
    /* What is made available now waits for the next start, which needs no kick. */
    submit(&driver, FUSE_GETATTR);
    driver_attach(&driver, stopper.base);
    CHECK_EQUAL(await(&driver), 0);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void stopping_ends_blocking_locks(void)
{
    begin(2, 0);
    struct driver driver;
    struct driver other;
    attach(&driver, 1);
    attach(&other, 2);
    driver_init(&driver);
    for (int i = 0; i < 10; i++)
        submit(&driver, FUSE_SETLKW);
    submit(&other, FUSE_SETLKW);
    mock_await_sleepers(11);
    stop(1);
    mock_await_sleepers(1); /* the other ring's */
    for (int i = 0; i < 10; i++) {
        uint16_t id = 0;
        uint32_t length = 0;
        CHECK(driver_take(&driver, &id, &length));
        CHECK_EQUAL(driver_reply(&driver, id, length)->error, -EINTR);
    }
    vhostfs_device_disconnect(guest.device);
    mock_await_sleepers(0);
    driver_destroy(&driver);
    driver_destroy(&other);
    guest_destroy(&guest);
}

static void blocking_locks_leave_the_pool_to_others(void)
{
    begin(1, 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    for (int i = 0; i < 20; i++)
        submit(&driver, FUSE_SETLKW);
    mock_await_sleepers(20);
    submit(&driver, FUSE_FSYNC);
    mock_await_sleepers(21);
    mock_wake();
    CHECK_EQUAL(await(&driver), 0);
    driver_destroy(&driver);
    guest_destroy(&guest);
    mock_await_sleepers(0);
}

static void blocking_locks_have_a_bound(void)
{
    guest_create(&guest, &(struct guest_options){.size = 16 << 20, .queues = 2, .pool_threads = 1});
    struct driver driver;
    driver_create(&driver, &guest, 1, &(struct driver_options){.size = 1024});
    driver_init(&driver);
    for (int i = 0; i < POOL_BLOCKING_LOCKS; i++)
        submit(&driver, FUSE_SETLKW);
    mock_await_sleepers(POOL_BLOCKING_LOCKS);
    submit(&driver, FUSE_SETLKW);
    CHECK_EQUAL(await(&driver), -ENOLCK);
    driver_destroy(&driver);
    guest_destroy(&guest);
    mock_await_sleepers(0);
}

static void more_sleepers_than_threads_wait_their_turn(void)
{
    begin(2, 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    for (int i = 0; i < 20; i++)
        submit(&driver, FUSE_FSYNC);
    mock_await_sleepers(2);
    for (int i = 0; i < 20; i++)
        mock_wake();
    for (int i = 0; i < 20; i++)
        CHECK_EQUAL(await(&driver), 0);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void what_sleeps_is_bounded_and_the_rest_waits_in_the_ring(void)
{
    /* Ten are woken while others may still be on their way to the pool: enough are left to fill it. */
    const uint32_t sleepers = QUEUE_IN_FLIGHT + 20;
    const uint32_t requests = sleepers + 500;
    guest_create(&guest, &(struct guest_options){.size = 48 << 20, .queues = 2, .pool_threads = 2});
    struct driver driver;
    driver_create(&driver, &guest, 1, &(struct driver_options){.size = 4096});
    driver_init(&driver);
    for (uint32_t i = 0; i < requests; i++)
        CHECK(driver_request(&driver, i < sleepers ? FUSE_FSYNC : FUSE_GETATTR, 1, NULL, 0, 512));
    driver_kick(&driver);
    mock_await_sleepers(2);
    for (uint32_t i = 0; i < 10; i++) {
        mock_wake();
        uint16_t id = 0;
        uint32_t length = 0;
        driver_await(&driver, &id, &length); /* one that slept: the others are not come to yet */
        CHECK_EQUAL(length, sizeof(struct fuse_out_header));
    }
    for (uint32_t i = 10; i < sleepers; i++)
        mock_wake();
    for (uint32_t i = 10; i < requests; i++)
        CHECK_EQUAL(await(&driver), 0);
    CHECK_EQUAL(stop(1), requests + 1);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

/* The ring is broken by `spoil`; the other ring, and the device, go on. */
static void expect_broken(void (*spoil)(struct driver *driver), uint64_t features, bool packed)
{
    begin(2, features);
    struct driver driver;
    struct driver other;
    const struct driver_options options = {.size = 64, .packed = packed, .base = packed ? 0x80008000 : 0};
    driver_create(&driver, &guest, 1, &options);
    driver_create(&other, &guest, 2, &options);
    driver_init(&driver);
    spoil(&driver);
    eventfd_write(driver.kick, 1);
    struct vhostfs_event event = guest_event_of(&guest, VHOSTFS_EVENT_QUEUE_BROKEN);
    CHECK_EQUAL(event.queue, 1);
    CHECK_EQUAL(event.error, EPROTO);
    CHECK(strstr(event.text, "ring 1") != NULL);
    struct pollfd ready = {.fd = driver.error, .events = POLLIN};
    CHECK_EQUAL(poll(&ready, 1, WAIT_MILLISECONDS), 1);
    CHECK_EQUAL(driver_call(&other, FUSE_GETATTR, 1, NULL, 0), 0);
    /* It can be stopped as any other; the driver begins anew. */
    stop(1);
    driver_destroy(&driver);
    driver_create(&driver, &guest, 1, &options);
    CHECK_EQUAL(driver_call(&driver, FUSE_GETATTR, 1, NULL, 0), 0);
    driver_destroy(&driver);
    driver_destroy(&other);
    guest_destroy(&guest);
}

static void spoil_available_index(struct driver *driver)
{
    uint16_t *available = guest_at(&guest, driver->available);
    __atomic_store_n(&available[1], (uint16_t)(driver->next + 65), __ATOMIC_RELEASE);
}

static void spoil_head(struct driver *driver)
{
    uint16_t *available = guest_at(&guest, driver->available);
    available[2 + driver->next % 64] = 64;
    __atomic_store_n(&available[1], (uint16_t)(driver->next + 1), __ATOMIC_RELEASE);
}

static void chain_to(struct driver *driver, uint16_t next)
{
    uint64_t *words = guest_at(&guest, driver->descriptors);
    uint16_t *available = guest_at(&guest, driver->available);
    words[0] = driver->slots;
    words[1] = 8 | (uint64_t)DESCRIPTOR_NEXT << 32 | (uint64_t)next << 48;
    available[2 + driver->next % 64] = 0;
    __atomic_store_n(&available[1], (uint16_t)(driver->next + 1), __ATOMIC_RELEASE);
}

static void spoil_next(struct driver *driver)
{
    chain_to(driver, 64);
}

static void spoil_by_loop(struct driver *driver)
{
    chain_to(driver, 0);
}

static void spoil_packed_list(struct driver *driver)
{
    uint64_t *words = guest_at(&guest, driver->descriptors);
    for (uint32_t i = 0; i < 64; i++) {
        uint32_t slot = (driver->next + 1 + i) % 64; /* the head last */
        uint64_t flags = DESCRIPTOR_NEXT | (slot >= driver->next ? 0x80U : 0x8000U);
        words[2 * slot] = driver->slots;
        __atomic_store_n(&words[2 * slot + 1], 1 | flags << 48, __ATOMIC_RELEASE);
    }
}

static void an_index_too_far_ahead_breaks_that_ring_alone(void)
{
    expect_broken(spoil_available_index, 0, false);
}

static void a_head_outside_the_table_breaks_that_ring_alone(void)
{
    expect_broken(spoil_head, 0, false);
}

static void a_next_outside_the_table_breaks_that_ring_alone(void)
{
    expect_broken(spoil_next, 0, false);
}

static void a_loop_breaks_that_ring_alone(void)
{
    expect_broken(spoil_by_loop, 0, false);
}

static void a_packed_list_without_end_breaks_that_ring_alone(void)
{
    expect_broken(spoil_packed_list, VIRTIO_FEATURE_PACKED, true);
}

static void a_kick_before_the_ring_is_enabled_is_not_lost(void)
{
    begin(2, 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    CHECK_EQUAL(vhostfs_queue_set_enabled(guest.device, 1, 0), 0);
    CHECK(driver_request(&driver, FUSE_GETATTR, 1, NULL, 0, 512));
    driver_kick(&driver);
    eventfd_write(driver.kick, 1);
    CHECK_EQUAL(vhostfs_queue_set_enabled(guest.device, 1, 1), 0);
    CHECK_EQUAL(await(&driver), 0);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void without_protocol_features_a_ring_needs_no_enabling(void)
{
    begin(2, 0);
    CHECK_EQUAL(vhostfs_device_set_features(guest.device, 1ULL << 32), 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    CHECK_EQUAL(vhostfs_queue_set_enabled(guest.device, 1, 0), 0);
    CHECK_EQUAL(driver_call(&driver, FUSE_GETATTR, 1, NULL, 0), 0);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void a_ring_is_set_up_anew_without_having_been_stopped(void)
{
    begin(2, 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 3; i++)
            CHECK_EQUAL(driver_call(&driver, FUSE_GETATTR, 1, NULL, 0), 0);
        CHECK_EQUAL(vhostfs_queue_set_base(guest.device, 1, 0), -EBUSY);
        CHECK_EQUAL(vhostfs_queue_set_enabled(guest.device, 1, 0), 0);
        driver_destroy(&driver);
        guest.allocated = 0;
        attach(&driver, 1);
    }
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void a_ring_under_way_keeps_its_layout(void)
{
    /* A split ring at the very end of memory, which a packed one of the same size would not reach. */
    begin(2, 0);
    struct driver driver;
    guest.allocated = guest.size - 4096;
    uint64_t end = guest_allocate(&guest, 4096, 4096);
    guest.allocated = 0;
    attach(&driver, 1);
    driver_init(&driver);
    const uint64_t protocol = VHOST_USER_FEATURE_PROTOCOL;
    CHECK_EQUAL(vhostfs_device_set_features(guest.device, protocol | VIRTIO_FEATURE_PACKED), 0);
    CHECK_EQUAL(driver_call(&driver, FUSE_GETATTR, 1, NULL, 0), 0);
    /* Four bytes at the end do for a packed ring's events, and not for a split ring's: it waits. */
    uint64_t last = end + 4092 - GUEST_BASE + GUEST_USER;
    CHECK_EQUAL(vhostfs_queue_set_addresses(guest.device, 1, 0, driver.descriptors - GUEST_BASE + GUEST_USER,
                                            last, last, 0),
                0);
    eventfd_write(driver.kick, 1);
    guest_event_of(&guest, VHOSTFS_EVENT_WARNING);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void the_call_descriptor_is_replaced_while_requests_run(void)
{
    begin(2, VIRTIO_FEATURE_EVENT_INDEX);
    struct driver driver;
    driver_create(&driver, &guest, 1, &(struct driver_options){.size = 64, .event_index = true});
    driver_init(&driver);
    for (int i = 0; i < 500; i++) {
        submit(&driver, FUSE_GETATTR);
        int old = driver.call;
        driver.call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        CHECK_EQUAL(vhostfs_queue_set_call(guest.device, 1, dup(driver.call)), 0);
        CHECK_EQUAL(await(&driver), 0);
        close(old);
    }
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void a_full_call_socket_holds_up_nobody(void)
{
    begin(2, 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    int ends[2];
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    CHECK_EQUAL(vhostfs_queue_set_call(guest.device, 1, dup(ends[0])), 0);
    uint8_t junk[4096] = {0};
    while (send(ends[0], junk, sizeof(junk), MSG_DONTWAIT) > 0)
        continue;
    submit(&driver, FUSE_GETATTR);
    uint16_t id = 0;
    uint32_t length = 0;
    for (int i = 0; i < WAIT_MILLISECONDS && !driver_take(&driver, &id, &length); i++)
        usleep(1000);
    CHECK_EQUAL(driver_reply(&driver, id, length)->error, 0);
    CHECK_EQUAL(stop(1), 2);
    close(ends[0]);
    close(ends[1]);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void a_ring_without_kick_descriptor_is_looked_at(void)
{
    begin(2, 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    CHECK_EQUAL(vhostfs_queue_set_kick(guest.device, 1, -1), 0);
    for (int i = 0; i < 10; i++) {
        CHECK(driver_request(&driver, FUSE_GETATTR, 1, NULL, 0, 512));
        uint16_t *available = guest_at(&guest, driver.available);
        __atomic_store_n(&available[1], driver.next, __ATOMIC_RELEASE);
        CHECK_EQUAL(await(&driver), 0);
    }
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void a_kick_may_come_through_a_socket(void)
{
    begin(2, 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    int ends[2];
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    CHECK_EQUAL(vhostfs_queue_set_kick(guest.device, 1, dup(ends[0])), 0);
    for (int i = 0; i < 10; i++) {
        CHECK(driver_request(&driver, FUSE_GETATTR, 1, NULL, 0, 512));
        uint16_t *available = guest_at(&guest, driver.available);
        __atomic_store_n(&available[1], driver.next, __ATOMIC_RELEASE);
        uint64_t one = 1;
        CHECK_EQUAL(write(ends[1], &one, sizeof(one)), 8);
        CHECK_EQUAL(await(&driver), 0);
    }
    close(ends[0]);
    close(ends[1]); /* a kick that has ended does not make the thread spin: the ring stops as usual */
    CHECK_EQUAL(stop(1), 11);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void memory_is_exchanged_while_requests_run(void)
{
    begin(2, 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    struct vhostfs_region whole = guest_region(&guest, 0, guest.size);
    struct vhostfs_region halves[] = {guest_region(&guest, 0, 4 << 20),
                                      guest_region(&guest, 4 << 20, 4 << 20)};
    for (int i = 0; i < 300; i++) {
        for (int j = 0; j < 20; j++)
            CHECK(driver_request(&driver, j == 0 ? FUSE_FSYNC : FUSE_GETATTR, 1, NULL, 0, 512));
        driver_kick(&driver);
        if (i % 2 == 0)
            CHECK_EQUAL(vhostfs_memory_replace(guest.device, halves, 2), 0);
        else
            CHECK_EQUAL(vhostfs_memory_replace(guest.device, &whole, 1), 0);
        mock_wake();
        for (int j = 0; j < 20; j++)
            CHECK_EQUAL(await(&driver), 0);
    }
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void memory_that_is_added_serves_the_next_request(void)
{
    begin(2, 0);
    struct vhostfs_region first = guest_region(&guest, 0, 4 << 20);
    struct vhostfs_region second = guest_region(&guest, 4 << 20, 4 << 20);
    CHECK_EQUAL(vhostfs_memory_replace(guest.device, &first, 1), 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    for (int i = 0; i < 200; i++) {
        uint64_t reply = GUEST_BASE + (6 << 20);
        uint16_t id = driver_next_id(&driver);
        uint64_t slot = driver.slots + (uint64_t)id * DRIVER_SLOT;
        struct fuse_in_header in = {.len = 40, .opcode = FUSE_GETATTR, .unique = 2};
        memcpy(guest_at(&guest, slot), &in, sizeof(in));
        struct buffer buffers[] = {{slot, 40, false, 0}, {reply, 512, true, 0}};
        CHECK_EQUAL(vhostfs_memory_add(guest.device, &second), 0);
        CHECK(driver_add(&driver, buffers, 2, 0));
        driver_kick(&driver);
        uint32_t length = 0;
        driver_await(&driver, &id, &length);
        CHECK_EQUAL(length, 120);
        CHECK_EQUAL(vhostfs_memory_remove(guest.device, &second), 0);
        CHECK(driver_add(&driver, buffers, 2, 0));
        driver_kick(&driver);
        driver_await(&driver, &id, &length);
        CHECK_EQUAL(length, 0);
    }
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void a_ring_whose_memory_is_taken_away_waits_for_it(void)
{
    begin(2, 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    CHECK_EQUAL(vhostfs_memory_replace(guest.device, NULL, 0), 0);
    guest_event_of(&guest, VHOSTFS_EVENT_WARNING);
    submit(&driver, FUSE_GETATTR);
    struct vhostfs_region whole = guest_region(&guest, 0, guest.size);
    CHECK_EQUAL(vhostfs_memory_add(guest.device, &whole), 0);
    CHECK_EQUAL(await(&driver), 0);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static void memory_that_vanishes_costs_the_connection_and_not_the_process(void)
{
    for (int detached = 0; detached < 2; detached++) {
        begin(2, 0);
        struct driver driver;
        attach(&driver, 1);
        driver_init(&driver);
        if (detached == 1) {
            submit(&driver, FUSE_FSYNC);
            mock_await_sleepers(1);
        } else {
            CHECK(driver_request(&driver, FUSE_GETATTR, 1, NULL, 0, 512));
        }
        /* Our own mapping would fault as well: it is not looked at from here on. */
        CHECK_EQUAL(ftruncate(guest.fd, 0), 0);
        if (detached == 1)
            mock_wake();
        else
            eventfd_write(driver.kick, 1);
        guest_event_of(&guest, VHOSTFS_EVENT_MEMORY_GONE);
        vhostfs_device_disconnect(guest.device);
        /* The next front-end finds a device that works. */
        driver_destroy(&driver);
        CHECK_EQUAL(ftruncate(guest.fd, (off_t)guest.size), 0);
        guest.allocated = 0;
        CHECK_EQUAL(vhostfs_device_set_features(guest.device, VHOST_USER_FEATURE_PROTOCOL), 0);
        struct vhostfs_region whole = guest_region(&guest, 0, guest.size);
        CHECK_EQUAL(vhostfs_memory_add(guest.device, &whole), 0);
        attach(&driver, 1);
        driver_init(&driver);
        driver_destroy(&driver);
        guest_destroy(&guest);
    }
}

static void a_reset_keeps_memory_and_ends_the_session(void)
{
    begin(2, 0);
    struct driver driver;
    attach(&driver, 1);
    driver_init(&driver);
    submit(&driver, FUSE_SETLKW);
    mock_await_sleepers(1);
    vhostfs_device_reset(guest.device);
    mock_await_sleepers(0);
    CHECK_EQUAL(stop(1), 0);
    driver_destroy(&driver);
    attach(&driver, 1);
    CHECK_EQUAL(driver_call(&driver, FUSE_GETATTR, 1, NULL, 0), -EIO); /* no session */
    driver_init(&driver);
    CHECK_EQUAL(driver_call(&driver, FUSE_GETATTR, 1, NULL, 0), 0);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

static uint32_t count_of(const char *directory)
{
    uint32_t count = 0;
    DIR *listing = opendir(directory);
    CHECK(listing != NULL);
    while (readdir(listing) != NULL)
        count++;
    closedir(listing);
    return count;
}

static void nothing_is_left_when_a_device_is_destroyed(void)
{
    uint32_t descriptors = count_of("/proc/self/fd");
    for (int round = 0; round < 3; round++) {
        begin(4, 0);
        struct driver drivers[3];
        for (uint32_t i = 0; i < 3; i++) {
            attach(&drivers[i], i);
            if (i == 0)
                driver_init(&drivers[i]); /* a second INIT would end the session of the first's requests */
            submit(&drivers[i], FUSE_SETLKW);
        }
        mock_await_sleepers(3);
        CHECK_EQUAL(vhostfs_queue_set_call(guest.device, 4, dup(0)), -EINVAL);
        CHECK_EQUAL(vhostfs_queue_set_kick(guest.device, 400, dup(0)), -EINVAL);
        for (uint32_t i = 0; i < 3; i++)
            driver_destroy(&drivers[i]);
        guest_destroy(&guest);
    }
    CHECK_EQUAL(count_of("/proc/self/fd"), descriptors);
}

int main(void)
{
    PROMISE(what_sleeps_holds_up_no_other_request);
    PROMISE(stopping_waits_for_what_was_taken);
    PROMISE(stopping_ends_blocking_locks);
    PROMISE(blocking_locks_leave_the_pool_to_others);
    PROMISE(blocking_locks_have_a_bound);
    PROMISE(more_sleepers_than_threads_wait_their_turn);
    PROMISE(what_sleeps_is_bounded_and_the_rest_waits_in_the_ring);
    PROMISE(an_index_too_far_ahead_breaks_that_ring_alone);
    PROMISE(a_head_outside_the_table_breaks_that_ring_alone);
    PROMISE(a_next_outside_the_table_breaks_that_ring_alone);
    PROMISE(a_loop_breaks_that_ring_alone);
    PROMISE(a_packed_list_without_end_breaks_that_ring_alone);
    PROMISE(a_kick_before_the_ring_is_enabled_is_not_lost);
    PROMISE(without_protocol_features_a_ring_needs_no_enabling);
    PROMISE(a_ring_is_set_up_anew_without_having_been_stopped);
    PROMISE(a_ring_under_way_keeps_its_layout);
    PROMISE(the_call_descriptor_is_replaced_while_requests_run);
    PROMISE(a_full_call_socket_holds_up_nobody);
    PROMISE(a_ring_without_kick_descriptor_is_looked_at);
    PROMISE(a_kick_may_come_through_a_socket);
    PROMISE(memory_is_exchanged_while_requests_run);
    PROMISE(memory_that_is_added_serves_the_next_request);
    PROMISE(a_ring_whose_memory_is_taken_away_waits_for_it);
    PROMISE(memory_that_vanishes_costs_the_connection_and_not_the_process);
    PROMISE(a_reset_keeps_memory_and_ends_the_session);
    PROMISE(nothing_is_left_when_a_device_is_destroyed);
    return 0;
}
