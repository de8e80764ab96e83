/* The ioctls of files that reach the host: inode flags and project attributes. */
#define _GNU_SOURCE 1
#include "check.h"
#include "twin.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Send an ioctl; the size of the answered data, or a negative errno. */
static int32_t ioctl_with(struct twin *twin, uint64_t nodeid, uint64_t fh, uint32_t command, const void *data,
                          uint32_t in_size, uint32_t out_size)
{
    struct fuse_ioctl_in in = {.fh = fh, .cmd = command, .in_size = in_size, .out_size = out_size};
    struct loopback_piece pieces[] = {{&in, sizeof(in)}, {data, in_size}};
    int32_t result = loopback_call(&twin->guest, FUSE_IOCTL, nodeid, pieces, 2);
    if (result < 0)
        return result;
    struct fuse_ioctl_out out;
    CHECK(result >= (int32_t)sizeof(out));
    memcpy(&out, twin->guest.reply, sizeof(out));
    CHECK_EQUAL(out.result, 0);
    CHECK_EQUAL(out.in_iovs + out.out_iovs + out.flags, 0);
    return result - (int32_t)sizeof(out);
}

static const uint8_t *answer_of(const struct twin *twin)
{
    return twin->guest.reply + sizeof(struct fuse_ioctl_out);
}

/* The same file on both sides, opened. */
struct sides {
    uint64_t nodeid;
    uint64_t fh;
    int fd;
};

static struct sides sides_open(struct twin *twin, const char *name)
{
    twin_file(twin, name, "", 0600);
    return (struct sides){.nodeid = twin_node(twin, name),
                          .fh = twin_open(twin, name, O_RDWR),
                          .fd = open(twin_plain(twin, name), O_RDWR | O_CLOEXEC)};
}

static void sides_close(struct twin *twin, const struct sides *sides)
{
    CHECK_EQUAL(loopback_release(&twin->guest, sides->nodeid, sides->fh), 0);
    close(sides->fd);
}

static void inode_flags_are_those_of_the_host(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    struct sides sides = sides_open(&twin, "file");
    const uint32_t commands[][2] = {{(uint32_t)FS_IOC_GETFLAGS, (uint32_t)FS_IOC_SETFLAGS},
                                    {(uint32_t)FS_IOC32_GETFLAGS, (uint32_t)FS_IOC32_SETFLAGS}};
    const uint32_t wanted[] = {FS_NODUMP_FL, FS_NODUMP_FL | FS_NOATIME_FL, 0, 0x80000000};
    for (size_t i = 0; i < 2; i++) {
        for (size_t k = 0; k < 4; k++) {
            int flags = (int)wanted[k];
            int plain = twin_errno(ioctl(sides.fd, FS_IOC_SETFLAGS, &flags));
            CHECK_EQUAL(ioctl_with(&twin, sides.nodeid, sides.fh, commands[i][1], &wanted[k], 4, 0), plain);
            plain = twin_errno(ioctl(sides.fd, FS_IOC_GETFLAGS, &flags));
            CHECK_EQUAL(ioctl_with(&twin, sides.nodeid, sides.fh, commands[i][0], NULL, 0, 4),
                        plain < 0 ? plain : 4);
            if (plain == 0)
                CHECK_EQUAL(memcmp(answer_of(&twin), &flags, 4), 0);
        }
    }
    sides_close(&twin, &sides);
    twin_destroy(&twin);
}

static void project_attributes_are_those_of_the_host(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    struct sides sides = sides_open(&twin, "file");
    struct fsxattr attributes = {0};
    const uint32_t size = sizeof(attributes);
    int plain = twin_errno(ioctl(sides.fd, FS_IOC_FSGETXATTR, &attributes));
    CHECK_EQUAL(ioctl_with(&twin, sides.nodeid, sides.fh, (uint32_t)FS_IOC_FSGETXATTR, NULL, 0, size),
                plain < 0 ? plain : (int32_t)size);
    if (plain == 0)
        CHECK_EQUAL(memcmp(answer_of(&twin), &attributes, size), 0);
    attributes.fsx_xflags = FS_XFLAG_NODUMP;
    plain = twin_errno(ioctl(sides.fd, FS_IOC_FSSETXATTR, &attributes));
    CHECK_EQUAL(ioctl_with(&twin, sides.nodeid, sides.fh, (uint32_t)FS_IOC_FSSETXATTR, &attributes, size, 0),
                plain);
    sides_close(&twin, &sides);
    twin_destroy(&twin);
}

