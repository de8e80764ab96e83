/* Rings to /dev/fuse, as far as no kernel is needed: the bounds of an entry, who has it, how queues are counted, and that
 * requests go on over /dev/fuse, with a socket in its place, where there are no rings. What a kernel does with them is tested
 * in a guest that has them enabled: tests/integration. */
#define _GNU_SOURCE 1
#include "../fuse_ring_entry.h"
#include "../fuse_uring.h"
#include "../io_ring.h"
#include "check.h"
#include "mock_driver.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>

#define CAPACITY ((size_t)8192)

static struct fuse_ring_entry ring_entry;
static struct fuse_ring_entry *const entry = &ring_entry;
static uint8_t payload[CAPACITY];
static struct iovec vectors[FUSE_RING_VECTORS];

static void begin(void)
{
    fuse_ring_entry_init(entry, payload, CAPACITY, 3);
}

/* As the kernel fills an entry: a header that says `size`, of which so many bytes are payload. */
static ssize_t request_of(uint32_t size, uint32_t payload_size)
{
    struct fuse_in_header in = {.len = size, .opcode = FUSE_WRITE, .unique = 24, .nodeid = 1};
    memcpy(entry->header.in_out, &in, sizeof(in));
    entry->header.ring_ent_in_out.payload_sz = payload_size;
    entry->header.ring_ent_in_out.commit_id = 24;
    return fuse_ring_entry_request(entry, vectors);
}

static struct fuse_out_header answer(void)
{
    struct fuse_out_header out;
    memcpy(&out, entry->header.in_out, sizeof(out));
    return out;
}

static void an_entry_is_registered_with_its_headers_and_its_payload(void)
{
    begin();
    CHECK_EQUAL(entry->queue, 3);
    CHECK(entry->vectors[0].iov_base == &entry->header);
    CHECK_EQUAL(entry->vectors[0].iov_len, sizeof(struct fuse_uring_req_header));
    CHECK(entry->vectors[1].iov_base == payload);
    CHECK_EQUAL(entry->vectors[1].iov_len, CAPACITY);
}

static void a_request_is_its_header_its_first_argument_and_its_payload(void)
{
    begin();
    CHECK_EQUAL(request_of(40 + 40 + 4096, 4096), 40 + 40 + 4096);
    CHECK(vectors[0].iov_base == entry->header.in_out);
    CHECK_EQUAL(vectors[0].iov_len, 40);
    CHECK(vectors[1].iov_base == entry->header.op_in);
    CHECK_EQUAL(vectors[1].iov_len, 40);
    CHECK(vectors[2].iov_base == payload);
    CHECK_EQUAL(vectors[2].iov_len, 4096);
    /* A name alone, and nothing at all. */
    CHECK_EQUAL(request_of(40 + 5, 5), 45);
    CHECK_EQUAL(vectors[1].iov_len, 0);
    CHECK_EQUAL(vectors[2].iov_len, 5);
    CHECK_EQUAL(request_of(40, 0), 40);
}

static void a_request_beyond_its_entry_is_refused(void)
{
    begin();
    CHECK_EQUAL(request_of(40 + 128 + CAPACITY, CAPACITY), 40 + 128 + CAPACITY);
    CHECK_EQUAL(request_of(40 + 129 + CAPACITY, CAPACITY), -EIO);
    CHECK_EQUAL(request_of(40 + CAPACITY + 1, CAPACITY + 1), -EIO);
    CHECK_EQUAL(request_of(40 + 4096, 4097), -EIO);
    CHECK_EQUAL(request_of(39, 0), -EIO);
    CHECK_EQUAL(request_of(0, 0), -EIO);
    CHECK_EQUAL(request_of(40, UINT32_MAX), -EIO);
    CHECK_EQUAL(request_of(UINT32_MAX, 0), -EIO);
}

static void what_is_refused_is_answered_by_the_number_to_commit(void)
{
    begin();
    CHECK_EQUAL(request_of(0, 0), -EIO);
    fuse_ring_entry_refuse(entry, -EIO);
    CHECK_EQUAL(answer().error, -EIO);
    CHECK_EQUAL(answer().unique, 24);
    CHECK_EQUAL(entry->header.ring_ent_in_out.payload_sz, 0);
}

