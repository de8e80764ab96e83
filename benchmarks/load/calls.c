/* Threads that call what programs do, on a file system that is mounted on this host. */
#define _GNU_SOURCE 1
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS_MAX 32

struct caller {
    const struct calls *calls;
    pthread_barrier_t *begin;
    pthread_t thread;
    uint32_t number;
    uint64_t random;
    uint64_t done;
    uint64_t finished;
    uint8_t *block;
    char wrong[240];
};

static bool wrong(struct caller *caller, const char *call, long result)
{
    snprintf(caller->wrong, sizeof(caller->wrong), "%s returned %ld: %s", call, result,
             result < 0 ? strerror(errno) : "not what is there");
    return false;
}

static bool call_getattr(struct caller *caller)
{
    struct statx attributes;
    long result =
        statx(caller->calls->file, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &attributes);
    return (result == 0 && attributes.stx_size == 100) || wrong(caller, "statx", result);
}

static bool call_lookup_none(struct caller *caller)
{
    char name[32];
    snprintf(name, sizeof(name), "none-%05llu", (unsigned long long)next_random(&caller->random) % 100000);
    long result = faccessat(caller->calls->directory, name, F_OK, 0);
    return (result == -1 && errno == ENOENT) || wrong(caller, "faccessat", result);
}

/* Each thread has its share of the blocks, so that none is written twice at once. */
static uint64_t choose_offset(struct caller *caller)
{
    const struct calls *calls = caller->calls;
    uint64_t blocks = calls->data_size / calls->block / calls->threads;
    return (next_random(&caller->random) % blocks * calls->threads + caller->number) * calls->block;
}

static bool call_read(struct caller *caller)
{
    uint32_t size = caller->calls->block;
    uint64_t offset = choose_offset(caller);
    long result = pread(caller->calls->read_file, caller->block, size, (off_t)offset);
    if (result != (long)size)
        return wrong(caller, "pread", result);
    for (uint32_t at = 0; at < size; at += PAGE_SIZE) {
        uint64_t word = (offset + at) / PAGE_SIZE * 0x9E3779B97F4A7C15U + 1;
        if (memcmp(caller->block + at, &word, sizeof(word)) != 0 ||
            memcmp(caller->block + at + PAGE_SIZE - sizeof(word), &word, sizeof(word)) != 0)
            return wrong(caller, "pread", result);
    }
    return true;
}

static bool call_write(struct caller *caller)
{
    uint32_t size = caller->calls->block;
    uint64_t offset = choose_offset(caller);
    for (uint32_t at = 0; at < size; at += PAGE_SIZE) {
        uint64_t number = (offset + at) / PAGE_SIZE;
        memcpy(caller->block + at, &number, sizeof(number));
        memcpy(caller->block + at + PAGE_SIZE - sizeof(number), &number, sizeof(number));
    }
    long result = pwrite(caller->calls->write_file, caller->block, size, (off_t)offset);
    return result == (long)size || wrong(caller, "pwrite", result);
}

static bool call_readdir(struct caller *caller)
{
    alignas(8) char buffer[READDIR_SIZE];
    uint32_t entries = 0;
    int directory = openat(caller->calls->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return wrong(caller, "openat", directory);
    long got = 1;
    while (got > 0) {
        got = syscall(SYS_getdents64, directory, buffer, sizeof(buffer));
        for (long at = 0; at < got;) {
            unsigned short length;
            memcpy(&length, buffer + at + 16, sizeof(length));
            entries += buffer[at + 19] != '.';
            at += length;
        }
    }
    close(directory);
    return (got == 0 && entries == caller->calls->entries) || wrong(caller, "getdents64", got);
}

static bool call_once(struct caller *caller)
{
    switch (caller->calls->call) {
    case CALL_GETATTR:
        return call_getattr(caller);
    case CALL_LOOKUP_NONE:
        return call_lookup_none(caller);
    case CALL_READ:
        return call_read(caller);
    case CALL_WRITE:
        return call_write(caller);
    case CALL_READDIR:
        return call_readdir(caller);
    default:
        errno = EINVAL;
        return wrong(caller, "nothing", -1);
    }
}

static void *call_until_over(void *argument)
{
    struct caller *caller = argument;
    pthread_barrier_wait(caller->begin);
    uint64_t until = clock_now() + caller->calls->nanoseconds;
    do {
        if (!call_once(caller))
            break;
        caller->done++;
        caller->finished = clock_now();
    } while (caller->finished < until);
    return NULL;
}

static int run_callers(struct caller *callers, uint32_t count, struct called *called)
{
    pthread_barrier_t begin;
    pthread_barrier_init(&begin, NULL, count + 1);
    for (uint32_t i = 0; i < count; i++) {
        callers[i].begin = &begin;
        if (pthread_create(&callers[i].thread, NULL, call_until_over, &callers[i]) != 0)
            abort(); /* the others wait at the barrier */
    }
    pthread_barrier_wait(&begin);
    uint64_t began = clock_now();
    uint64_t finished = began;
    for (uint32_t i = 0; i < count; i++) {
        pthread_join(callers[i].thread, NULL);
        called->calls += callers[i].done;
        finished = callers[i].finished > finished ? callers[i].finished : finished;
        if (callers[i].wrong[0] != 0)
            memcpy(called->wrong, callers[i].wrong, sizeof(called->wrong));
    }
    called->nanoseconds = finished - began;
    pthread_barrier_destroy(&begin);
    return 0;
}

int calls_run(const struct calls *calls, struct called *called)
{
    static struct caller callers[THREADS_MAX];
    *called = (struct called){.calls = 0};
    if (calls->threads < 1 || calls->threads > THREADS_MAX || calls->block > BLOCK_MAX)
        return -EINVAL;
    int error = 0;
    for (uint32_t i = 0; i < calls->threads; i++) {
        callers[i] = (struct caller){.calls = calls, .number = i, .random = i + 1};
        callers[i].block = calloc(1, BLOCK_MAX);
        if (callers[i].block == NULL)
            error = -ENOMEM;
    }
    if (error == 0)
        error = run_callers(callers, calls->threads, called);
    for (uint32_t i = 0; i < calls->threads; i++)
        free(callers[i].block);
    return error;
}
