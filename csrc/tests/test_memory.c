/* Guest memory: regions added, removed, exchanged and refused; huge pages; and the dirty log. */
#define _GNU_SOURCE 1
#include "check.h"
#include "mock_driver.h"

#include <errno.h>
#include <linux/memfd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1ULL << 20)

static struct guest guest;

static void begin(uint64_t features)
{
    guest_create(&guest, &(struct guest_options){
                             .size = 8 << 20, .queues = 2, .pool_threads = 1, .features = features});
}

/* Bytes at an address, as the device sees them. */
static uint8_t *device_at(uint64_t address, size_t size)
{
    size_t length = size;
    uint8_t *host = memory_translate(guest.device->memory, address, &length);
    return length == size ? host : NULL;
}

static int add(uint64_t guest_address, uint64_t size, uint64_t offset)
{
    struct vhostfs_region region = {.guest_address = guest_address,
                                    .size = size,
                                    .user_address = guest_address + (1ULL << 40),
                                    .offset = offset,
                                    .fd = guest.fd};
    return vhostfs_memory_add(guest.device, &region);
}

static void regions_may_begin_anywhere_in_their_file(void)
{
    begin(0);
    CHECK_EQUAL(vhostfs_memory_replace(guest.device, NULL, 0), 0);
    CHECK_EQUAL(add(0, MIB, MIB), 0);
    CHECK_EQUAL(add(16 * MIB, MIB, 3 * MIB + 0xf0), 0); /* no page boundary */
    CHECK_EQUAL(add(8 * MIB, 4096, 0), 0);
    guest.host[MIB + 5] = 1;
    guest.host[3 * MIB + 0xf0 + 6] = 2;
    guest.host[7] = 3;
    CHECK_EQUAL(*device_at(5, 1), 1);
    CHECK_EQUAL(*device_at(16 * MIB + 6, 1), 2);
    CHECK_EQUAL(*device_at(8 * MIB + 7, 1), 3);
    uint8_t *by_user = memory_translate_user(guest.device->memory, (1ULL << 40) + 16 * MIB + 6, 10);
    CHECK_EQUAL(*by_user, 2);
    guest_destroy(&guest);
}

static void what_lies_in_no_region_is_not_translated(void)
{
    begin(0);
    CHECK_EQUAL(vhostfs_memory_replace(guest.device, NULL, 0), 0);
    CHECK_EQUAL(add(4 * MIB, MIB, 0), 0);
    CHECK_EQUAL(add(6 * MIB, MIB, MIB), 0);
    const uint64_t outside[] = {0, 4 * MIB - 1, 5 * MIB, 6 * MIB - 1, 7 * MIB, UINT64_MAX};
    for (size_t i = 0; i < sizeof(outside) / sizeof(outside[0]); i++)
        CHECK(device_at(outside[i], 1) == NULL);
    CHECK(device_at(4 * MIB, MIB) != NULL);
    CHECK(device_at(4 * MIB, MIB + 1) == NULL); /* contiguous up to there */
    CHECK(memory_translate_user(guest.device->memory, (1ULL << 40) + 5 * MIB - 4, 5) == NULL);
    CHECK(memory_translate_user(guest.device->memory, UINT64_MAX, 5) == NULL);
    guest_destroy(&guest);
}

