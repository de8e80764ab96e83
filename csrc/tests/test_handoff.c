/* Requests handed over to Python: taken, answered, rightly and wrongly, and their data. */
#define _GNU_SOURCE 1
#include "check.h"
#include "handed_over.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- Taking and answering ---- */

static void a_session_begins_before_its_requests(void)
{
    handed_begin_with(64);
    struct fuse_init_in in = {.major = 7, .minor = 31, .flags = FUSE_INIT_POSIX_LOCKS};
    CHECK_EQUAL(driver_call(&handed_driver, FUSE_INIT, 0, &in, sizeof(in)), 0);
    handed_ask(FUSE_GETATTR);
    struct taken began = handed_take_kind(VHOSTFS_HANDOFF_BEGIN);
    CHECK_EQUAL(began.record.token, FUSE_INIT_POSIX_LOCKS);
    CHECK_EQUAL(began.record.room, 31);
    CHECK_EQUAL(began.record.size, 0);
    handed_answer(handed_take_request(FUSE_GETATTR), 0);
    CHECK_EQUAL(handed_await()->error, 0);
    handed_finish();
}

static void sessions_that_nobody_has_seen_leave_one_note(void)
{
    handed_begin();
    handed_ask(FUSE_GETATTR);
    struct fuse_init_in in = {.major = 7, .minor = 31};
    for (uint32_t minor = 31; minor <= 40; minor++) {
        in.minor = minor;
        CHECK_EQUAL(driver_call(&handed_driver, FUSE_INIT, 0, &in, sizeof(in)), 0);
    }
    handed_ask(FUSE_GETATTR);
    uint64_t before = handed_take_request(FUSE_GETATTR);
    CHECK_EQUAL(handed_take_kind(VHOSTFS_HANDOFF_BEGIN).record.room, 40);
    uint64_t after = handed_take_request(FUSE_GETATTR);
    CHECK(handed_nothing_to_take());
    handed_answer(before, EIO);
    handed_answer(after, 0);
    CHECK_EQUAL(handed_await()->error, -EIO);
    CHECK_EQUAL(handed_await()->error, 0);
    handed_finish();
}

static void requests_come_as_the_guest_wrote_them_and_are_answered_in_any_order(void)
{
    handed_begin();
    uint64_t tokens[3];
    for (uint64_t i = 0; i < 3; i++) {
        struct fuse_getattr_in in = {.fh = 100 + i};
        handed_ask_with(FUSE_GETATTR, &in, sizeof(in), 512);
    }
    for (uint64_t i = 0; i < 3; i++) {
        struct taken taken = handed_take_kind(VHOSTFS_HANDOFF_REQUEST);
        struct fuse_getattr_in in;
        memcpy(&in, taken.arguments, sizeof(in));
        CHECK_EQUAL(in.fh, 100 + i);
        CHECK_EQUAL(taken.in.nodeid, NODE);
        CHECK_EQUAL(taken.record.size, sizeof(taken.in) + sizeof(in));
        CHECK_EQUAL(taken.record.room, 512 - sizeof(struct fuse_out_header));
        CHECK_EQUAL(taken.record.data, 0);
        tokens[i] = taken.record.token;
    }
    for (uint64_t i = 3; i-- > 0;) {
        CHECK_EQUAL(vhostfs_handoff_answer(handoff, tokens[i], 0, (const uint8_t *)&i, sizeof(i)), 0);
        vhostfs_handoff_flush(handoff);
        const struct fuse_out_header *out = handed_await();
        CHECK_EQUAL(out->error, 0);
        CHECK(memcmp(out + 1, &i, sizeof(i)) == 0);
    }
    CHECK(handed_nothing_to_take());
    handed_finish();
}

static void the_guest_sees_answers_when_they_are_flushed(void)
{
    handed_begin();
    handed_ask(FUSE_GETATTR);
    handed_ask(FUSE_GETATTR);
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, handed_take_request(FUSE_GETATTR), 0, NULL, 0), 0);
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, handed_take_request(FUSE_GETATTR), ENOENT, NULL, 0), 0);
    CHECK(handed_guest_waits());
    vhostfs_handoff_flush(handoff);
    CHECK_EQUAL(handed_await()->error, 0);
    CHECK_EQUAL(handed_await()->error, -ENOENT);
    handed_finish();
}

