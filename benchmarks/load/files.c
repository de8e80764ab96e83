/* Reads and writes of one file in a loop, on a mount of this host and beside it. */
#define _GNU_SOURCE 1
#include "guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Of this thread's time on a processor: what else runs there is left out. */
static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

double file_rate(int32_t fd, int32_t writes, int32_t random, uint32_t block, uint64_t size,
                 int64_t nanoseconds)
{
    static uint8_t memory[1 << 20];
    static uint64_t state = 1;
    if (block > sizeof(memory) || block > size)
        return -EINVAL;
    uint64_t pieces = size / block;
    uint64_t done = 0;
    int64_t begin = now();
    int64_t until = begin + nanoseconds;
    int64_t end = begin;
    while (end < until) {
        /* The clock is not for free. */
        for (uint32_t i = 0; i < (1U << 16) / block + 1; i++) {
            uint64_t piece = (random != 0 ? next_random(&state) : done / block) % pieces;
            off_t offset = (off_t)(piece * block);
            ssize_t moved =
                writes != 0 ? pwrite(fd, memory, block, offset) : pread(fd, memory, block, offset);
            if (moved != (ssize_t)block)
                return moved < 0 ? -errno : -EIO;
            done += block;
        }
        end = now();
    }
    return (double)done * 1e9 / (double)(end - begin);
}
