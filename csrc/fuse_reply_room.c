/* How much the kernel takes in answer to a request of /dev/fuse; the contract is in fuse_device.h. */
#include "fuse_device.h"
#include "fuse_wire.h"

#include <string.h>

/* Room for replies that the kernel bounds by the operation alone: structures, and the target of a link. */
#define ROOM_OF_STRUCTURES 4096U
#define ROOM_OF_LINKS 4095U

uint32_t fuse_argument_at(const struct request *request, size_t offset)
{
    uint32_t value = 0;
    if (offset + sizeof(value) <= request->arguments_size)
        memcpy(&value, request->arguments + offset, sizeof(value));
    return value;
}

size_t fuse_reply_room(const struct request *request)
{
    size_t size;
    switch (request->in.opcode) {
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        return fuse_argument_at(request, offsetof(struct fuse_read_in, size));
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
        size = fuse_argument_at(request, offsetof(struct fuse_getxattr_in, size));
        return size > 0 ? size : sizeof(struct fuse_getxattr_out);
    case FUSE_IOCTL:
        return sizeof(struct fuse_ioctl_out) +
               fuse_argument_at(request, offsetof(struct fuse_ioctl_in, out_size));
    case FUSE_READLINK:
        return ROOM_OF_LINKS;
    default:
        return ROOM_OF_STRUCTURES;
    }
}