static void what_python_does_not_serve_is_enosys_and_other_mounts_are_native(void)
{
    handed_begin();
    CHECK_EQUAL(driver_call(&handed_driver, FUSE_STATFS, NODE, NULL, 0), -ENOSYS);
    CHECK_EQUAL(driver_call(&handed_driver, FUSE_GETATTR, 1, NULL, 0), 0);
    CHECK_EQUAL(driver_call(&handed_driver, FUSE_GETATTR, (uint64_t)(MOUNT + 1) << 48 | 1, NULL, 0), -ESTALE);
    CHECK(handed_nothing_to_take());
    handed_finish();
}

static void a_batch_of_forgets_reaches_each_mount_once_also_behind_native_ones(void)
{
    for (int others = 0; others < 2; others++) {
        guest_create(&handed_guest, &(struct guest_options){.size = 8 << 20, .queues = 3, .pool_threads = 1});
        vhostfs_handoff *last = NULL;
        CHECK_EQUAL(vhostfs_device_mount_handoff(handed_guest.device, MOUNT, SERVED, &handoff), 0);
        guest_mount_mock(&handed_guest, MOUNT + 1);
        if (others > 0)
            CHECK_EQUAL(vhostfs_device_mount_handoff(handed_guest.device, MOUNT + 2, SERVED, &last), 0);
        driver_create(&handed_driver, &handed_guest, RING, &(struct driver_options){.size = 64});
        driver_init(&handed_driver);
        mock_batches_of_forgets();
        struct fuse_batch_forget_in none = {0};
        handed_ask_with(FUSE_BATCH_FORGET, &none, sizeof(none), 0);
        batch_used = batch_position = 0;
        handed_take_kind(VHOSTFS_HANDOFF_BEGIN);
        CHECK_EQUAL(handed_take_request(FUSE_BATCH_FORGET), 0);
        CHECK(handed_nothing_to_take());
        if (others > 0) {
            vhostfs_handoff_close(handoff);
            handoff = last;
            batch_used = batch_position = 0;
            handed_take_kind(VHOSTFS_HANDOFF_BEGIN);
            CHECK_EQUAL(handed_take_request(FUSE_BATCH_FORGET), 0);
        }
        uint16_t id = 0;
        uint32_t length = 1;
        driver_await(&handed_driver, &id, &length);
        CHECK_EQUAL(length, 0);
        CHECK_EQUAL(mock_batches_of_forgets(), 2); /* of mounts 0 and MOUNT + 1 */
        handed_finish();
    }
}

static void forgets_get_no_answer_and_go_back_when_they_are_taken(void)
{
    handed_begin();
    uint64_t lookups = 5;
    handed_ask_with(FUSE_FORGET, &lookups, sizeof(lookups), 0);
    struct taken taken = handed_take_kind(VHOSTFS_HANDOFF_REQUEST);
    CHECK_EQUAL(taken.record.token, 0);
    CHECK(memcmp(taken.arguments, &lookups, sizeof(lookups)) == 0);
    uint16_t id = 0;
    uint32_t length = 1;
    driver_await(&handed_driver, &id, &length);
    CHECK_EQUAL(length, 0);
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, 0, 0, NULL, 0), -ESTALE);
    handed_finish();
}