static void regions_that_make_no_sense_are_refused_and_change_nothing(void)
{
    begin(0);
    CHECK_EQUAL(vhostfs_memory_replace(guest.device, NULL, 0), 0);
    CHECK_EQUAL(add(4 * MIB, 2 * MIB, 0), 0);
    CHECK_EQUAL(add(4 * MIB, 2 * MIB, 0), -EEXIST);
    CHECK_EQUAL(add(6 * MIB - 1, MIB, 0), -EEXIST);
    CHECK_EQUAL(add(3 * MIB, MIB + 1, 0), -EEXIST);
    CHECK_EQUAL(add(0, 8 * MIB, 0), -EEXIST);
    CHECK_EQUAL(add(16 * MIB, 0, 0), -EINVAL);
    CHECK_EQUAL(add(UINT64_MAX - MIB + 2, MIB, 0), -EINVAL);
    CHECK_EQUAL(add(16 * MIB, MIB, 7 * MIB + 1), -EINVAL); /* beyond the end of its file */
    CHECK_EQUAL(add(16 * MIB, MIB, UINT64_MAX - 4096), -EINVAL);
    CHECK_EQUAL(add(16 * MIB, UINT64_MAX - 32 * MIB, 0), -EINVAL);
    struct vhostfs_region region = guest_region(&guest, 16 * MIB, MIB);
    region.offset = 0;
    region.fd = -1;
    CHECK_EQUAL(vhostfs_memory_add(guest.device, &region), -EBADF);
    CHECK_EQUAL(vhostfs_memory_remove(guest.device, &region), -ENOENT);
    struct vhostfs_region twice[] = {guest_region(&guest, 0, MIB), guest_region(&guest, 0, MIB)};
    CHECK_EQUAL(vhostfs_memory_replace(guest.device, twice, 2), -EEXIST);
    CHECK_EQUAL(guest.device->memory->count, 1);
    CHECK(device_at(4 * MIB, 2 * MIB) != NULL);
    CHECK_EQUAL(add(6 * MIB, MIB, 0), 0); /* next to it is no overlap */
    guest_destroy(&guest);
}

static void there_is_room_for_every_slot_of_a_front_end(void)
{
    begin(0);
    CHECK_EQUAL(vhostfs_memory_replace(guest.device, NULL, 0), 0);
    for (uint64_t i = 0; i < 512; i++)
        CHECK_EQUAL(add((i * 37 % 512) * 2 * MIB, 4096, i * 4096), 0);
    for (uint64_t i = 0; i < 512; i++) {
        guest.host[i * 4096] = (uint8_t)i;
        CHECK_EQUAL(*device_at((i * 37 % 512) * 2 * MIB, 1), (uint8_t)i);
        CHECK(device_at((i * 37 % 512) * 2 * MIB + 4096, 1) == NULL);
    }
    for (uint64_t i = 512; i < MEMORY_REGIONS; i++)
        CHECK_EQUAL(add(i * 2 * MIB, 4096, 0), 0);
    CHECK_EQUAL(add(1ULL << 40, 4096, 0), -ENOSPC);
    guest_destroy(&guest);
}

static bool logged(const uint8_t *log, uint64_t page)
{
    return (log[page / 8] & (1U << (page % 8))) != 0;
}

