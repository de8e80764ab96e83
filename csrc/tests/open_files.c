/* Requests that open files take; the contract is in open_files.h. */
#define _GNU_SOURCE 1
#include "open_files.h"
#include "check.h"

#include <fcntl.h>
#include <unistd.h>

int32_t read_at(struct twin *twin, uint64_t nodeid, uint64_t fh, uint64_t offset, uint32_t size)
{
    struct fuse_read_in in = {.fh = fh, .offset = offset, .size = size};
    return loopback_send(&twin->guest, FUSE_READ, nodeid, &in, sizeof(in), NULL, NULL);
}

int32_t write_with(struct twin *twin, uint64_t nodeid, const struct fuse_write_in *in, const void *data,
                   size_t size)
{
    struct loopback_piece pieces[] = {{in, sizeof(*in)}, {data, size}};
    int32_t result = loopback_call(&twin->guest, FUSE_WRITE, nodeid, pieces, 2);
    if (result < 0)
        return result;
    struct fuse_write_out out;
    CHECK_EQUAL(result, sizeof(out));
    memcpy(&out, twin->guest.reply, sizeof(out));
    return (int32_t)out.size;
}

int32_t write_at(struct twin *twin, uint64_t nodeid, uint64_t fh, uint64_t offset, const void *data,
                 size_t size)
{
    struct fuse_write_in in = {.fh = fh, .offset = offset, .size = (uint32_t)size};
    return write_with(twin, nodeid, &in, data, size);
}

struct open_pair open_both(struct twin *twin, const char *name, uint32_t flags)
{
    struct open_pair pair = {.nodeid = twin_node(twin, name), .fh = twin_open(twin, name, flags)};
    pair.fd = open(twin_plain(twin, name), (int)flags | O_CLOEXEC);
    CHECK(pair.fd >= 0);
    return pair;
}

void close_both(struct twin *twin, const struct open_pair *pair)
{
    CHECK_EQUAL(loopback_release(&twin->guest, pair->nodeid, pair->fh), 0);
    close(pair->fd);
}

uint32_t file_mode(struct twin *twin, const char *name)
{
    struct stat attributes;
    CHECK_EQUAL(stat(twin_share(twin, name), &attributes), 0);
    return attributes.st_mode & 07777;
}
int32_t open_with(struct twin *twin, uint64_t nodeid, uint32_t flags, uint32_t open_flags,
                  struct fuse_open_out *out)
{
    struct fuse_open_in in = {.flags = flags, .open_flags = open_flags};
    int32_t result = loopback_send(&twin->guest, FUSE_OPEN, nodeid, &in, sizeof(in), NULL, NULL);
    if (result == (int32_t)sizeof(*out))
        memcpy(out, twin->guest.reply, sizeof(*out));
    return result < 0 ? result : 0;
}