static void interrupts_and_batches_of_forgets_reach_every_mount_that_wants_them(void)
{
    guest_create(&handed_guest, &(struct guest_options){.size = 8 << 20, .queues = 3, .pool_threads = 1});
    vhostfs_handoff *other = NULL;
    CHECK_EQUAL(vhostfs_device_mount_handoff(handed_guest.device, MOUNT, SERVED, &handoff), 0);
    CHECK_EQUAL(vhostfs_device_mount_handoff(handed_guest.device, MOUNT + 1, SERVED, &other), 0);
    CHECK_EQUAL(vhostfs_device_mount_handoff(handed_guest.device, MOUNT, SERVED, &handoff), -EBUSY);
    driver_create(&handed_driver, &handed_guest, RING, &(struct driver_options){.size = 64});
    driver_init(&handed_driver);
    struct fuse_batch_forget_in none = {0};
    for (int i = 0; i < 3000; i++) {
        uint16_t id = 0;
        uint32_t length = 1;
        handed_ask_with(FUSE_BATCH_FORGET, &none, sizeof(none), 0);
        while (!driver_take(&handed_driver, &id, &length)) {
            struct pollfd ready = {.fd = vhostfs_handoff_fd(other), .events = POLLIN};
            CHECK_EQUAL(poll(&ready, 1, WAIT_MILLISECONDS), 1);
            CHECK(vhostfs_handoff_take(other, batch, BATCH_SIZE, UINT32_MAX) >= 0);
        }
        CHECK_EQUAL(length, 0);
    }
    /* The other one was held up meanwhile: what waits for it is bounded. */
    batch_used = batch_position = 0;
    handed_take_kind(VHOSTFS_HANDOFF_BEGIN);
    for (int i = 0; i < 1024; i++)
        CHECK_EQUAL(handed_take_request(FUSE_BATCH_FORGET), 0);
    CHECK(handed_nothing_to_take());
    vhostfs_handoff_close(other);
    handed_finish();
}

/* Answer all of a batch of so many bytes; how many records it had. */
static uint32_t answer_batch(int64_t used)
{
    uint32_t records = 0;
    CHECK(used >= 0);
    for (batch_used = (size_t)used, batch_position = 0; batch_position < batch_used; records++)
        CHECK_EQUAL(vhostfs_handoff_answer(handoff, handed_take_request(FUSE_SETXATTR), 0, NULL, 0), 0);
    vhostfs_handoff_flush(handoff);
    return records;
}

static void a_batch_has_whole_records_and_no_more_than_asked_for(void)
{
    handed_begin();
    static uint8_t value[4000];
    const size_t whole =
        sizeof(struct vhostfs_handoff_record) + sizeof(struct fuse_in_header) + sizeof(value);
    const size_t room = 80 * 1024;
    CHECK_EQUAL(vhostfs_handoff_take(handoff, batch, 1000, 1), -EINVAL);
    for (uint32_t most = 2; most <= 32; most += 30) {
        for (int i = 0; i < 32; i++)
            handed_ask_with(FUSE_SETXATTR, value, sizeof(value), 64);
        for (uint32_t answered = 0; answered < 32;) {
            uint32_t records = answer_batch(vhostfs_handoff_take(handoff, batch, room, most));
            CHECK(records <= most && records * whole <= room);
            answered += records;
        }
        for (int i = 0; i < 32; i++)
            CHECK_EQUAL(handed_await()->error, 0);
    }
    CHECK(handed_nothing_to_take());
    handed_finish();
}

static void its_descriptor_is_readable_while_there_is_something_to_take(void)
{
    handed_begin();
    CHECK(handed_nothing_to_take());
    for (int i = 0; i < 3; i++)
        handed_ask(FUSE_GETATTR);
    for (int i = 0; i < 3; i++) {
        for (batch_used = batch_position = 0; batch_used == 0;) {
            CHECK(handed_becomes_readable());
            batch_used = (size_t)vhostfs_handoff_take(handoff, batch, BATCH_SIZE, 1);
        }
        handed_answer(handed_take_request(FUSE_GETATTR), 0);
        CHECK_EQUAL(handed_await()->error, 0);
    }
    CHECK(handed_nothing_to_take());
    handed_finish();
}

/* ---- Answers that are wrong ---- */

