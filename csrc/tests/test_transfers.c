/* Transfers that the kernel does by itself: requests that read a pipe, which has something when the test says
 * so. */
#define _GNU_SOURCE 1
#include "../uring.h"
#include "check.h"
#include "mock_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define RING 1024

static struct guest guest;
static struct driver driver;
static int pipe_in;

static void begin(bool io_uring, uint64_t poll_nanoseconds)
{
    int ends[2];
    CHECK_EQUAL(pipe2(ends, O_CLOEXEC), 0);
    mock_pipe = ends[0];
    pipe_in = ends[1];
    guest_create(&guest, &(struct guest_options){.size = 16 << 20,
                                                 .queues = 2,
                                                 .pool_threads = 64,
                                                 .poll_nanoseconds = poll_nanoseconds,
                                                 .io_uring = io_uring});
    driver_create(&driver, &guest, 1, &(struct driver_options){.size = RING});
    driver_init(&driver);
}

static void end(void)
{
    driver_destroy(&driver);
    guest_destroy(&guest);
    close(mock_pipe);
    close(pipe_in);
}

static void submit(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        CHECK(driver_request(&driver, FUSE_READLINK, 1, NULL, 0, 512));
    driver_kick(&driver);
}

/* Returns when the queue thread has met all that was made available before. */
static void pass(void)
{
    CHECK_EQUAL(driver_call(&driver, FUSE_GETATTR, 1, NULL, 0), 0);
}

/* Returns when all transfers that were made available before are the kernel's: the first answer may come before
 * their submission, the second request is only taken after it. */
static void pass_submission(void)
{
    pass();
    pass();
}

static void feed(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        CHECK_EQUAL(write(pipe_in, "12345678", MOCK_PIECE), MOCK_PIECE);
}

static void await(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint16_t id = 0;
        uint32_t length = 0;
        driver_await(&driver, &id, &length);
        const struct fuse_out_header *reply = driver_reply(&driver, id, length);
        CHECK_EQUAL(reply->error, 0);
        CHECK_EQUAL(length, sizeof(*reply) + MOCK_PIECE);
        CHECK(memcmp(reply + 1, "12345678", MOCK_PIECE) == 0);
    }
}

static void transfers_need_no_thread_and_hold_up_no_request(void)
{
    for (uint64_t poll = 0; poll <= 100000; poll += 100000) {
        begin(true, poll);
        for (int round = 0; round < 20; round++) {
            submit(10);
            for (int i = 0; i < 10; i++)
                pass();
            CHECK_EQUAL(mock_sleeping(), 0);
            feed(10);
            await(10);
        }
        end();
    }
}

static void what_a_ring_has_no_room_for_goes_to_the_pool(void)
{
    begin(true, 0);
    submit(URING_IN_FLIGHT + 20);
    pass();
    mock_await_sleepers(20);
    feed(URING_IN_FLIGHT + 20);
    await(URING_IN_FLIGHT + 20);
    submit(URING_IN_FLIGHT); /* there is room again */
    pass();
    CHECK_EQUAL(mock_sleeping(), 0);
    feed(URING_IN_FLIGHT);
    await(URING_IN_FLIGHT);
    end();
}

static void what_the_kernel_did_in_part_goes_to_the_pool(void)
{
    begin(true, 0);
    submit(1);
    pass();
    CHECK_EQUAL(write(pipe_in, "1234", 4), 4);
    mock_await_sleepers(1);
    feed(1);
    await(1);
    end();
}

static void a_transfer_outlives_the_descriptor_that_it_began_with(void)
{
    begin(true, 0);
    submit(1);
    pass_submission();
    close(mock_pipe);
    mock_pipe = open("/dev/null", O_RDONLY | O_CLOEXEC);
    feed(1);
    await(1);
    end();
}

static void *feed_five(void *unused)
{
    (void)unused;
    feed(5);
    return NULL;
}

static void stopping_waits_for_transfers(void)
{
    begin(true, 0);
    submit(5);
    pass();
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, feed_five, NULL), 0);
    uint32_t base = 0;
    CHECK_EQUAL(vhostfs_queue_stop(guest.device, 1, &base), 0);
    CHECK_EQUAL(base, 7);
    pthread_join(thread, NULL);
    await(5);
    driver_attach(&driver, base);
    submit(1); /* by a ring of the new thread's */
    pass();
    CHECK_EQUAL(mock_sleeping(), 0);
    feed(1);
    await(1);
    end();
}

static void stopping_ends_transfers_that_do_not_end(void)
{
    begin(true, 0);
    submit(5);
    pass();
    uint32_t base = 0;
    CHECK_EQUAL(vhostfs_queue_stop(guest.device, 1, &base), 0);
    for (int i = 0; i < 5; i++) {
        uint16_t id = 0;
        uint32_t length = 0;
        CHECK(driver_take(&driver, &id, &length));
        CHECK_EQUAL(driver_reply(&driver, id, length)->error, -EINTR);
    }
    end();
}

static void read_on_the_pool(bool io_uring)
{
    begin(io_uring, 0);
    submit(5);
    mock_await_sleepers(5);
    feed(5);
    await(5);
    end();
}

static void without_leave_the_pool_reads(void)
{
    read_on_the_pool(false);
}

/* From here on: a filter cannot be taken back. */
static void a_host_that_forbids_it_is_served_by_the_pool(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(filter) / sizeof(filter[0]), .filter = filter};
    CHECK_EQUAL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_EQUAL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    read_on_the_pool(true);
}

static bool host_has_it(void)
{
    int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct uring *ring = uring_create(wake);
    bool has = ring != NULL;
    uring_destroy(ring);
    close(wake);
    if (!has)
        printf("  mostly not run: this host has no io_uring, or forbids it\n");
    return has;
}

int main(void)
{
    if (host_has_it()) {
        PROMISE(transfers_need_no_thread_and_hold_up_no_request);
        PROMISE(what_a_ring_has_no_room_for_goes_to_the_pool);
        PROMISE(what_the_kernel_did_in_part_goes_to_the_pool);
        PROMISE(a_transfer_outlives_the_descriptor_that_it_began_with);
        PROMISE(stopping_waits_for_transfers);
        PROMISE(stopping_ends_transfers_that_do_not_end);
    }
    PROMISE(without_leave_the_pool_reads);
    PROMISE(a_host_that_forbids_it_is_served_by_the_pool);
    return 0;
}
