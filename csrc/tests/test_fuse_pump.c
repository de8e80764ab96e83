/* Requests from /dev/fuse that the loop which answers them reads by itself, with a socket in its place. */
#define _GNU_SOURCE 1
#include "../handoff.h"
#include "check.h"
#include "mock_driver.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define MOUNT 3
#define NODE (((uint64_t)MOUNT << 48) | 7)
#define PATIENCE 60000 /* milliseconds */

static struct guest guest;
static vhostfs_handoff *handoff;
static int kernel; /* the other end */
static int loop;   /* what the loop that pumps waits by */
static _Alignas(8) uint8_t batch[128 * 1024];

static void wait_for(int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    CHECK_EQUAL(epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event), 0);
}

static void attach(uint32_t readers)
{
    guest_create(&guest, &(struct guest_options){.size = 1 << 20, .queues = 2, .pool_threads = 2});
    uint64_t served = 1ULL << FUSE_GETATTR | 1ULL << FUSE_FORGET;
    CHECK_EQUAL(vhostfs_device_mount_handoff(guest.device, MOUNT, served, &handoff), 0);
    int ends[2];
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    kernel = ends[0];
    struct timeval patience = {.tv_sec = WAIT_MILLISECONDS / 1000};
    CHECK_EQUAL(setsockopt(kernel, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    CHECK_EQUAL(vhostfs_device_attach_fuse(guest.device, ends[1], readers), 0);
    close(ends[1]);
    loop = epoll_create1(EPOLL_CLOEXEC);
    CHECK(loop >= 0);
    if (readers == 0)
        wait_for(vhostfs_device_fuse_fd(guest.device));
}

static void end(void)
{
    vhostfs_device_detach_fuse(guest.device);
    vhostfs_handoff_close(handoff);
    guest_destroy(&guest);
    close(kernel);
    close(loop);
}

static void ask(uint32_t opcode, uint64_t unique, uint64_t nodeid, const void *body, size_t size)
{
    uint8_t message[256];
    struct fuse_in_header in = {
        .len = (uint32_t)(sizeof(in) + size), .opcode = opcode, .unique = unique, .nodeid = nodeid};
    memcpy(message, &in, sizeof(in));
    if (size > 0)
        memcpy(message + sizeof(in), body, size);
    CHECK_EQUAL(send(kernel, message, sizeof(in) + size, 0), sizeof(in) + size);
}

static struct fuse_out_header receive(void)
{
    uint8_t message[4096];
    struct fuse_out_header out;
    ssize_t size = recv(kernel, message, sizeof(message), 0);
    CHECK(size >= (ssize_t)sizeof(out));
    memcpy(&out, message, sizeof(out));
    CHECK_EQUAL(out.len, size);
    return out;
}

static int64_t pump(uint32_t most, int milliseconds)
{
    return vhostfs_handoff_pump(handoff, guest.device, batch, sizeof(batch), most, loop, milliseconds);
}

/* The record at a place of the batch, which then is that of the next one. */
static struct vhostfs_handoff_record record_at(size_t *place)
{
    struct vhostfs_handoff_record record;
    memcpy(&record, batch + *place, sizeof(record));
    *place += (sizeof(record) + record.size + 7) & ~(size_t)7;
    return record;
}

static void ask_init(void)
{
    struct fuse_init_in in = {.major = 7, .minor = 45};
    ask(FUSE_INIT, 2, 0, &in, sizeof(in));
}

static void begin(void)
{
    attach(0);
    ask_init();
    size_t place = 0;
    CHECK_EQUAL(pump(8, PATIENCE), sizeof(struct vhostfs_handoff_record));
    CHECK_EQUAL(record_at(&place).kind, VHOSTFS_HANDOFF_BEGIN);
    CHECK_EQUAL(receive().error, 0);
}

static bool readable(int fd)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    return poll(&ready, 1, 0) == 1;
}

static void what_waits_is_read_taken_and_answered_by_who_pumps(void)
{
    begin();
    CHECK_EQUAL(pump(8, 0), 0);
    for (uint64_t i = 0; i < 3; i++)
        ask(FUSE_GETATTR, 10 + 2 * i, NODE, NULL, 0);
    CHECK(readable(vhostfs_device_fuse_fd(guest.device)));
    int64_t used = pump(2, 0);
    size_t place = 0;
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, record_at(&place).token, 0, NULL, 0), 0);
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, record_at(&place).token, ENOENT, NULL, 0), 0);
    CHECK_EQUAL(place, used);
    CHECK(!readable(kernel));
    used = pump(2, 0);
    CHECK_EQUAL(receive().unique, 10);
    struct fuse_out_header out = receive();
    CHECK_EQUAL(out.unique, 12);
    CHECK_EQUAL(out.error, -ENOENT);
    place = 0;
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, record_at(&place).token, 0, NULL, 0), 0);
    CHECK_EQUAL(place, used);
    vhostfs_handoff_flush(handoff);
    CHECK_EQUAL(receive().unique, 14);
    CHECK(!readable(vhostfs_handoff_fd(handoff))); /* nobody needed to be woken */
    end();
}