static void an_answer_tells_the_size_of_its_payload_alone(void)
{
    struct iovec reply[2];
    begin();
    request_of(40 + 40 + 4096, 4096);
    fuse_ring_entry_reply(entry, 100, reply);
    CHECK(reply[0].iov_base == entry->header.in_out);
    CHECK_EQUAL(reply[0].iov_len, sizeof(struct fuse_out_header));
    CHECK(reply[1].iov_base == payload);
    CHECK_EQUAL(reply[1].iov_len, 100);
    struct fuse_out_header out = {.len = 16 + 8, .unique = 24};
    memcpy(reply[0].iov_base, &out, sizeof(out));
    fuse_ring_entry_answered(entry, out.len);
    CHECK_EQUAL(entry->header.ring_ent_in_out.payload_sz, 8);
    CHECK_EQUAL(entry->header.ring_ent_in_out.commit_id, 24);
    CHECK_EQUAL(answer().unique, 24);
    /* What gets no answer gives its entry back, too. */
    request_of(40, 0);
    fuse_ring_entry_answered(entry, 0);
    CHECK_EQUAL(answer().len, sizeof(struct fuse_out_header));
    CHECK_EQUAL(answer().error, 0);
    CHECK_EQUAL(answer().unique, 24);
    CHECK_EQUAL(entry->header.ring_ent_in_out.payload_sz, 0);
}

static void an_entry_knows_its_request_before_and_after_the_answer(void)
{
    begin();
    request_of(40, 0);
    CHECK_EQUAL(fuse_ring_entry_unique(entry), 24);
    CHECK(atomic_load(&entry->done) != 24);
    atomic_store(&entry->holder, FUSE_RING_AWAY);
    fuse_ring_entry_answered(entry, 0);
    CHECK_EQUAL(fuse_ring_entry_unique(entry), 24);
    CHECK_EQUAL(atomic_load(&entry->done), 24);
    CHECK_EQUAL(atomic_load(&entry->holder), FUSE_RING_KERNEL);
}

static void processors_are_counted_as_the_kernel_lists_them(void)
{
    CHECK_EQUAL(fuse_rings_count_processors("0\n"), 1);
    CHECK_EQUAL(fuse_rings_count_processors("0-3\n"), 4);
    CHECK_EQUAL(fuse_rings_count_processors("0-3,8,10-11\n"), 7);
    CHECK_EQUAL(fuse_rings_count_processors("0-4095"), 4096);
    CHECK_EQUAL(fuse_rings_count_processors("0-4096\n"), 0);
    CHECK_EQUAL(fuse_rings_count_processors("0-4095,0\n"), 0);
    CHECK_EQUAL(fuse_rings_count_processors("3-0\n"), 0);
    CHECK_EQUAL(fuse_rings_count_processors("0-"), 0);
    CHECK_EQUAL(fuse_rings_count_processors("0-3;4"), 0);
    CHECK_EQUAL(fuse_rings_count_processors("0,"), 0);
    CHECK_EQUAL(fuse_rings_count_processors(""), 0);
}

/* ---- A connection without rings ---- */

static struct guest guest;
static int kernel; /* the other end */

/* Send a request, and receive its answer into `out`, which the header begins: its size. */
static size_t call(uint32_t opcode, const void *body, size_t size, void *out, size_t room)
{
    uint8_t message[256];
    struct fuse_in_header in = {
        .len = (uint32_t)(sizeof(in) + size), .opcode = opcode, .unique = 2, .nodeid = 1};
    memcpy(message, &in, sizeof(in));
    if (size > 0)
        memcpy(message + sizeof(in), body, size);
    CHECK_EQUAL(send(kernel, message, in.len, 0), in.len);
    ssize_t received;
    do {
        received = recv(kernel, out, room, 0);
    } while (received < 0 && errno == EINTR); /* the end of a ring that this thread had interrupts it */
    CHECK(received >= (ssize_t)sizeof(struct fuse_out_header));
    return (size_t)received;
}

