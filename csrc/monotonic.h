/* Time as CLOCK_MONOTONIC has it: now, and when a wait is to end. */
#pragma once
#include <stdint.h>
#include <time.h>

#define NANOSECONDS_A_SECOND 1000000000ULL

/* Nanoseconds since some moment in the past. */
static inline uint64_t monotonic_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NANOSECONDS_A_SECOND + (uint64_t)time.tv_nsec;
}

static inline struct timespec monotonic_time(uint64_t nanoseconds)
{
    return (struct timespec){.tv_sec = (time_t)(nanoseconds / NANOSECONDS_A_SECOND),
                             .tv_nsec = (long)(nanoseconds % NANOSECONDS_A_SECOND)};
}

/* When so many nanoseconds from now have passed: for conditions of threads_condition. */
static inline struct timespec monotonic_after(uint64_t nanoseconds)
{
    return monotonic_time(monotonic_now() + nanoseconds);
}
