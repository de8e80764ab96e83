/* A share with a twin; the contract is in twin.h. */
#define _GNU_SOURCE 1
#include "twin.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <unistd.h>

void twin_create(struct twin *twin, const struct vhostfs_passthrough_options *options, uint64_t flags)
{
    const char *base = getenv("VHOSTFS_TEST_DIRECTORY");
    memset(twin, 0, sizeof(*twin));
    snprintf(twin->directory, sizeof(twin->directory), "%s/vhostfs-twin-XXXXXX",
             base != NULL ? base : "/dev/shm");
    CHECK(mkdtemp(twin->directory) != NULL);
    CHECK_EQUAL(chmod(twin->directory, 0755), 0);
    snprintf(twin->share, sizeof(twin->share), "%s/share", twin->directory);
    snprintf(twin->plain, sizeof(twin->plain), "%s/plain", twin->directory);
    CHECK_EQUAL(mkdir(twin->share, 0755), 0);
    CHECK_EQUAL(mkdir(twin->plain, 0755), 0);
    loopback_create_at(&twin->loopback, twin->share, options, flags);
    loopback_attach(&twin->loopback, &twin->guest);
}

void twin_begin(struct twin *twin, uint64_t flags)
{
    struct vhostfs_passthrough_options options = loopback_options();
    twin_create(twin, &options, flags);
}

static int remove_one(const char *path, const struct stat *attributes, int type, struct FTW *where)
{
    (void)attributes;
    (void)where;
    return type == FTW_DP ? rmdir(path) : unlink(path);
}

void twin_destroy(struct twin *twin)
{
    loopback_detach(&twin->guest);
    loopback_destroy(&twin->loopback);
    CHECK_EQUAL(nftw(twin->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

const char *twin_share(struct twin *twin, const char *name)
{
    snprintf(twin->path[0], sizeof(twin->path[0]), "%s/%s", twin->share, name);
    return twin->path[0];
}

const char *twin_plain(struct twin *twin, const char *name)
{
    snprintf(twin->path[1], sizeof(twin->path[1]), "%s/%s", twin->plain, name);
    return twin->path[1];
}

static void make_file(const char *path, const char *content, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQUAL(write(fd, content, strlen(content)), strlen(content));
    CHECK_EQUAL(fchmod(fd, mode), 0);
    close(fd);
}

void twin_file(struct twin *twin, const char *name, const char *content, mode_t mode)
{
    make_file(twin_share(twin, name), content, mode);
    make_file(twin_plain(twin, name), content, mode);
}

void twin_directory(struct twin *twin, const char *name, mode_t mode)
{
    const char *paths[] = {twin_share(twin, name), twin_plain(twin, name)};
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQUAL(mkdir(paths[i], 0700), 0);
        CHECK_EQUAL(chmod(paths[i], mode), 0);
    }
}

uint64_t twin_node(struct twin *twin, const char *name)
{
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_lookup(&twin->guest, FUSE_ROOT_ID, name, &entry), 0);
    return entry.nodeid;
}

uint64_t twin_open(struct twin *twin, const char *name, uint32_t flags)
{
    uint64_t fh;
    CHECK_EQUAL(loopback_open(&twin->guest, twin_node(twin, name), flags, &fh), 0);
    return fh;
}

void twin_release(struct twin *twin, const char *name, uint64_t fh)
{
    CHECK_EQUAL(loopback_release(&twin->guest, twin_node(twin, name), fh), 0);
}

static void same_content(const char *one, const char *other)
{
    int fds[2] = {open(one, O_RDONLY | O_CLOEXEC), open(other, O_RDONLY | O_CLOEXEC)};
    CHECK(fds[0] >= 0 && fds[1] >= 0);
    char bytes[2][4096];
    ssize_t size;
    do {
        size = read(fds[0], bytes[0], sizeof(bytes[0]));
        CHECK_EQUAL(read(fds[1], bytes[1], sizeof(bytes[1])), size);
        CHECK(size >= 0 && memcmp(bytes[0], bytes[1], (size_t)size) == 0);
    } while (size > 0);
    close(fds[0]);
    close(fds[1]);
}

void twin_agree(struct twin *twin, const char *name)
{
    struct stat share;
    struct stat plain;
    CHECK_EQUAL(lstat(twin_share(twin, name), &share), 0);
    CHECK_EQUAL(lstat(twin_plain(twin, name), &plain), 0);
    CHECK_EQUAL(share.st_mode, plain.st_mode);
    CHECK_EQUAL(share.st_uid, plain.st_uid);
    CHECK_EQUAL(share.st_gid, plain.st_gid);
    CHECK_EQUAL(share.st_size, plain.st_size);
    CHECK_EQUAL(share.st_nlink, plain.st_nlink);
    if (S_ISREG(share.st_mode))
        same_content(twin_share(twin, name), twin_plain(twin, name));
}

int twin_errno(long result)
{
    return result < 0 ? -errno : 0;
}