static void attach(bool io_uring)
{
    guest_create(&guest, &(struct guest_options){
                             .size = 1 << 20, .queues = 2, .pool_threads = 1, .io_uring = io_uring});
    int ends[2];
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    kernel = ends[0];
    struct timeval patience = {.tv_sec = WAIT_MILLISECONDS / 1000};
    CHECK_EQUAL(setsockopt(kernel, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    CHECK_EQUAL(vhostfs_device_attach_fuse(guest.device, ends[1], 2), 0);
    close(ends[1]);
}

/* The flags that are answered to a kernel of some major version which offers rings. */
static uint64_t say_init(uint32_t major)
{
    struct {
        struct fuse_out_header header;
        struct fuse_init_out init;
    } out;
    struct fuse_init_in in = {.major = major,
                              .minor = 45,
                              .flags = FUSE_INIT_INIT_EXT,
                              .flags2 = (uint32_t)(FUSE_INIT_OVER_IO_URING >> 32)};
    CHECK_EQUAL(call(FUSE_INIT, &in, sizeof(in), &out, sizeof(out)), sizeof(out));
    return out.init.flags | (uint64_t)out.init.flags2 << 32;
}

static uint64_t offer_rings(bool io_uring)
{
    attach(io_uring);
    return say_init(7);
}

static void await_text(const char *text)
{
    struct vhostfs_event event;
    do {
        event = guest_event_of(&guest, VHOSTFS_EVENT_SESSION);
    } while (strstr(event.text, text) == NULL);
}

static void check_served_and_end(void)
{
    struct {
        struct fuse_out_header header;
        struct fuse_attr_out attr;
    } out;
    CHECK_EQUAL(call(FUSE_GETATTR, NULL, 0, &out, sizeof(out)), sizeof(out));
    CHECK_EQUAL(out.attr.attr.ino, 1);
    vhostfs_device_detach_fuse(guest.device);
    guest_destroy(&guest);
    close(kernel);
}

static void requests_go_on_where_the_kernel_refuses_its_entries(void)
{
    CHECK(offer_rings(true) & FUSE_INIT_OVER_IO_URING);
    await_text("as the kernel refuses");
    check_served_and_end();
}

static void a_newer_kernel_is_served_when_it_has_asked_again(void)
{
    attach(true);
    CHECK_EQUAL(say_init(8), 0);
    CHECK(say_init(7) & FUSE_INIT_OVER_IO_URING);
    await_text("as the kernel refuses");
    check_served_and_end();
}

static void without_leave_no_offer_is_taken(void)
{
    CHECK((offer_rings(false) & FUSE_INIT_OVER_IO_URING) == 0);
    check_served_and_end();
}

static void a_connection_ends_though_its_rings_just_begin(void)
{
    for (int i = 0; i < 20; i++) {
        offer_rings(true);
        vhostfs_device_detach_fuse(guest.device);
        guest_destroy(&guest);
        close(kernel);
    }
}

static bool host_has_it(void)
{
    struct io_ring ring;
    bool has = io_ring_create(&ring, 4, 8, true) == 0;
    if (has)
        io_ring_destroy(&ring);
    else
        printf("  partly not run: this host has no io_uring, or forbids it\n");
    return has;
}

int main(void)
{
    PROMISE(an_entry_is_registered_with_its_headers_and_its_payload);
    PROMISE(a_request_is_its_header_its_first_argument_and_its_payload);
    PROMISE(a_request_beyond_its_entry_is_refused);
    PROMISE(what_is_refused_is_answered_by_the_number_to_commit);
    PROMISE(an_answer_tells_the_size_of_its_payload_alone);
    PROMISE(an_entry_knows_its_request_before_and_after_the_answer);
    PROMISE(processors_are_counted_as_the_kernel_lists_them);
    PROMISE(without_leave_no_offer_is_taken);
    PROMISE(a_connection_ends_though_its_rings_just_begin);
    if (host_has_it()) {
        PROMISE(requests_go_on_where_the_kernel_refuses_its_entries);
        PROMISE(a_newer_kernel_is_served_when_it_has_asked_again);
    }
    return 0;
}