static void an_answer_counts_once_and_only_for_what_was_taken(void)
{
    handed_begin();
    handed_ask(FUSE_GETATTR);
    uint64_t token = handed_take_request(FUSE_GETATTR);
    const uint64_t wild[] = {0,
                             1,
                             UINT64_MAX,
                             token + 1,
                             token - 1,
                             token + (1ULL << 32),
                             token - (1ULL << 32),
                             token & UINT32_MAX,
                             token << 32,
                             (token & ~(uint64_t)UINT32_MAX) | UINT32_MAX};
    for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++) {
        uint8_t byte = 0;
        struct vhostfs_segment segment;
        CHECK_EQUAL(vhostfs_handoff_answer(handoff, wild[i], 0, &byte, 1), -ESTALE);
        CHECK_EQUAL(vhostfs_handoff_store(handoff, wild[i], 0, &byte, 1), -ESTALE);
        CHECK_EQUAL(vhostfs_handoff_load(handoff, wild[i], 0, &byte, 1), -ESTALE);
        CHECK_EQUAL(vhostfs_handoff_segments(handoff, wild[i], 0, 1, &segment, 1), -ESTALE);
        CHECK_EQUAL(vhostfs_handoff_read(handoff, wild[i], 0, 1, 0, 0), -ESTALE);
        CHECK_EQUAL(vhostfs_handoff_write(handoff, wild[i], 0, 1, 0), -ESTALE);
    }
    handed_answer(token, EPERM);
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, token, 0, NULL, 0), -ESTALE);
    CHECK_EQUAL(handed_await()->error, -EPERM);
    /* The slot serves again, under another token. */
    handed_ask(FUSE_GETATTR);
    uint64_t next = handed_take_request(FUSE_GETATTR);
    CHECK(next != token);
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, token, 0, NULL, 0), -ESTALE);
    handed_answer(next, 0);
    CHECK_EQUAL(handed_await()->error, 0);
    /* A token can be guessed before its request is taken. */
    handed_ask(FUSE_GETATTR);
    CHECK(handed_becomes_readable());
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, next + (1ULL << 32), 0, NULL, 0), -ESTALE);
    handed_answer(handed_take_request(FUSE_GETATTR), 0);
    CHECK_EQUAL(handed_await()->error, 0);
    handed_finish();
}

static void answers_that_the_guest_has_no_room_for_are_eio(void)
{
    handed_begin();
    static const uint8_t payload[128] = {1};
    const struct {
        int error;
        const uint8_t *payload;
        size_t size;
        int outcome;
    } wrong[] = {
        {0, payload, 33, -EMSGSIZE}, {0, NULL, 33, -EMSGSIZE}, {0, NULL, SIZE_MAX, -EMSGSIZE},
        {512, NULL, 0, 0},           {INT32_MAX, NULL, 0, 0},
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        handed_ask_with(FUSE_GETATTR, NULL, 0, sizeof(struct fuse_out_header) + 32);
        uint64_t token = handed_take_request(FUSE_GETATTR);
        CHECK_EQUAL(vhostfs_handoff_answer(handoff, token, wrong[i].error, wrong[i].payload, wrong[i].size),
                    wrong[i].outcome);
        vhostfs_handoff_flush(handoff);
        const struct fuse_out_header *out = handed_await();
        CHECK_EQUAL(out->error, -EIO);
        CHECK_EQUAL(out->len, sizeof(*out));
    }
    handed_finish();
}

/* ---- Data ---- */

