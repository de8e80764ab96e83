/* Many rings at once: drivers on threads of their own, the control thread changing things under them, and
 * guests that write all over their rings meanwhile. */
#define _GNU_SOURCE 1
#include "check.h"
#include "mock_driver.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define DRIVERS 4

static struct guest guest;

static void begin(uint64_t features, uint64_t poll_nanoseconds)
{
    guest_create(&guest, &(struct guest_options){.size = 8 << 20,
                                                 .queues = DRIVERS + 1,
                                                 .pool_threads = 8,
                                                 .poll_nanoseconds = poll_nanoseconds,
                                                 .features = features});
}

struct load {
    struct driver driver;
    uint32_t requests;
    uint32_t depth;
    bool sleeps; /* some requests go to the pool; somebody has to wake them */
    pthread_t thread;
    _Atomic bool done;
};

static void *drive(void *argument)
{
    struct load *load = argument;
    struct driver *driver = &load->driver;
    uint32_t sent = 0;
    uint32_t answered = 0;
    while (answered < load->requests) {
        while (sent < load->requests && sent - answered < load->depth) {
            uint32_t opcode = load->sleeps && sent % 16 == 0 ? FUSE_FSYNC : FUSE_GETATTR;
            if (!driver_request(driver, opcode, 1, NULL, 0, 512))
                break;
            sent++;
            if (sent % 3 == 0)
                driver_kick(driver);
        }
        driver_kick(driver);
        uint16_t id = 0;
        uint32_t length = 0;
        driver_await(driver, &id, &length);
        do {
            CHECK_EQUAL(driver_reply(driver, id, length)->error, 0);
            answered++;
        } while (driver_take(driver, &id, &length));
    }
    atomic_store(&load->done, true);
    return NULL;
}

static void start(struct load *loads, bool packed, bool event_index, uint32_t requests, bool sleeps)
{
    for (uint32_t i = 0; i < DRIVERS; i++) {
        loads[i] = (struct load){.requests = requests, .depth = i == 0 ? 1 : 8 * i, .sleeps = sleeps};
        driver_create(
            &loads[i].driver, &guest, i,
            &(struct driver_options){
                .size = 64, .packed = packed, .event_index = event_index, .base = packed ? 0x80008000 : 0});
        if (i == 0)
            driver_init(&loads[0].driver);
    }
    for (uint32_t i = 0; i < DRIVERS; i++)
        CHECK_EQUAL(pthread_create(&loads[i].thread, NULL, drive, &loads[i]), 0);
}

static bool all_done(struct load *loads)
{
    bool done = true;
    for (uint32_t i = 0; i < DRIVERS; i++)
        done = done && atomic_load(&loads[i].done);
    return done;
}

static void *wake_sleepers(void *argument)
{
    while (!all_done(argument)) {
        if (mock_sleeping() > 0)
            mock_wake();
        sched_yield();
    }
    return NULL;
}

static void finish(struct load *loads)
{
    for (uint32_t i = 0; i < DRIVERS; i++) {
        pthread_join(loads[i].thread, NULL);
        driver_destroy(&loads[i].driver);
    }
    guest_destroy(&guest);
}

static void rings_serve_side_by_side(void)
{
    for (int kind = 0; kind < 4; kind++) {
        bool packed = (kind & 1) != 0;
        bool event_index = (kind & 2) != 0;
        struct load loads[DRIVERS];
        begin((packed ? VIRTIO_FEATURE_PACKED : 0) | (event_index ? VIRTIO_FEATURE_EVENT_INDEX : 0), 0);
        start(loads, packed, event_index, 5000, false);
        finish(loads);
    }
}

static void the_pool_returns_chains_beside_the_queue_thread(void)
{
    for (int packed = 0; packed < 2; packed++) {
        struct load loads[DRIVERS];
        begin(VIRTIO_FEATURE_EVENT_INDEX | (packed == 1 ? VIRTIO_FEATURE_PACKED : 0), 0);
        start(loads, packed == 1, true, 2000, true);
        wake_sleepers(loads);
        finish(loads);
    }
}

static void polling_loses_nothing(void)
{
    struct load loads[DRIVERS];
    begin(VIRTIO_FEATURE_EVENT_INDEX, 20000);
    start(loads, false, true, 3000, false);
    finish(loads);
}

