/* How long replies took: counts in steps of a thirty-second of a power of two; and the clock and dice of a
 * run. */
#define _GNU_SOURCE 1
#include "guest.h"

#include <time.h>

uint64_t clock_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000U + (uint64_t)time.tv_nsec;
}

/* xorshift64*: the same order in every run. */
uint64_t next_random(uint64_t *state)
{
    uint64_t value = *state;
    value ^= value >> 12;
    value ^= value << 25;
    value ^= value >> 27;
    *state = value;
    return (value * 0x2545F4914F6CDD1DU) >> 16;
}

static uint32_t place_of(uint64_t value)
{
    if (value < 32)
        return (uint32_t)value;
    uint32_t power = 63 - (uint32_t)__builtin_clzll(value);
    return (power - 4) * 32 + (uint32_t)((value >> (power - 5)) & 31);
}

static uint64_t value_of(uint32_t place)
{
    if (place < 32)
        return place;
    uint32_t power = place / 32 + 4;
    return ((uint64_t)1 << power) + ((uint64_t)(place % 32) << (power - 5));
}

void latencies_add(struct latencies *latencies, uint64_t nanoseconds)
{
    latencies->counts[place_of(nanoseconds)]++;
    if (nanoseconds > latencies->worst)
        latencies->worst = nanoseconds;
}

void latencies_merge(struct latencies *into, const struct latencies *from)
{
    for (size_t i = 0; i < sizeof(into->counts) / sizeof(into->counts[0]); i++)
        into->counts[i] += from->counts[i];
    if (from->worst > into->worst)
        into->worst = from->worst;
}

uint64_t latencies_percentile(const struct latencies *latencies, double share)
{
    uint64_t total = 0;
    size_t places = sizeof(latencies->counts) / sizeof(latencies->counts[0]);
    for (size_t i = 0; i < places; i++)
        total += latencies->counts[i];
    uint64_t wanted = (uint64_t)(share * (double)total);
    uint64_t seen = 0;
    for (uint32_t i = 0; i < places; i++) {
        seen += latencies->counts[i];
        if (seen > wanted)
            return value_of(i);
    }
    return latencies->worst;
}
