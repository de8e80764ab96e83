/* How long an idle queue polls: what is learnt from polls and sleeps. No clock is involved. */
#include "../polling.h"
#include "check.h"

#define MOST 40000U

/* The driver answers within `away` nanoseconds, polled for or slept through; on our own processor only where we sleep. */
static uint64_t wait_once(struct polling *polling, uint64_t away, bool same_processor)
{
    uint64_t window = polling_window(polling);
    if (window >= away && !same_processor) {
        polling_found(polling);
        return away;
    }
    polling_slept(polling, away);
    return window;
}

static uint64_t wait_often(struct polling *polling, uint32_t times, uint64_t away, bool same_processor)
{
    uint64_t polled = 0;
    for (uint32_t i = 0; i < times; i++)
        polled += wait_once(polling, away, same_processor);
    return polled;
}

static void without_a_setting_there_is_no_polling(void)
{
    struct polling polling;
    polling_begin(&polling, 0);
    CHECK_EQUAL(wait_often(&polling, 100, 0, false), 0);
    CHECK_EQUAL(wait_often(&polling, 100, 5000, false), 0);
}

static void a_quick_driver_is_polled_for(void)
{
    struct polling polling;
    polling_begin(&polling, MOST);
    wait_often(&polling, 10, 12000, false);
    CHECK_EQUAL(wait_often(&polling, 100, 12000, false), 100 * 12000);
}

static void a_slow_driver_is_not_polled_for(void)
{
    struct polling polling;
    polling_begin(&polling, MOST);
    wait_often(&polling, 100, 12000, false);
    wait_often(&polling, 20, 1000000, false);
    CHECK_EQUAL(wait_often(&polling, 100, 1000000, false), 0);
}

static void a_driver_on_our_processor_is_soon_left_alone(void)
{
    struct polling polling;
    polling_begin(&polling, MOST);
    wait_often(&polling, 2000, 5000, true);
    /* One poll in a thousand sleeps, to see whether it has moved. */
    CHECK(wait_often(&polling, 10000, 5000, true) <= 10 * MOST);
}

static void a_driver_that_moves_to_another_processor_is_polled_for_again(void)
{
    struct polling polling;
    polling_begin(&polling, MOST);
    wait_often(&polling, 5000, 5000, true);
    wait_often(&polling, 3000, 5000, false);
    CHECK_EQUAL(wait_often(&polling, 100, 5000, false), 100 * 5000);
}

/* The poll gave way to another thread, and came back after its window to find that a request waits. */
static void what_is_found_too_late_is_a_poll_in_vain(void)
{
    struct polling polling;
    polling_begin(&polling, MOST);
    wait_often(&polling, 100, 5000, false);
    uint32_t polls = 0;
    for (int i = 0; i < 10000; i++) {
        polls += polling_window(&polling) > 0;
        polling_slept(&polling, 0);
    }
    CHECK(polls > 0 && polls <= 30);
}

static void a_poll_in_vain_now_and_then_does_no_harm(void)
{
    struct polling polling;
    polling_begin(&polling, MOST);
    wait_often(&polling, 100, 5000, false);
    for (int i = 0; i < 100; i++) {
        wait_once(&polling, 5000, true);
        wait_often(&polling, 10, 5000, false);
    }
    CHECK(polling.penalty <= 2);
}

int main(void)
{
    PROMISE(without_a_setting_there_is_no_polling);
    PROMISE(a_quick_driver_is_polled_for);
    PROMISE(a_slow_driver_is_not_polled_for);
    PROMISE(a_driver_on_our_processor_is_soon_left_alone);
    PROMISE(a_driver_that_moves_to_another_processor_is_polled_for_again);
    PROMISE(what_is_found_too_late_is_a_poll_in_vain);
    PROMISE(a_poll_in_vain_now_and_then_does_no_harm);
    return 0;
}