static void every_page_that_is_written_is_logged_and_no_other(void)
{
    for (int packed = 0; packed < 2; packed++) {
        begin(packed == 1 ? VIRTIO_FEATURE_PACKED : 0);
        struct driver driver;
        driver_create(&driver, &guest, 1,
                      &(struct driver_options){
                          .size = 64, .packed = packed == 1, .base = packed == 1 ? 0x80008000 : 0});
        driver_init(&driver);
        /* The log covers all guest-physical addresses from 0. */
        size_t size = (GUEST_BASE + guest.size) / DIRTY_LOG_PAGE / 8;
        int fd = memfd_create("log", MFD_CLOEXEC);
        CHECK_EQUAL(ftruncate(fd, (off_t)size + 4096), 0);
        uint8_t *log = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
        CHECK(log != MAP_FAILED);
        CHECK_EQUAL(vhostfs_memory_log(guest.device, fd, size, 4096), 0);
        CHECK_EQUAL(driver_call(&driver, FUSE_GETATTR, 1, NULL, 0), 0);
        for (size_t i = 0; i < size; i++)
            CHECK_EQUAL(log[i], 0); /* LOG_ALL is not acknowledged yet */

        uint64_t features = VHOST_USER_FEATURE_PROTOCOL | VIRTIO_FEATURE_LOG_ALL;
        features |= packed == 1 ? VIRTIO_FEATURE_PACKED : 0;
        CHECK_EQUAL(vhostfs_device_set_features(guest.device, features), 0);
        uint64_t to_user = GUEST_USER - GUEST_BASE;
        CHECK_EQUAL(vhostfs_queue_set_addresses(guest.device, 1, 1, driver.descriptors + to_user,
                                                driver.used + to_user, driver.available + to_user,
                                                driver.used),
                    0);
        uint64_t slot = driver.slots + (uint64_t)driver_next_id(&driver) * DRIVER_SLOT;
        uint64_t data = guest_allocate(&guest, 3 * 4096, 4096);
        struct fuse_in_header in = {.len = 80, .opcode = FUSE_READ, .unique = 2};
        struct fuse_read_in read = {.size = 8192};
        memcpy(guest_at(&guest, slot), &in, sizeof(in));
        memcpy((uint8_t *)guest_at(&guest, slot) + sizeof(in), &read, sizeof(read));
        struct buffer buffers[] = {
            {slot, 80, false, 0}, {slot + DRIVER_REPLY_AT, 16, true, 0}, {data + 100, 8192, true, 0}};
        CHECK(driver_add(&driver, buffers, 3, 0));
        driver_kick(&driver);
        uint16_t id = 0;
        uint32_t length = 0;
        driver_await(&driver, &id, &length);
        CHECK_EQUAL(length, 8208);
        uint32_t base = 0;
        CHECK_EQUAL(vhostfs_queue_stop(guest.device, 1, &base), 0);
        for (uint64_t page = 0; page < size * 8; page++) {
            uint64_t address = page * DIRTY_LOG_PAGE;
            bool written = address == slot + DRIVER_REPLY_AT ||
                           (address >= data && address < data + 3 * 4096) ||
                           page == driver.used / DIRTY_LOG_PAGE;
            if (packed == 1)
                written = written || page == driver.descriptors / DIRTY_LOG_PAGE;
            CHECK_EQUAL(logged(log, page), written);
        }
        munmap(log, size);
        close(fd);
        driver_destroy(&driver);
        guest_destroy(&guest);
    }
}

static void a_log_that_is_too_small_is_not_written_beyond(void)
{
    begin(VIRTIO_FEATURE_LOG_ALL);
    int fd = memfd_create("log", MFD_CLOEXEC);
    CHECK_EQUAL(ftruncate(fd, 4096), 0);
    CHECK_EQUAL(vhostfs_memory_log(guest.device, fd, 4097, 0), -EINVAL);
    CHECK_EQUAL(vhostfs_memory_log(guest.device, fd, 16, 0), 0);
    uint8_t *log = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(log != MAP_FAILED);
    CHECK_EQUAL(add(0, MIB, 0), 0);
    memory_mark_dirty(guest.device->memory, device_at(0, MIB), MIB); /* pages 0 to 255 */
    for (size_t i = 0; i < 4096; i++)
        CHECK_EQUAL(log[i], i < 16 ? 0xff : 0);
    dirty_log_mark(&guest.device->log, UINT64_MAX - 10, 100);
    dirty_log_mark(&guest.device->log, UINT64_MAX, 1);
    CHECK_EQUAL(vhostfs_memory_log(guest.device, -1, 0, 0), 0);
    memory_mark_dirty(guest.device->memory, device_at(0, MIB), MIB);
    munmap(log, 4096);
    close(fd);
    guest_destroy(&guest);
}