static void other_mounts_are_answered_at_once(void)
{
    begin();
    ask(FUSE_GETATTR, 10, 1, NULL, 0);
    CHECK_EQUAL(pump(8, 0), 0);
    CHECK_EQUAL(receive().error, 0);
    ask(FUSE_STATFS, 12, NODE, NULL, 0);
    CHECK_EQUAL(pump(8, 0), 0);
    CHECK_EQUAL(receive().error, -ENOSYS);
    end();
}

static void *ask_later(void *argument)
{
    ask(FUSE_GETATTR, 10, NODE, NULL, 0);
    return argument;
}

static void who_is_patient_gets_the_request_that_comes_meanwhile(void)
{
    begin();
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, ask_later, NULL), 0);
    int64_t used = 0;
    while (used == 0)
        used = pump(8, PATIENCE);
    size_t place = 0;
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, record_at(&place).token, 0, NULL, 0), 0);
    CHECK_EQUAL(pump(8, 0), 0);
    CHECK_EQUAL(receive().unique, 10);
    pthread_join(thread, NULL);
    end();
}

static void whatever_else_the_loop_waits_for_ends_the_sleep(void)
{
    begin();
    int other = eventfd(1, EFD_CLOEXEC);
    CHECK(other >= 0);
    wait_for(other);
    CHECK_EQUAL(pump(8, PATIENCE), 0);
    CHECK(readable(other));
    ask(FUSE_GETATTR, 10, NODE, NULL, 0);
    int64_t used = pump(8, PATIENCE);
    size_t place = 0;
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, record_at(&place).token, 0, NULL, 0), 0);
    CHECK_EQUAL(place, used);
    CHECK_EQUAL(pump(8, PATIENCE), 0);
    CHECK_EQUAL(receive().unique, 10);
    close(other);
    end();
}

static void what_was_not_taken_wakes(void)
{
    begin();
    ask(FUSE_DESTROY, 4, 0, NULL, 0);
    size_t place = 0;
    CHECK_EQUAL(pump(1, PATIENCE), sizeof(struct vhostfs_handoff_record));
    CHECK_EQUAL(record_at(&place).kind, VHOSTFS_HANDOFF_END);
    CHECK(readable(vhostfs_handoff_fd(handoff)));
    place = 0;
    CHECK(vhostfs_handoff_take(handoff, batch, sizeof(batch), 8) > 0);
    struct vhostfs_handoff_record destroy = record_at(&place);
    CHECK_EQUAL(destroy.kind, VHOSTFS_HANDOFF_END);
    CHECK(!readable(vhostfs_handoff_fd(handoff)));
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, destroy.token, 0, NULL, 0), 0);
    vhostfs_handoff_flush(handoff);
    CHECK_EQUAL(receive().unique, 4);
    end();
}

static void the_end_of_the_connection_ends_pumping_and_is_told(void)
{
    begin();
    shutdown(kernel, SHUT_RDWR);
    CHECK_EQUAL(pump(8, PATIENCE), -ENODEV);
    guest_event_of(&guest, VHOSTFS_EVENT_UNMOUNTED);
    CHECK_EQUAL(pump(8, PATIENCE), -ENODEV);
    end();
}

static void where_threads_read_nobody_pumps(void)
{
    attach(1);
    CHECK_EQUAL(vhostfs_device_fuse_fd(guest.device), -1);
    CHECK_EQUAL(pump(8, PATIENCE), -ENODEV);
    ask_init();
    CHECK_EQUAL(receive().error, 0);
    end();
}

static void *pump_until_the_end(void *argument)
{
    _Atomic bool *pumping = argument;
    int64_t used = 0;
    while (used >= 0) {
        used = pump(8, 1);
        size_t place = 0;
        while (used > 0 && place < (size_t)used)
            vhostfs_handoff_answer(handoff, record_at(&place).token, EPERM, NULL, 0);
        atomic_store(pumping, true);
    }
    CHECK_EQUAL(used, -ENODEV);
    return NULL;
}

static void detaching_waits_for_who_pumps(void)
{
    for (int round = 0; round < 20; round++) {
        begin();
        _Atomic bool pumping = false;
        pthread_t thread;
        CHECK_EQUAL(pthread_create(&thread, NULL, pump_until_the_end, &pumping), 0);
        ask(FUSE_GETATTR, 10, NODE, NULL, 0);
        CHECK_EQUAL(receive().error, -EPERM);
        vhostfs_device_detach_fuse(guest.device);
        pthread_join(thread, NULL);
        end();
    }
}

int main(void)
{
    PROMISE(what_waits_is_read_taken_and_answered_by_who_pumps);
    PROMISE(other_mounts_are_answered_at_once);
    PROMISE(who_is_patient_gets_the_request_that_comes_meanwhile);
    PROMISE(whatever_else_the_loop_waits_for_ends_the_sleep);
    PROMISE(what_was_not_taken_wakes);
    PROMISE(the_end_of_the_connection_ends_pumping_and_is_told);
    PROMISE(where_threads_read_nobody_pumps);
    PROMISE(detaching_waits_for_who_pumps);
    return 0;
}