static void the_data_of_a_write_is_copied_lent_and_written_to_files(void)
{
    handed_begin();
    struct taken taken;
    handed_ask_to_write(&taken);
    uint64_t token = taken.record.token;
    char copy[sizeof(handed_poem)] = {0};
    CHECK_EQUAL(vhostfs_handoff_load(handoff, token, 0, (uint8_t *)copy, sizeof(copy)), sizeof(handed_poem));
    CHECK(memcmp(copy, handed_poem, sizeof(handed_poem)) == 0);
    CHECK_EQUAL(vhostfs_handoff_load(handoff, token, 30, (uint8_t *)copy, sizeof(copy)),
                sizeof(handed_poem) - 30);
    CHECK(memcmp(copy, handed_poem + 30, sizeof(handed_poem) - 30) == 0);
    CHECK_EQUAL(vhostfs_handoff_load(handoff, token, sizeof(handed_poem), (uint8_t *)copy, 1), 0);
    CHECK_EQUAL(vhostfs_handoff_load(handoff, token, UINT64_MAX, (uint8_t *)copy, 1), 0);
    struct vhostfs_segment segments[2];
    CHECK_EQUAL(vhostfs_handoff_segments(handoff, token, 1, 0, segments, 1), 2);
    CHECK_EQUAL(vhostfs_handoff_segments(handoff, token, 1, 0, segments, 2), 2);
    CHECK_EQUAL(segments[0].size + segments[1].size, sizeof(handed_poem));
    CHECK(memcmp(segments[0].start, handed_poem, segments[0].size) == 0);
    CHECK(memcmp(segments[1].start, handed_poem + segments[0].size, segments[1].size) == 0);
    int file = memfd_create("file", MFD_CLOEXEC);
    CHECK_EQUAL(vhostfs_handoff_write(handoff, token, 0, file, 5), sizeof(handed_poem));
    CHECK_EQUAL(vhostfs_handoff_write(handoff, token, 30, file, 100), sizeof(handed_poem) - 30);
    CHECK_EQUAL(vhostfs_handoff_write(handoff, token, sizeof(handed_poem), file, 100), 0);
    CHECK_EQUAL(vhostfs_handoff_write(handoff, token, UINT64_MAX, file, 100), 0);
    CHECK_EQUAL(vhostfs_handoff_write(handoff, token, 0, -1, 0), -EBADF);
    CHECK_EQUAL(pread(file, copy, sizeof(copy), 5), sizeof(handed_poem));
    CHECK(memcmp(copy, handed_poem, sizeof(handed_poem)) == 0);
    CHECK_EQUAL(pread(file, copy, sizeof(copy), 100), sizeof(handed_poem) - 30);
    CHECK(memcmp(copy, handed_poem + 30, sizeof(handed_poem) - 30) == 0);
    close(file);
    handed_answer(token, 0);
    handed_finish();
}

static void the_place_of_a_reply_is_filled_by_copies_by_hand_and_from_files(void)
{
    handed_begin();
    struct fuse_read_in in = {.size = 64};
    uint64_t reply = handed_ask_in_pieces(FUSE_READ, &in, sizeof(in), NULL, 0, 64);
    uint64_t token = handed_take_kind(VHOSTFS_HANDOFF_REQUEST).record.token;
    uint8_t bytes[65];
    for (uint8_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = i;
    CHECK_EQUAL(vhostfs_handoff_store(handoff, token, 0, bytes, sizeof(bytes)), 64);
    CHECK_EQUAL(vhostfs_handoff_store(handoff, token, 60, bytes, 8), 4);
    CHECK_EQUAL(vhostfs_handoff_store(handoff, token, 64, bytes, 1), 0);
    CHECK_EQUAL(vhostfs_handoff_store(handoff, token, UINT64_MAX, bytes, 1), 0);
    struct vhostfs_segment segments[2];
    CHECK_EQUAL(vhostfs_handoff_segments(handoff, token, 0, 64, segments, 2), 2);
    CHECK_EQUAL(segments[0].size, 32);
    CHECK_EQUAL(segments[1].size, 32);
    CHECK_EQUAL(segments[1].start[0], 32);
    segments[1].start[0] = 200;
    CHECK_EQUAL(vhostfs_handoff_segments(handoff, token, 0, 65, segments, 2), -EIO);
    int file = memfd_create("file", MFD_CLOEXEC);
    CHECK_EQUAL(write(file, "abcdefgh", 8), 8);
    CHECK_EQUAL(vhostfs_handoff_read(handoff, token, 30, 4, file, 2), 4);
    CHECK_EQUAL(vhostfs_handoff_read(handoff, token, 62, 99, file, 0), 2);
    CHECK_EQUAL(vhostfs_handoff_read(handoff, token, 99, 99, file, 0), 0);
    CHECK_EQUAL(vhostfs_handoff_read(handoff, token, 0, 4, file, 8), 0);
    CHECK_EQUAL(vhostfs_handoff_read(handoff, token, 0, 4, -1, 0), -EBADF);
    close(file);
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, token, 0, NULL, 64), 0);
    vhostfs_handoff_flush(handoff);
    uint16_t id = 0;
    uint32_t length = 0;
    driver_await(&handed_driver, &id, &length);
    CHECK_EQUAL(length, sizeof(struct fuse_out_header) + 64);
    const uint8_t *at = guest_at(&handed_guest, reply);
    CHECK(memcmp(at + sizeof(struct fuse_out_header), bytes, 30) == 0);
    CHECK(memcmp(at + sizeof(struct fuse_out_header) + 30, "cd", 2) == 0);
    at += 2048 + 32;
    CHECK(memcmp(at, "ef", 2) == 0);
    CHECK(memcmp(at + 2, bytes + 34, 26) == 0);
    CHECK(memcmp(at + 28, bytes, 2) == 0);
    CHECK(memcmp(at + 30, "ab", 2) == 0);
    CHECK_EQUAL(at[32], 0);
    handed_finish();
}