static void huge_pages_are_mapped_by_their_own_size(void)
{
    begin(0);
    int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | 21U << MFD_HUGE_SHIFT);
    if (fd < 0 || ftruncate(fd, 4 * MIB) != 0) {
        printf("  not run: this machine has no huge pages (%s)\n", strerror(errno));
    } else {
        struct vhostfs_region region = {.guest_address = 1ULL << 40,
                                        .size = MIB,
                                        .user_address = 1ULL << 41,
                                        .offset = 2 * MIB + 4096,
                                        .fd = fd};
        CHECK_EQUAL(vhostfs_memory_add(guest.device, &region), 0);
        CHECK_EQUAL((uintptr_t)device_at(1ULL << 40, 1) % (2 * MIB), 4096);
        /* Zero from a huge page, or, where there is none to be had, from what SIGBUS is repaired with. */
        CHECK_EQUAL(*device_at(1ULL << 40, 1), 0);
        CHECK_EQUAL(vhostfs_memory_remove(guest.device, &region), 0);
    }
    if (fd >= 0)
        close(fd);
    guest_destroy(&guest);
}

static void events_are_kept_in_order_and_the_dropped_ones_counted(void)
{
    begin(0);
    struct events *events = &guest.device->events;
    for (int i = 0; i < EVENTS_BOUND + 7; i++)
        events_push(events, VHOSTFS_EVENT_WARNING, i, 0, "one");
    for (int i = 0; i < EVENTS_BOUND; i++)
        CHECK_EQUAL(guest_event(&guest).queue, i);
    CHECK(strstr(guest_event(&guest).text, "7 events were dropped") != NULL);
    struct vhostfs_event none;
    vhostfs_device_next_event(guest.device, &none);
    CHECK_EQUAL(none.kind, VHOSTFS_EVENT_NONE);
    uint64_t count = 0;
    CHECK_EQUAL(read(vhostfs_device_event_fd(guest.device), &count, sizeof(count)), -1);
    CHECK_EQUAL(errno, EAGAIN);
    guest_destroy(&guest);
}

static void leave_with_42(int number)
{
    (void)number;
    _exit(42);
}

static void fault(void)
{
    int fd = memfd_create("short", MFD_CLOEXEC);
    CHECK_EQUAL(ftruncate(fd, 4096), 0);
    volatile uint8_t *bytes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK_EQUAL(ftruncate(fd, 0), 0);
    bytes[0] = 1;
}

static void be_signalled(void)
{
    kill(getpid(), SIGBUS);
}

/* How a process ends that had a handler of its own, or none, before the core's, and then meets SIGBUS. */
static int end_of_process(bool has_handler, void (*meet)(void))
{
    pid_t process = fork();
    CHECK(process >= 0);
    if (process == 0) {
        signal(SIGBUS, has_handler ? leave_with_42 : SIG_DFL);
        fclose(stderr); /* sanitizers report what is meant to happen here */
        CHECK_EQUAL(vhostfs_core_initialise(), 0);
        CHECK_EQUAL(vhostfs_core_initialise(), 0);
        meet();
        _exit(0);
    }
    int status = 0;
    CHECK_EQUAL(waitpid(process, &status, 0), process);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void faults_outside_guest_memory_are_not_ours(void)
{
    CHECK_EQUAL(end_of_process(true, fault), 42);
    CHECK_EQUAL(end_of_process(true, be_signalled), 42);
    CHECK(end_of_process(false, fault) != 0);
    CHECK(end_of_process(false, be_signalled) != 0);
}

int main(void)
{
    PROMISE(faults_outside_guest_memory_are_not_ours); /* first: the handler is installed once a process */
    PROMISE(regions_may_begin_anywhere_in_their_file);
    PROMISE(what_lies_in_no_region_is_not_translated);
    PROMISE(regions_that_make_no_sense_are_refused_and_change_nothing);
    PROMISE(there_is_room_for_every_slot_of_a_front_end);
    PROMISE(every_page_that_is_written_is_logged_and_no_other);
    PROMISE(a_log_that_is_too_small_is_not_written_beyond);
    PROMISE(huge_pages_are_mapped_by_their_own_size);
    PROMISE(events_are_kept_in_order_and_the_dropped_ones_counted);
    return 0;
}
