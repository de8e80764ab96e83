/* Requests handed over to Python, and rings that stop, sessions that end, and more requests than fit. */
#define _GNU_SOURCE 1
#include "check.h"
#include "handed_over.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>

/* ---- Being stopped ---- */

static struct queue *ring(void)
{
    return handed_guest.device->queues[RING];
}

static struct queue *another_ring(void)
{
    CHECK_EQUAL(vhostfs_queue_set_size(handed_guest.device, 2, 64), 0);
    return handed_guest.device->queues[2];
}

static void a_ring_that_stops_cancels_waiting_locks_at_once_and_all_else_later(void)
{
    handed_begin();
    handed_ask(FUSE_GETATTR);
    uint64_t other = handed_take_request(FUSE_GETATTR);
    handed_ask(FUSE_SETLKW);
    uint64_t lock = handed_take_request(FUSE_SETLKW);
    session_cancel(&handed_guest.device->session, ring(), false);
    CHECK_EQUAL(handed_take_kind(VHOSTFS_HANDOFF_CANCEL).record.token, lock);
    session_cancel(&handed_guest.device->session, ring(), false);
    session_cancel(&handed_guest.device->session, another_ring(), true);
    CHECK(handed_nothing_to_take());
    session_cancel(&handed_guest.device->session, ring(), true);
    CHECK_EQUAL(handed_take_kind(VHOSTFS_HANDOFF_CANCEL).record.token, other);
    CHECK(handed_nothing_to_take());
    handed_answer(other, EINTR);
    handed_answer(lock, EINTR);
    CHECK_EQUAL(handed_await()->error, -EINTR);
    CHECK_EQUAL(handed_await()->error, -EINTR);
    handed_finish();
}

static void *stop_ring(void *argument)
{
    CHECK_EQUAL(vhostfs_queue_stop(handed_guest.device, RING, argument), 0);
    return NULL;
}

static void a_ring_stops_when_what_was_taken_is_answered(void)
{
    handed_begin();
    handed_ask(FUSE_GETATTR);
    handed_ask(FUSE_SETLKW);
    uint64_t other = handed_take_request(FUSE_GETATTR);
    uint64_t lock = handed_take_request(FUSE_SETLKW);
    uint32_t base = 0;
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, stop_ring, &base), 0);
    CHECK_EQUAL(handed_take_kind(VHOSTFS_HANDOFF_CANCEL).record.token, lock);
    handed_answer(lock, EINTR);
    CHECK_EQUAL(handed_await()->error, -EINTR);
    handed_answer(other, 0);
    CHECK_EQUAL(handed_await()->error, 0);
    pthread_join(thread, NULL);
    CHECK_EQUAL(base, 3);
    handed_finish();
}

static void what_is_given_up_is_eio_and_its_memory_stays_until_python_has_answered(void)
{
    handed_begin();
    struct taken taken;
    uint64_t reply = handed_ask_to_write(&taken);
    handed_ask(FUSE_GETATTR); /* is not taken */
    uint64_t lookups = 1;
    handed_ask_with(FUSE_FORGET, &lookups, sizeof(lookups),
                    512); /* neither, and has room that no answer may go to */
    struct vhostfs_segment segments[2];
    CHECK_EQUAL(vhostfs_handoff_segments(handoff, taken.record.token, 1, 0, segments, 2), 2);
    for (uint32_t waiting = 0; waiting != 2;) {
        pthread_mutex_lock(&handoff->lock);
        waiting = handoff->oldest != handoff->newest ? 2 : 0;
        pthread_mutex_unlock(&handoff->lock);
    }
    session_give_up(&handed_guest.device->session, another_ring());
    CHECK(handed_guest_waits());
    session_give_up(&handed_guest.device->session, ring());
    uint32_t errors = 0;
    for (int i = 0; i < 3; i++) {
        uint16_t id = 0;
        uint32_t length = 0;
        driver_await(&handed_driver, &id, &length);
        errors += length == sizeof(struct fuse_out_header);
        CHECK(length == 0 || length == sizeof(struct fuse_out_header));
    }
    CHECK_EQUAL(errors, 2);
    CHECK_EQUAL(((const struct fuse_out_header *)guest_at(&handed_guest, reply))->error, -EIO);
    /* The guest's memory is taken from the device: what Python looks at is still there. */
    stop_ring(&(uint32_t){0});
    vhostfs_memory_replace(handed_guest.device, NULL, 0);
    CHECK(memcmp(segments[0].start, handed_poem, segments[0].size) == 0);
    CHECK_EQUAL(vhostfs_handoff_segments(handoff, taken.record.token, 1, 0, segments, 2), -ESTALE);
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, taken.record.token, 0, NULL, 0), -ESTALE);
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, taken.record.token, 0, NULL, 0), -ESTALE);
    handed_finish();
}

static void destroy_is_answered_when_python_is_done_with_it(void)
{
    handed_begin_with(64);
    CHECK_EQUAL(driver_call(&handed_driver, FUSE_DESTROY, 0, NULL, 0), 0); /* there is nothing to end */
    driver_init(&handed_driver);
    handed_take_kind(VHOSTFS_HANDOFF_BEGIN);
    CHECK(driver_request(&handed_driver, FUSE_DESTROY, 0, NULL, 0, 512));
    driver_kick(&handed_driver);
    CHECK_EQUAL(handed_take_kind(VHOSTFS_HANDOFF_END).record.token, 0);
    struct taken taken = handed_take_kind(VHOSTFS_HANDOFF_END);
    CHECK(taken.record.token != 0);
    CHECK(handed_guest_waits());
    handed_answer(taken.record.token, 0);
    CHECK_EQUAL(handed_await()->error, 0);
    CHECK(handed_nothing_to_take());
    handed_finish();
}

