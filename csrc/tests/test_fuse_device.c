/* Requests from /dev/fuse, with a socket in its place: messages keep their bounds there, too. What only a kernel does
 * (clones, aborts, backing files) is tested with one: tests/mounting. */
#define _GNU_SOURCE 1
#include "check.h"
#include "mock_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define BUFFER_SIZE ((size_t)128 << 10)
#define DATA_SIZE ((uint32_t)64 << 10)

static struct guest guest;
static int kernel; /* the other end */
static uint8_t answer[BUFFER_SIZE];

static const struct fuse_out_header *header(void)
{
    return (const struct fuse_out_header *)(const void *)answer;
}

static void send_message(const void *bytes, size_t size)
{
    CHECK_EQUAL(send(kernel, bytes, size, 0), size);
}

static void ask(uint32_t opcode, uint64_t unique, uint64_t nodeid, const void *body, size_t size)
{
    uint8_t message[BUFFER_SIZE];
    CHECK(sizeof(struct fuse_in_header) + size <= sizeof(message));
    struct fuse_in_header in = {
        .len = (uint32_t)(sizeof(in) + size), .opcode = opcode, .unique = unique, .nodeid = nodeid};
    memcpy(message, &in, sizeof(in));
    if (size > 0)
        memcpy(message + sizeof(in), body, size);
    send_message(message, sizeof(in) + size);
}

/* The next message, checked: its length. Bytes behind the header. */
static size_t receive(void)
{
    ssize_t size = recv(kernel, answer, sizeof(answer), 0);
    CHECK(size >= (ssize_t)sizeof(struct fuse_out_header));
    CHECK_EQUAL(header()->len, size);
    return (size_t)size - sizeof(struct fuse_out_header);
}

/* One request alone; its error. */
static int32_t call(uint32_t opcode, uint64_t nodeid, const void *body, size_t size)
{
    static uint64_t unique = 1000000;
    unique += 2;
    ask(opcode, unique, nodeid, body, size);
    receive();
    CHECK_EQUAL(header()->unique, unique);
    return header()->error;
}

static void say_init(void)
{
    struct fuse_init_in in = {.major = 7, .minor = 45, .max_readahead = 131072, .flags = FUSE_INIT_INIT_EXT};
    CHECK_EQUAL(call(FUSE_INIT, 0, &in, sizeof(in)), 0);
}

