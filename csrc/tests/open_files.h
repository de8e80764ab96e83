/* Requests that open files take, for tests of what the guest does with them. */
#pragma once
#include "twin.h"

/* A file of both sides, open for the guest and for plain calls. */
struct open_pair {
    uint64_t nodeid;
    uint64_t fh;
    int fd;
};

struct open_pair open_both(struct twin *twin, const char *name, uint32_t flags);
void close_both(struct twin *twin, const struct open_pair *pair);

/* Each answers what the guest gets: bytes or 0, or a negative errno. What was read is in the guest's reply. */
int32_t open_with(struct twin *twin, uint64_t nodeid, uint32_t flags, uint32_t open_flags,
                  struct fuse_open_out *out);
int32_t read_at(struct twin *twin, uint64_t nodeid, uint64_t fh, uint64_t offset, uint32_t size);
int32_t write_at(struct twin *twin, uint64_t nodeid, uint64_t fh, uint64_t offset, const void *data,
                 size_t size);
int32_t write_with(struct twin *twin, uint64_t nodeid, const struct fuse_write_in *in, const void *data,
                   size_t size);

/* Permission bits of a file of the share, as the host has them. */
uint32_t file_mode(struct twin *twin, const char *name);
