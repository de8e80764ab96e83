/* What a request costs that does nothing: GETATTR of the mock file system, at depth 1 and 32, split and
 * packed.
 *
 * CPU time of the ring's thread, by CLOCK_THREAD_CPUTIME_ID of that thread; on a busy machine the least of
 * several rounds counts. "bench_rings 1 split" runs one case for ever so many requests, for strace or perf.
 */
#define _GNU_SOURCE 1
#include "check.h"
#include "mock_driver.h"

#include <fcntl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

static uint64_t cpu_time(pthread_t thread)
{
    clockid_t clock;
    struct timespec time;
    CHECK_EQUAL(pthread_getcpuclockid(thread, &clock), 0);
    CHECK_EQUAL(clock_gettime(clock, &time), 0);
    return (uint64_t)time.tv_sec * 1000000000U + (uint64_t)time.tv_nsec;
}

#define MOCK_NODE 1
#define HOST_NODE (1ULL << 48 | 1) /* the root of the second mount */

static void mount_directory(struct guest *guest)
{
    struct vhostfs_passthrough_options options = {
        .root_fd = open("/dev/shm", O_PATH | O_DIRECTORY | O_CLOEXEC),
        .proc_self_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC),
        .cache = VHOSTFS_CACHE_AUTO,
        .descriptor_budget = 1024,
    };
    CHECK_EQUAL(vhostfs_device_mount_passthrough(guest->device, 1, &options), 0);
    close(options.root_fd);
    close(options.proc_self_fd);
}

static void run(struct driver *driver, uint64_t nodeid, uint32_t requests, uint32_t depth)
{
    const struct fuse_getattr_in in = {0};
    uint32_t sent = 0;
    uint32_t answered = 0;
    while (answered < requests) {
        while (sent < requests && sent - answered < depth &&
               driver_request(driver, FUSE_GETATTR, nodeid, &in, sizeof(in), 120))
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

static void measure(bool packed, uint64_t nodeid, uint32_t depth, uint32_t requests, int rounds)
{
    struct guest guest;
    guest_create(&guest, &(struct guest_options){.size = 16 << 20,
                                                 .queues = 2,
                                                 .pool_threads = 1,
                                                 .features = VIRTIO_FEATURE_EVENT_INDEX |
                                                             (packed ? VIRTIO_FEATURE_PACKED : 0)});
    mount_directory(&guest);
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
        run(&driver, nodeid, requests, depth);
        uint64_t spent = cpu_time(guest.device->queues[1]->thread) - before;
        if (spent < least) {
            least = spent;
            calls = driver.calls - calls_before;
        }
    }
    printf("  %s, %s ring, depth %2u: %.3f us of CPU and %.3f calls a request\n",
           nodeid == MOCK_NODE ? "nothing" : "getattr", packed ? "packed" : "split", depth,
           (double)least / 1000 / requests, (double)calls / requests);
    driver_destroy(&driver);
    guest_destroy(&guest);
}

int main(int count, char **arguments)
{
    if (count == 3) {
        measure(strcmp(arguments[2], "packed") == 0, MOCK_NODE, (uint32_t)atoi(arguments[1]), 20000, 1);
        return 0;
    }
    for (int packed = 0; packed < 2; packed++) {
        for (int host = 0; host < 2; host++) {
            uint64_t nodeid = host == 1 ? HOST_NODE : MOCK_NODE;
            measure(packed == 1, nodeid, 1, 20000, 5);
            measure(packed == 1, nodeid, 32, 200000, 5);
        }
    }
    return 0;
}