static void everything_may_be_changed_under_load(void)
{
    struct load loads[DRIVERS];
    const uint64_t features = VIRTIO_FEATURE_EVENT_INDEX | VHOST_USER_FEATURE_PROTOCOL;
    begin(features, 0);
    start(loads, false, true, 4000, true);
    pthread_t waker;
    CHECK_EQUAL(pthread_create(&waker, NULL, wake_sleepers, loads), 0);
    struct vhostfs_region whole = guest_region(&guest, 0, guest.size);
    struct vhostfs_region halves[] = {guest_region(&guest, 0, 4 << 20),
                                      guest_region(&guest, 4 << 20, 4 << 20)};
    size_t log_size = (GUEST_BASE + guest.size) / DIRTY_LOG_PAGE / 8;
    int log = memfd_create("log", MFD_CLOEXEC);
    CHECK_EQUAL(ftruncate(log, (off_t)log_size), 0);
    for (uint32_t round = 0; !all_done(loads); round++) {
        uint32_t index = round % DRIVERS;
        struct driver *driver = &loads[index].driver;
        uint64_t to_user = GUEST_USER - GUEST_BASE;
        CHECK_EQUAL(vhostfs_queue_set_enabled(guest.device, index, 0), 0);
        CHECK_EQUAL(
            vhostfs_memory_replace(guest.device, round % 2 == 0 ? halves : &whole, round % 2 == 0 ? 2 : 1),
            0);
        CHECK_EQUAL(vhostfs_queue_set_enabled(guest.device, index, 1), 0);
        CHECK_EQUAL(vhostfs_queue_set_call(guest.device, index, dup(driver->call)), 0);
        CHECK_EQUAL(vhostfs_memory_log(guest.device, round % 3 == 0 ? -1 : log, log_size, 0), 0);
        CHECK_EQUAL(vhostfs_device_set_features(guest.device,
                                                features | (round % 5 != 0 ? VIRTIO_FEATURE_LOG_ALL : 0)),
                    0);
        CHECK_EQUAL(vhostfs_queue_set_addresses(guest.device, index, round % 2, driver->descriptors + to_user,
                                                driver->used + to_user, driver->available + to_user,
                                                driver->used),
                    0);
        CHECK_EQUAL(vhostfs_queue_set_kick(guest.device, index, dup(driver->kick)), 0);
        if (round % 7 == 0) {
            uint32_t base = 0;
            CHECK_EQUAL(vhostfs_queue_set_enabled(guest.device, index, 0), 0);
            CHECK_EQUAL(vhostfs_queue_stop(guest.device, index, &base), 0);
            driver_attach(driver, base);
        }
        usleep(200);
    }
    pthread_join(waker, NULL);
    close(log);
    finish(loads);
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}

struct scribbler {
    struct driver *driver;
    uint32_t seed;
    _Atomic bool stop;
};

/* A guest that changes its ring, its requests and its tables while they are read. */
static void *scribble(void *argument)
{
    struct scribbler *scribbler = argument;
    const struct driver *driver = scribbler->driver;
    uint8_t *ring = guest_at(&guest, driver->descriptors);
    uint8_t *slots = guest_at(&guest, driver->slots);
    uint32_t state = scribbler->seed;
    while (!atomic_load_explicit(&scribbler->stop, memory_order_relaxed)) {
        uint32_t where = next_random(&state);
        uint16_t what = (uint16_t)next_random(&state);
        if (where % 3 == 0)
            __atomic_store_n((uint16_t *)(void *)(ring + where % 1500 * 2), what & 0x87, __ATOMIC_RELAXED);
        else if (where % 3 == 1)
            __atomic_store_n((uint16_t *)(void *)(slots + where % 4096 * 2), what, __ATOMIC_RELAXED);
        else
            __atomic_store_n((uint64_t *)(void *)(ring + where % 64 * 16),
                             GUEST_BASE + next_random(&state) % (9 << 20), __ATOMIC_RELAXED);
    }
    return NULL;
}

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZER 1
#endif
#endif

/* With the other ring the device goes on; nothing else is promised to such a guest. */
static void a_guest_that_scribbles_over_its_ring_hurts_itself_alone(void)
{
#ifdef THREAD_SANITIZER
    printf("  not run under ThreadSanitizer: the guest's races are its own\n");
    return;
#endif
    for (uint32_t round = 0; round < 120; round++) {
        bool packed = round % 2 == 1;
        begin(packed ? VIRTIO_FEATURE_PACKED : 0, 0);
        struct driver driver;
        struct driver other;
        const struct driver_options options = {.size = 64, .packed = packed, .base = packed ? 0x80008000 : 0};
        driver_create(&driver, &guest, 1, &options);
        driver_create(&other, &guest, 2, &options);
        driver_init(&other);
        static const uint32_t opcodes[] = {FUSE_READ, FUSE_WRITE, FUSE_GETATTR};
        const struct fuse_read_in body = {.size = 4096};
        struct scribbler scribbler = {.driver = &driver, .seed = round};
        pthread_t thread;
        CHECK_EQUAL(pthread_create(&thread, NULL, scribble, &scribbler), 0);
        for (int burst = 0; burst < 20; burst++) {
            for (int i = 0; i < 3; i++)
                driver_request(&driver, opcodes[i], 1, &body, sizeof(body), 512);
            driver.free_count = 64; /* it waits for nothing */
            driver.free_head = 0;
            driver_kick(&driver);
            eventfd_write(driver.kick, 1);
            sched_yield();
        }
        atomic_store(&scribbler.stop, true);
        pthread_join(thread, NULL);
        for (int i = 0; i < 64; i++)
            mock_wake();     /* what it may have made of its opcodes */
        driver_init(&other); /* it may have ended the session */
        CHECK_EQUAL(driver_call(&other, FUSE_GETATTR, 1, NULL, 0), 0);
        uint32_t base = 0;
        CHECK_EQUAL(vhostfs_queue_stop(guest.device, 1, &base), 0);
        driver_destroy(&driver);
        driver_destroy(&other);
        guest_destroy(&guest);
    }
}

int main(void)
{
    PROMISE(rings_serve_side_by_side);
    PROMISE(the_pool_returns_chains_beside_the_queue_thread);
    PROMISE(polling_loses_nothing);
    PROMISE(everything_may_be_changed_under_load);
    PROMISE(a_guest_that_scribbles_over_its_ring_hurts_itself_alone);
    return 0;
}
