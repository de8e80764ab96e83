/* Passthrough: the ioctls of files that have a meaning on any host: inode flags and project attributes. All
 * others are ENOTTY: a command is a number without a meaning of its own, and the host's drivers are not the
 * guest's to talk to.
 */
#define _GNU_SOURCE 1
#include "passthrough.h"

#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

/* A command of ours: what is moved, which way. */
struct command {
    uint32_t size;
    bool changes; /* the guest sends the value; else it is answered */
    unsigned long host;
};

/* False: not one that we pass. The guest's may carry its 32-bit number; what is moved has the same layout. */
static bool find_command(uint32_t number, struct command *command)
{
    switch (number) {
    case (uint32_t)FS_IOC_GETFLAGS:
    case (uint32_t)FS_IOC32_GETFLAGS:
        *command = (struct command){.size = sizeof(uint32_t), .host = FS_IOC_GETFLAGS};
        return true;
    case (uint32_t)FS_IOC_SETFLAGS:
    case (uint32_t)FS_IOC32_SETFLAGS:
        *command = (struct command){.size = sizeof(uint32_t), .changes = true, .host = FS_IOC_SETFLAGS};
        return true;
    case (uint32_t)FS_IOC_FSGETXATTR:
        *command = (struct command){.size = sizeof(struct fsxattr), .host = FS_IOC_FSGETXATTR};
        return true;
    case (uint32_t)FS_IOC_FSSETXATTR:
        *command =
            (struct command){.size = sizeof(struct fsxattr), .changes = true, .host = FS_IOC_FSSETXATTR};
        return true;
    default:
        return false;
    }
}

union value {
    uint32_t flags;
    struct fsxattr attributes;
    uint8_t bytes[sizeof(uint64_t) +
                  sizeof(struct fsxattr)]; /* some file systems take the 8 bytes that _IOR names */
};

static int32_t set_value(struct request *request, const struct handle *handle, const struct command *command,
                         const struct fuse_ioctl_in *in)
{
    const void *sent = request_argument(request, command->size);
    if (in->in_size < command->size || sent == NULL)
        return -EINVAL;
    if (passthrough_option(passthrough_of(request), VHOSTFS_PASSTHROUGH_READ_ONLY))
        return -EROFS;
    union value value = {0};
    memcpy(&value, sent, command->size);
    if (!request_may_sleep(request)) /* a transaction of the host's journal */
        return REQUEST_WOULD_SLEEP;
    if (ioctl(handle->fd, command->host, &value) < 0)
        return -errno;
    struct fuse_ioctl_out out = {0};
    return reply_bytes(request, &out, sizeof(out));
}

static int32_t get_value(struct request *request, const struct handle *handle, const struct command *command,
                         const struct fuse_ioctl_in *in)
{
    if (in->out_size < command->size)
        return -EINVAL;
    union value value = {0};
    if (ioctl(handle->fd, command->host, &value) < 0)
        return -errno;
    struct fuse_ioctl_out out = {0};
    if (!reply_at(request, sizeof(out), &value, command->size))
        return -EIO;
    int32_t result = reply_bytes(request, &out, sizeof(out));
    return result < 0 ? result : result + (int32_t)command->size;
}

int32_t passthrough_ioctl(struct request *request)
{
    const struct fuse_ioctl_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct handle *handle = passthrough_any_handle(request, in->fh);
    if (handle == NULL)
        return -EBADF;
    struct command command;
    if (!find_command(in->cmd, &command))
        return -ENOTTY;
    return command.changes ? set_value(request, handle, &command, in)
                           : get_value(request, handle, &command, in);
}
