/* What a request costs that does nothing: GETATTR of the mock file system, at depth 1 and 32, split and
 * packed.
 *
 * CPU time of the ring's thread, by CLOCK_THREAD_CPUTIME_ID of that thread; on a busy machine the least of
 * several rounds counts. "bench_rings 1 split" runs one case for ever so many requests, for strace or perf.
 */
#define _GNU_SOURCE 1
#include "check.h"
#include "mock_driver.h"

#include <pthread.h>
#include <time.h>

static uint64_t cpu_time(pthread_t thread)
{
    clockid_t clock;
    struct timespec time;
    CHECK_EQUAL(pthread_getcpuclockid(thread, &clock), 0);
    CHECK_EQUAL(clock_gettime(clock, &time), 0);
    return (uint64_t)time.tv_sec * 1000000000U + (uint64_t)time.tv_nsec;
}

static void run(struct driver *driver, uint32_t requests, uint32_t depth)
{
    uint32_t sent = 0;
    uint32_t answered = 0;
    while (answered < requests) {
        while (sent < requests && sent - answered < depth &&
               driver_request(driver, FUSE_GETATTR, 1, NULL, 0, 120))
            sent++;
        driver_kick(driver);
        uint16_t id = 0;
        uint32_t length = 0;
        driver_await(driver, &id, &length);
        do
            answered++;
        while (driver_take(driver, &id, &length));
    }
}

static void measure(bool packed, uint32_t depth, uint32_t requests, int rounds)
{
    struct guest guest;
    guest_create(&guest, &(struct guest_options){.size = 16 << 20,
                                                 .queues = 2,
                                                 .pool_threads = 1,
                                                 .features = VIRTIO_FEATURE_EVENT_INDEX |
                                                             (packed ? VIRTIO_FEATURE_PACKED : 0)});
    struct driver driver;
    driver_create(&driver, &guest, 1,
                  &(struct driver_options){
                      .size = 128, .packed = packed, .event_index = true, .base = packed ? 0x80008000 : 0});
    driver_init(&driver);
    uint64_t least = UINT64_MAX;
    uint64_t calls = 0;
    for (int round = 0; round < rounds; round++) {
        uint64_t before = cpu_time(guest.device->queues[1]->thread);
        uint64_t calls_before = driver.calls;
        run(&driver, requests, depth);
        uint64_t spent = cpu_time(guest.device->queues[1]->thread) - before;
        if (spent < least) {
            least = spent;
            calls = driver.calls - calls_before;
        }
    }
    printf("  %s, depth %2u: %.3f us of CPU a request, %.3f calls a request\n", packed ? "packed" : "split",
           depth, (double)least / 1000 / requests, (double)calls / requests);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

int main(int count, char **arguments)
{
    if (count == 3) {
        measure(strcmp(arguments[2], "packed") == 0, (uint32_t)atoi(arguments[1]), 20000, 1);
        return 0;
    }
    for (int packed = 0; packed < 2; packed++) {
        measure(packed == 1, 1, 20000, 5);
        measure(packed == 1, 32, 200000, 5);
        measure(packed == 1, 63, 200000, 5);
    }
    return 0;
}