static void directories_have_them_too(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    uint64_t fh;
    CHECK_EQUAL(loopback_opendir(&twin.guest, FUSE_ROOT_ID, &fh), 0);
    int fd = open(twin.share, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int flags = 0;
    int plain = twin_errno(ioctl(fd, FS_IOC_GETFLAGS, &flags));
    CHECK_EQUAL(ioctl_with(&twin, FUSE_ROOT_ID, fh, (uint32_t)FS_IOC_GETFLAGS, NULL, 0, 4),
                plain < 0 ? plain : 4);
    close(fd);
    CHECK_EQUAL(loopback_releasedir(&twin.guest, FUSE_ROOT_ID, fh), 0);
    twin_destroy(&twin);
}

static void no_other_command_reaches_the_host(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    struct sides sides = sides_open(&twin, "file");
    uint8_t data[64] = {0};
    const uint32_t commands[] = {0,
                                 UINT32_MAX,
                                 (uint32_t)FS_IOC_GETVERSION,
                                 (uint32_t)FICLONE,
                                 (uint32_t)FITRIM,
                                 (uint32_t)FIFREEZE,
                                 (uint32_t)FIBMAP,
                                 (uint32_t)FIONREAD,
                                 (uint32_t)FS_IOC_GETFLAGS + 1};
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        CHECK_EQUAL(ioctl_with(&twin, sides.nodeid, sides.fh, commands[i], data, 64, 64), -ENOTTY);
    sides_close(&twin, &sides);
    twin_destroy(&twin);
}

static void sizes_are_checked(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    struct sides sides = sides_open(&twin, "file");
    uint8_t data[64] = {0};
    for (uint32_t size = 0; size < 4; size++) {
        CHECK_EQUAL(ioctl_with(&twin, sides.nodeid, sides.fh, (uint32_t)FS_IOC_GETFLAGS, NULL, 0, size),
                    -EINVAL);
        CHECK_EQUAL(ioctl_with(&twin, sides.nodeid, sides.fh, (uint32_t)FS_IOC_SETFLAGS, data, size, 0),
                    -EINVAL);
    }
    struct fuse_ioctl_in lying = {.fh = sides.fh, .cmd = (uint32_t)FS_IOC_SETFLAGS, .in_size = UINT32_MAX};
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_IOCTL, sides.nodeid, &lying, sizeof(lying), NULL, NULL),
                -EINVAL);
    for (size_t size = 0; size < sizeof(lying); size++)
        CHECK_EQUAL(loopback_send(&twin.guest, FUSE_IOCTL, sides.nodeid, &lying, size, NULL, NULL), -EIO);
    twin.guest.room = 16 + sizeof(struct fuse_ioctl_out) + 3;
    int flags;
    if (ioctl(sides.fd, FS_IOC_GETFLAGS, &flags) == 0)
        CHECK_EQUAL(ioctl_with(&twin, sides.nodeid, sides.fh, (uint32_t)FS_IOC_GETFLAGS, NULL, 0, 4), -EIO);
    twin.guest.room = LOOPBACK_ROOM;
    CHECK_EQUAL(ioctl_with(&twin, sides.nodeid, 4711, (uint32_t)FS_IOC_GETFLAGS, NULL, 0, 4), -EBADF);
    CHECK_EQUAL(ioctl_with(&twin, FUSE_ROOT_ID, sides.fh, (uint32_t)FS_IOC_GETFLAGS, NULL, 0, 4), -EBADF);
    sides_close(&twin, &sides);
    twin_destroy(&twin);
}

static void a_read_only_share_keeps_its_flags(void)
{
    struct twin twin;
    struct vhostfs_passthrough_options options = loopback_options();
    options.flags |= VHOSTFS_PASSTHROUGH_READ_ONLY;
    twin_create(&twin, &options, 0);
    twin_file(&twin, "file", "", 0600);
    uint64_t fh = twin_open(&twin, "file", O_RDONLY);
    const uint32_t flags = FS_NODUMP_FL;
    CHECK_EQUAL(ioctl_with(&twin, twin_node(&twin, "file"), fh, (uint32_t)FS_IOC_SETFLAGS, &flags, 4, 0),
                -EROFS);
    twin_release(&twin, "file", fh);
    twin_destroy(&twin);
}

int main(void)
{
    PROMISE(inode_flags_are_those_of_the_host);
    PROMISE(project_attributes_are_those_of_the_host);
    PROMISE(directories_have_them_too);
    PROMISE(no_other_command_reaches_the_host);
    PROMISE(sizes_are_checked);
    PROMISE(a_read_only_share_keeps_its_flags);
    return 0;
}