static void begin(uint32_t readers)
{
    guest_create(&guest, &(struct guest_options){.size = 1 << 20, .queues = 2, .pool_threads = 8});
    int ends[2];
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    kernel = ends[0];
    struct timeval patience = {.tv_sec = WAIT_MILLISECONDS / 1000};
    CHECK_EQUAL(setsockopt(kernel, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    CHECK_EQUAL(vhostfs_device_attach_fuse(guest.device, ends[1], readers), 0);
    close(ends[1]);
    say_init();
}

static void end(void)
{
    vhostfs_device_detach_fuse(guest.device);
    guest_destroy(&guest);
    close(kernel);
}

static void every_request_is_answered_once_whoever_reads_it(void)
{
    enum { COUNT = 200 };
    bool answered[COUNT] = {false};
    begin(4);
    for (uint64_t i = 0; i < COUNT; i++)
        ask(FUSE_GETATTR, 2 + 2 * i, 7 + i, NULL, 0);
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQUAL(receive(), sizeof(struct fuse_attr_out));
        uint64_t which = header()->unique / 2 - 1;
        CHECK(which < COUNT && !answered[which]);
        answered[which] = true;
        struct fuse_attr_out out;
        memcpy(&out, answer + sizeof(struct fuse_out_header), sizeof(out));
        CHECK_EQUAL(out.attr.ino, 7 + which);
    }
    end();
}

static void data_goes_both_ways(void)
{
    begin(2);
    struct fuse_read_in in = {.offset = 5, .size = DATA_SIZE};
    CHECK_EQUAL(call(FUSE_READ, 1, &in, sizeof(in)), 0);
    CHECK_EQUAL(header()->len, sizeof(struct fuse_out_header) + DATA_SIZE);
    for (uint32_t i = 0; i < DATA_SIZE; i++)
        CHECK_EQUAL(answer[sizeof(struct fuse_out_header) + i], (uint8_t)(5 + i));

    uint8_t body[sizeof(struct fuse_write_in) + DATA_SIZE];
    struct fuse_write_in write = {.size = DATA_SIZE};
    memcpy(body, &write, sizeof(write));
    memset(body + sizeof(write), 3, DATA_SIZE);
    CHECK_EQUAL(call(FUSE_WRITE, 1, body, sizeof(body)), 0);
    struct fuse_write_out out;
    memcpy(&out, answer + sizeof(struct fuse_out_header), sizeof(out));
    CHECK_EQUAL(out.size, 3 * DATA_SIZE);
    end();
}

static void sizes_beyond_the_buffers_are_errors(void)
{
    begin(1);
    struct fuse_read_in read = {.size = UINT32_MAX};
    CHECK(call(FUSE_READ, 1, &read, sizeof(read)) < 0);
    read.size = (1 << 20) + 1;
    CHECK(call(FUSE_READ, 1, &read, sizeof(read)) < 0);
    struct fuse_write_in write = {.size = UINT32_MAX};
    CHECK(call(FUSE_WRITE, 1, &write, sizeof(write)) < 0);
    CHECK_EQUAL(call(FUSE_GETATTR, 1, NULL, 0), 0);
    end();
}

static void malformed_requests_are_refused_alone(void)
{
    begin(2);
    /* No header, and so no number to answer to: an answer to 0 would be a notification. */
    uint8_t wild[sizeof(struct fuse_in_header)] = {0};
    send_message(wild, 1);
    send_message(wild, sizeof(wild) - 1);
    send_message(wild, sizeof(wild));
    struct fuse_in_header in = {.len = sizeof(in) + 1, .opcode = FUSE_GETATTR, .unique = 2, .nodeid = 1};
    send_message(&in, sizeof(in));
    receive();
    CHECK_EQUAL(header()->error, -EIO);
    CHECK_EQUAL(header()->unique, 2);
    in = (struct fuse_in_header){
        .len = sizeof(in), .opcode = FUSE_GETATTR, .unique = 4, .nodeid = 1, .total_extlen = 9};
    send_message(&in, sizeof(in));
    receive();
    CHECK_EQUAL(header()->error, -EIO);
    CHECK_EQUAL(call(4000, 1, NULL, 0), -ENOSYS);
    CHECK_EQUAL(call(FUSE_READ, 1, wild, 7), -EIO);
    static const uint8_t large[100 << 10];
    CHECK_EQUAL(call(FUSE_SETXATTR, 1, large, sizeof(large)), -E2BIG);
    CHECK_EQUAL(call(FUSE_GETATTR, 1, NULL, 0), 0);
    end();
}

static void what_needs_no_answer_gets_none(void)
{
    begin(1);
    struct fuse_forget_in forget = {.nlookup = 1};
    ask(FUSE_FORGET, 2, 5, &forget, sizeof(forget));
    struct fuse_interrupt_in interrupt = {.unique = 998};
    ask(FUSE_INTERRUPT, 998 | FUSE_INT_REQ_BIT, 0, &interrupt, sizeof(interrupt));
    ask(FUSE_INTERRUPT, 998 | FUSE_INT_REQ_BIT, 0, &interrupt, 3);
    CHECK_EQUAL(call(FUSE_GETATTR, 1, NULL, 0), 0);
    end();
}

static void what_sleeps_holds_up_no_other_request(void)
{
    begin(1);
    ask(FUSE_FSYNC, 2, 1, NULL, 0);
    mock_await_sleepers(1);
    for (int i = 0; i < 100; i++)
        CHECK_EQUAL(call(FUSE_GETATTR, 1, NULL, 0), 0);
    mock_wake();
    receive();
    CHECK_EQUAL(header()->unique, 2);
    CHECK_EQUAL(header()->error, 0);
    end();
}

/* Interrupt a request as Linux does, which sends it again where that is asked for; until it is answered. */
static int32_t interrupted(uint64_t unique)
{
    struct fuse_interrupt_in in = {.unique = unique};
    ask(FUSE_INTERRUPT, unique | FUSE_INT_REQ_BIT, 0, &in, sizeof(in));
    for (;;) {
        receive();
        if (header()->unique == unique)
            return header()->error;
        CHECK_EQUAL(header()->error, -EAGAIN);
        /* One may come when what it is about has been answered: Linux passes over it. */
        if (header()->unique != (unique | FUSE_INT_REQ_BIT))
            continue;
        ask(FUSE_INTERRUPT, unique | FUSE_INT_REQ_BIT, 0, &in, sizeof(in));
    }
}

static void interrupts_end_the_lock_they_name_and_no_other(void)
{
    begin(2);
    for (uint64_t i = 1; i <= 3; i++)
        ask(FUSE_SETLKW, 2 * i, 1, NULL, 0);
    mock_await_sleepers(3);
    CHECK_EQUAL(interrupted(4), -EINTR);
    mock_await_sleepers(2);
    CHECK_EQUAL(interrupted(2), -EINTR);
    CHECK_EQUAL(interrupted(6), -EINTR);
    mock_await_sleepers(0);
    end();
}

static void an_interrupt_finds_a_lock_wherever_it_is(void)
{
    begin(3);
    for (uint64_t i = 1; i <= 300; i++) {
        ask(FUSE_SETLKW, 2 * i, 1, NULL, 0);
        CHECK_EQUAL(interrupted(2 * i), -EINTR);
    }
    end();
}

static void what_exceeds_a_limit_waits_and_is_answered_at_the_end_at_the_latest(void)
{
    begin(2);
    vhostfs_rate_limit *limit = NULL;
    CHECK_EQUAL(vhostfs_rate_limit_create(
                    &(struct vhostfs_rate_limit_options){.requests = 1, .requests_burst = 3}, &limit),
                0);
    CHECK_EQUAL(vhostfs_device_limit_mount(guest.device, 0, limit), 0);
    vhostfs_rate_limit_put(limit);
    /* The burst, and what is due since it began. */
    for (uint64_t i = 1; i <= 4; i++)
        CHECK_EQUAL(call(FUSE_GETATTR, 1, NULL, 0), 0);
    for (uint64_t i = 1; i <= 2; i++)
        ask(FUSE_GETATTR, 2 * i, 1, NULL, 0);
    struct pollfd answered = {.fd = kernel, .events = POLLIN};
    CHECK_EQUAL(poll(&answered, 1, 20), 0);
    vhostfs_device_detach_fuse(guest.device);
    receive();
    receive();
    CHECK_EQUAL(header()->error, 0);
    end();
}

static void the_end_of_the_connection_is_told_once(void)
{
    begin(4);
    shutdown(kernel, SHUT_WR);
    struct vhostfs_event event = guest_event_of(&guest, VHOSTFS_EVENT_UNMOUNTED);
    CHECK_EQUAL(event.error, 0);
    vhostfs_device_detach_fuse(guest.device);
    while (vhostfs_device_next_event(guest.device, &event), event.kind != VHOSTFS_EVENT_NONE)
        CHECK(event.kind != VHOSTFS_EVENT_UNMOUNTED);
    end();
}

static void *detach(void *argument)
{
    vhostfs_device_detach_fuse(guest.device);
    return argument;
}

static void detaching_waits_for_what_was_taken(void)
{
    begin(2);
    ask(FUSE_FSYNC, 2, 1, NULL, 0);
    ask(FUSE_SETLKW, 4, 1, NULL, 0);
    mock_await_sleepers(2);
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, detach, NULL), 0);
    receive(); /* the lock is given up at once */
    CHECK_EQUAL(header()->unique, 4);
    CHECK_EQUAL(header()->error, -EINTR);
    mock_wake();
    receive();
    CHECK_EQUAL(header()->unique, 2);
    CHECK_EQUAL(header()->error, 0);
    pthread_join(thread, NULL);
    end();
}

