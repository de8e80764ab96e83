/* The guest of the node table's tests; see knowing_guest.h. */
#define _GNU_SOURCE 1
#include "knowing_guest.h"
#include "check.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

struct loopback loopback;
struct loopback_thread guest;

void begin_with(uint64_t budget, uint32_t flags, uint64_t init_flags)
{
    struct vhostfs_passthrough_options options = loopback_options();
    options.descriptor_budget = budget;
    options.flags |= flags;
    loopback_create(&loopback, &options, init_flags);
    loopback_attach(&loopback, &guest);
    guest.uid = geteuid();
    guest.gid = getegid();
}

void begin(uint64_t budget)
{
    begin_with(budget, 0, 0);
}

void end(void)
{
    loopback_detach(&guest);
    loopback_destroy(&loopback);
}

void host_file(const char *path)
{
    int fd = openat(loopback.root_fd, path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    close(fd);
}

void host_directory(const char *path)
{
    CHECK_EQUAL(mkdirat(loopback.root_fd, path, 0755), 0);
}

void host_rename(const char *from, const char *to)
{
    CHECK_EQUAL(renameat(loopback.root_fd, from, loopback.root_fd, to), 0);
}

struct fuse_entry_out look_up(uint64_t parent, const char *name)
{
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_lookup(&guest, parent, name, &entry), 0);
    return entry;
}

int ask(uint64_t nodeid)
{
    struct fuse_attr attributes;
    return loopback_getattr(&guest, nodeid, &attributes);
}