static void closing_answers_what_is_there_and_what_comes(void)
{
    handed_begin();
    handed_ask(FUSE_GETATTR);
    uint64_t taken = handed_take_request(FUSE_GETATTR);
    handed_ask(FUSE_GETATTR);
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, handed_take_request(FUSE_GETATTR), 0, NULL, 0), 0);
    handed_ask(FUSE_GETATTR);
    CHECK(handed_becomes_readable());
    vhostfs_handoff_close(handoff);
    CHECK_EQUAL(handed_await()->error, 0); /* answered, if not flushed */
    CHECK_EQUAL(handed_await()->error, -EIO);
    CHECK_EQUAL(handed_await()->error, -EIO);
    CHECK_EQUAL(vhostfs_handoff_answer(handoff, taken, 0, NULL, 0), -ESTALE);
    CHECK_EQUAL(driver_call(&handed_driver, FUSE_GETATTR, NODE, NULL, 0), -EIO);
    vhostfs_handoff_close(handoff);
    handed_finish();
}

/* ---- Much at once ---- */

static void a_ring_that_is_full_of_waiting_requests_is_served_on(void)
{
    handed_begin_with(4096);
    driver_init(&handed_driver);
    handed_take_kind(VHOSTFS_HANDOFF_BEGIN);
    uint32_t sent = 0;
    while (driver_request(&handed_driver, FUSE_GETATTR, NODE, NULL, 0, 512))
        sent++;
    CHECK_EQUAL(sent, 2048);
    driver_kick(&handed_driver);
    static uint64_t tokens[QUEUE_IN_FLIGHT];
    for (uint32_t i = 0; i < QUEUE_IN_FLIGHT; i++)
        tokens[i] = handed_take_request(FUSE_GETATTR);
    CHECK(handed_nothing_to_take()); /* the rest waits in the ring */
    for (uint32_t i = 0; i < QUEUE_IN_FLIGHT; i++)
        CHECK_EQUAL(vhostfs_handoff_answer(handoff, tokens[i], 0, NULL, 0), 0);
    vhostfs_handoff_flush(handoff);
    for (uint32_t i = 0; i < sent; i++) {
        if (i >= QUEUE_IN_FLIGHT)
            handed_answer(handed_take_request(FUSE_GETATTR), 0);
        CHECK_EQUAL(handed_await()->error, 0);
    }
    handed_finish();
}

/* Python, in a thread of its own: answers GETATTRs until it is told to end. */
static void *serve(void *argument)
{
    const _Atomic bool *done = argument;
    _Alignas(8) static uint8_t records[BATCH_SIZE];
    while (!atomic_load(done)) {
        struct pollfd ready = {.fd = vhostfs_handoff_fd(handoff), .events = POLLIN};
        poll(&ready, 1, 10);
        int64_t used = vhostfs_handoff_take(handoff, records, sizeof(records), 16);
        for (int64_t at = 0; at < used;) {
            struct vhostfs_handoff_record record;
            memcpy(&record, records + at, sizeof(record));
            if (record.kind == VHOSTFS_HANDOFF_REQUEST && record.token != 0)
                CHECK_EQUAL(vhostfs_handoff_answer(handoff, record.token, 0, records, 40), 0);
            at += (int64_t)((sizeof(record) + record.size + 7) & ~(size_t)7);
        }
        vhostfs_handoff_flush(handoff);
    }
    return NULL;
}

static void two_rings_are_answered_by_one_loop_and_one_of_them_stops_and_starts(void)
{
    handed_begin_with(64);
    struct driver other;
    driver_create(&other, &handed_guest, 2, &(struct driver_options){.size = 64});
    driver_init(&handed_driver);
    _Atomic bool done = false;
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, serve, &done), 0);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 30; i++) {
            CHECK(driver_request(&handed_driver, FUSE_GETATTR, NODE, NULL, 0, 512));
            CHECK(driver_request(&other, FUSE_GETATTR, NODE, NULL, 0, 512));
        }
        driver_kick(&handed_driver);
        driver_kick(&other);
        uint32_t base = 0;
        CHECK_EQUAL(vhostfs_queue_stop(handed_guest.device, 2, &base), 0);
        driver_attach(&other, base);
        for (int i = 0; i < 30; i++) {
            uint16_t id = 0;
            uint32_t length = 0;
            CHECK_EQUAL(handed_await()->error, 0);
            driver_await(&other, &id, &length);
            CHECK_EQUAL(driver_reply(&other, id, length)->error, 0);
        }
    }
    atomic_store(&done, true);
    pthread_join(thread, NULL);
    handed_finish();
    driver_destroy(&other);
}

int main(void)
{
    PROMISE(a_ring_that_stops_cancels_waiting_locks_at_once_and_all_else_later);
    PROMISE(a_ring_stops_when_what_was_taken_is_answered);
    PROMISE(what_is_given_up_is_eio_and_its_memory_stays_until_python_has_answered);
    PROMISE(destroy_is_answered_when_python_is_done_with_it);
    PROMISE(closing_answers_what_is_there_and_what_comes);
    PROMISE(a_ring_that_is_full_of_waiting_requests_is_served_on);
    PROMISE(two_rings_are_answered_by_one_loop_and_one_of_them_stops_and_starts);
    return 0;
}