static void a_device_is_attached_once(void)
{
    begin(1);
    CHECK_EQUAL(vhostfs_device_attach_fuse(guest.device, kernel, 1), -EBUSY);
    end();
    guest_create(&guest, &(struct guest_options){.size = 1 << 20, .queues = 2, .pool_threads = 1});
    CHECK_EQUAL(vhostfs_device_attach_fuse(guest.device, 0, 65), -EINVAL);
    CHECK_EQUAL(vhostfs_device_attach_fuse(guest.device, -1, 1), -EBADF);
    guest_destroy(&guest);
}

/* ---- What is told unasked ---- */

static int notify(uint8_t byte, uint64_t size)
{
    uint8_t *bytes = malloc(size);
    CHECK(bytes != NULL);
    memset(bytes, byte, size);
    struct vhostfs_segment pieces[] = {{bytes, size / 2}, {bytes, size - size / 2}};
    int error = vhostfs_device_notify(guest.device, 2, pieces, 2);
    free(bytes);
    return error;
}

static void notifications_arrive_whole_and_in_order(void)
{
    begin(1);
    for (uint8_t i = 0; i < 100; i++)
        CHECK_EQUAL(notify(i, 101), 0);
    for (uint8_t i = 0; i < 100; i++) {
        CHECK_EQUAL(receive(), 101);
        CHECK_EQUAL(header()->unique, 0);
        CHECK_EQUAL(header()->error, 2);
        for (size_t at = 0; at < 101; at++)
            CHECK_EQUAL(answer[sizeof(struct fuse_out_header) + at], i);
    }
    end();
}

