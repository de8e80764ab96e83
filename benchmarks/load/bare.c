/* The system calls alone that the steps of a cycle cannot do without, in a loop: what no daemon can be below.
 */
#define _GNU_SOURCE 1
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define NEVER ((int64_t)1 << 62)

struct bare {
    const struct bare_share *share;
    const struct workload *workload;
    int *files; /* O_PATH, for what a daemon asks by node */
    uint64_t random;
    uint64_t forward;
    uint32_t file;
    int open_file;
    struct iovec vectors[BLOCK_PAGES];
    uint8_t *pages;
};

static int result_of(long result)
{
    return result < 0 ? -errno : 0;
}

static void name_file(struct bare *bare, char *name, size_t size)
{
    bare->file = (uint32_t)(next_random(&bare->random) % bare->share->file_count);
    snprintf(name, size, "file-%05u", bare->file);
}

static int bare_statx(int directory, const char *name, int flags)
{
    struct statx attributes;
    return result_of(statx(directory, name, flags | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &attributes));
}

static int bare_readdir(struct bare *bare)
{
    alignas(8) char buffer[READDIR_SIZE];
    for (;;) {
        long got = syscall(SYS_getdents64, bare->open_file, buffer, sizeof(buffer));
        if (got <= 0)
            return result_of(got);
        for (long at = 0; at < got;) {
            unsigned short length;
            memcpy(&length, buffer + at + 16, sizeof(length));
            int error = bare_statx(bare->share->directory, buffer + at + 19, 0);
            if (error != 0)
                return error;
            at += length;
        }
    }
}

static off_t next_offset(struct bare *bare)
{
    uint64_t blocks = bare->share->data_size / bare->workload->block;
    uint64_t turn = bare->workload->random ? next_random(&bare->random) : bare->forward++;
    return (off_t)((turn % blocks) * bare->workload->block);
}

static int bare_transfer(struct bare *bare, bool writes)
{
    uint32_t pages = bare->workload->block / PAGE_SIZE;
    off_t offset = next_offset(bare);
    if (writes)
        return result_of(pwritev(bare->share->write_file, bare->vectors, (int)pages, offset));
    return result_of(preadv(bare->share->read_file, bare->vectors, (int)pages, offset));
}

static int open_again(struct bare *bare, int from, int flags)
{
    char path[40];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", from);
    bare->open_file = open(path, flags);
    return result_of(bare->open_file);
}

static int bare_step(struct bare *bare, uint32_t step)
{
    const struct bare_share *share = bare->share;
    char name[32];
    name_file(bare, name, sizeof(name));
    switch (step) {
    case STEP_GETATTR:
        return bare_statx(bare->files[bare->file], "", AT_EMPTY_PATH);
    case STEP_LOOKUP:
    case STEP_LOOKUP_COLD:
        return bare_statx(share->directory, name, 0);
    case STEP_LOOKUP_NONE:
        memcpy(name, "none", 4);
        bare_statx(share->directory, name, 0);
        return 0;
    case STEP_OPEN:
        return open_again(bare, bare->files[bare->file], O_RDONLY);
    case STEP_OPENDIR:
        return open_again(bare, share->directory, O_RDONLY | O_DIRECTORY);
    case STEP_READDIRPLUS:
        return bare_readdir(bare);
    case STEP_RELEASE:
    case STEP_RELEASEDIR:
        return result_of(close(bare->open_file));
    case STEP_CREATE:
        bare->open_file = openat(share->new_directory, "bare", O_RDWR | O_CREAT | O_EXCL, 0644);
        return bare->open_file < 0 ? -errno : bare_statx(bare->open_file, "", AT_EMPTY_PATH);
    case STEP_WRITE_NEW:
        return result_of(pwrite(bare->open_file, bare->pages, PAGE_SIZE, 0));
    case STEP_UTIME:
        return result_of(futimens(bare->open_file, (struct timespec[2]){{.tv_sec = 1}, {.tv_sec = 2}})) ||
               bare_statx(bare->open_file, "", AT_EMPTY_PATH);
    case STEP_UNLINK:
        return result_of(unlinkat(share->new_directory, "bare", 0));
    case STEP_READ_SMALL:
        return result_of(pread(bare->open_file, bare->pages, PAGE_SIZE, 0));
    case STEP_READ:
        return bare_transfer(bare, false);
    case STEP_WRITE:
        return bare_transfer(bare, true);
    case STEP_CHMOD:
        return result_of(fchmodat(share->directory, name, next_random(&bare->random) % 2 ? 0600 : 0644, 0)) ||
               bare_statx(bare->files[bare->file], "", AT_EMPTY_PATH);
    case STEP_STATFS: {
        struct statfs figures;
        return result_of(fstatfs(share->directory, &figures));
    }
    case STEP_GETXATTR: {
        char path[40];
        char value[256];
        snprintf(path, sizeof(path), "/proc/self/fd/%d", bare->files[bare->file]);
        return result_of(getxattr(path, "user.benchmark", value, sizeof(value)));
    }
    default:
        return 0;
    }
}

static uint64_t cpu_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000U + (uint64_t)time.tv_nsec;
}

static bool open_files(struct bare *bare)
{
    for (uint32_t i = 0; i < bare->share->file_count; i++) {
        char name[32];
        snprintf(name, sizeof(name), "file-%05u", i);
        bare->files[i] = openat(bare->share->directory, name, O_PATH | O_CLOEXEC);
        if (bare->files[i] < 0)
            return false;
    }
    return true;
}

static int64_t repeat(struct bare *bare, uint64_t nanoseconds)
{
    const struct workload *workload = bare->workload;
    uint64_t begin = cpu_now();
    uint64_t spent = 0;
    uint64_t cycles = 0;
    while (spent < nanoseconds) {
        for (int round = 0; round < 8; round++, cycles++) {
            for (uint32_t i = 0; i < workload->step_count; i++) {
                int error = bare_step(bare, workload->steps[i]);
                if (error != 0)
                    return error;
            }
        }
        spent = cpu_now() - begin;
    }
    return (int64_t)(spent / cycles);
}

int64_t bare_run(const struct bare_share *share, const struct workload *workload, uint64_t nanoseconds)
{
    struct bare bare = {.share = share, .workload = workload, .random = 1, .open_file = -1};
    int64_t result = -ENOMEM;
    bare.files = calloc(share->file_count, sizeof(*bare.files));
    bare.pages = aligned_alloc(PAGE_SIZE, BLOCK_MAX);
    if (bare.files == NULL || bare.pages == NULL)
        goto out;
    memset(bare.pages, 1, BLOCK_MAX);
    for (size_t i = 0; i < BLOCK_PAGES; i++) /* out of order, so that nothing is merged */
        bare.vectors[i] = (struct iovec){bare.pages + (i * 37 % BLOCK_PAGES) * PAGE_SIZE, PAGE_SIZE};
    result = -EIO;
    if (open_files(&bare)) {
        result = NEVER;
        for (int round = 0; round < 3; round++) {
            int64_t once = repeat(&bare, nanoseconds / 3);
            if (once < result)
                result = once;
        }
    }
    for (uint32_t i = 0; i < share->file_count; i++) {
        if (bare.files[i] > 0)
            close(bare.files[i]);
    }
out:
    free(bare.pages);
    free(bare.files);
    return result;
}