struct reader {
    uint64_t token;
    int file;
    uint32_t position;
    uint32_t size;
    _Atomic bool inside;
};

static void *read_until_answered(void *argument)
{
    struct reader *reader = argument;
    int64_t got = 0;
    do {
        got = vhostfs_handoff_read(handoff, reader->token, reader->position, reader->size, reader->file, 0);
        atomic_store(&reader->inside, true);
    } while (got > 0);
    CHECK_EQUAL(got, -ESTALE);
    return NULL;
}

static void the_guest_sees_an_answer_only_when_no_thread_is_in_its_memory(void)
{
    handed_begin();
    uint32_t size = 256 * 1024;
    int file = memfd_create("file", MFD_CLOEXEC);
    uint8_t *content = malloc(size);
    CHECK(content != NULL);
    memset(content, 1, size);
    CHECK_EQUAL(write(file, content, size), size);
    for (int round = 0; round < 40; round++) {
        struct fuse_read_in in = {.size = size};
        handed_guest.allocated = 16 << 20; /* the same place each time */
        uint64_t reply = handed_ask_in_pieces(FUSE_READ, &in, sizeof(in), NULL, 0, size);
        uint64_t token = handed_take_request(FUSE_READ);
        struct reader readers[2] = {{.token = token, .file = file, .size = size / 2},
                                    {.token = token, .file = file, .size = size / 2, .position = size / 2}};
        pthread_t threads[2];
        for (int i = 0; i < 2; i++)
            CHECK_EQUAL(pthread_create(&threads[i], NULL, read_until_answered, &readers[i]), 0);
        for (int i = 0; i < 2; i++) {
            while (!atomic_load(&readers[i].inside))
                sched_yield();
        }
        if (round < 39)
            handed_answer(token, 0);
        else
            vhostfs_handoff_close(handoff);
        uint16_t id = 0;
        uint32_t length = 0;
        driver_await(&handed_driver, &id, &length);
        struct fuse_out_header out;
        memcpy(&out, guest_at(&handed_guest, reply), sizeof(out));
        CHECK_EQUAL(out.error, round < 39 ? 0 : -EIO);
        memset(guest_at(&handed_guest, reply), 2, size);
        for (int i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        const uint8_t *at = guest_at(&handed_guest, reply);
        CHECK(memchr(at, 1, size) == NULL);
    }
    free(content);
    close(file);
    handed_finish();
}

int main(void)
{
    PROMISE(a_session_begins_before_its_requests);
    PROMISE(sessions_that_nobody_has_seen_leave_one_note);
    PROMISE(requests_come_as_the_guest_wrote_them_and_are_answered_in_any_order);
    PROMISE(the_guest_sees_answers_when_they_are_flushed);
    PROMISE(what_python_does_not_serve_is_enosys_and_other_mounts_are_native);
    PROMISE(a_batch_of_forgets_reaches_each_mount_once_also_behind_native_ones);
    PROMISE(forgets_get_no_answer_and_go_back_when_they_are_taken);
    PROMISE(interrupts_and_batches_of_forgets_reach_every_mount_that_wants_them);
    PROMISE(a_batch_has_whole_records_and_no_more_than_asked_for);
    PROMISE(its_descriptor_is_readable_while_there_is_something_to_take);
    PROMISE(an_answer_counts_once_and_only_for_what_was_taken);
    PROMISE(answers_that_the_guest_has_no_room_for_are_eio);
    PROMISE(the_data_of_a_write_is_copied_lent_and_written_to_files);
    PROMISE(the_place_of_a_reply_is_filled_by_copies_by_hand_and_from_files);
    PROMISE(the_guest_sees_an_answer_only_when_no_thread_is_in_its_memory);
    return 0;
}