static void *notify_much(void *argument)
{
    for (int i = 0; i < 50; i++)
        CHECK_EQUAL(notify(9, 33), 0);
    return argument;
}

static void threads_notify_beside_each_other(void)
{
    begin(1);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK_EQUAL(pthread_create(&threads[i], NULL, notify_much, NULL), 0);
    for (int i = 0; i < 200; i++)
        CHECK_EQUAL(receive(), 33);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    end();
}

static void too_much_to_tell_is_refused(void)
{
    begin(1);
    CHECK_EQUAL(notify(1, (uint64_t)65 << 20), -ENOBUFS);
    struct vhostfs_segment pieces[17] = {{answer, 1}};
    CHECK_EQUAL(vhostfs_device_notify(guest.device, 2, pieces, 17), -EINVAL);
    int refused = 0;
    /* The kernel takes nothing: it waits for what a request holds. */
    for (int i = 0; i < 2000 && refused == 0; i++)
        refused = notify(1, 64 << 10);
    CHECK_EQUAL(refused, -ENOBUFS);
    end(); /* though somebody is still writing */
}

static void nothing_is_told_without_a_connection(void)
{
    guest_create(&guest, &(struct guest_options){.size = 1 << 20, .queues = 2, .pool_threads = 1});
    CHECK_EQUAL(notify(1, 2), -ENOSYS);
    guest_destroy(&guest);
    begin(1);
    vhostfs_device_detach_fuse(guest.device);
    CHECK_EQUAL(notify(1, 2), -ENOSYS);
    end();
}

int main(void)
{
    PROMISE(every_request_is_answered_once_whoever_reads_it);
    PROMISE(data_goes_both_ways);
    PROMISE(sizes_beyond_the_buffers_are_errors);
    PROMISE(malformed_requests_are_refused_alone);
    PROMISE(what_needs_no_answer_gets_none);
    PROMISE(what_sleeps_holds_up_no_other_request);
    PROMISE(interrupts_end_the_lock_they_name_and_no_other);
    PROMISE(an_interrupt_finds_a_lock_wherever_it_is);
    PROMISE(what_exceeds_a_limit_waits_and_is_answered_at_the_end_at_the_latest);
    PROMISE(the_end_of_the_connection_is_told_once);
    PROMISE(detaching_waits_for_what_was_taken);
    PROMISE(a_device_is_attached_once);
    PROMISE(notifications_arrive_whole_and_in_order);
    PROMISE(threads_notify_beside_each_other);
    PROMISE(too_much_to_tell_is_refused);
    PROMISE(nothing_is_told_without_a_connection);
    return 0;
}
