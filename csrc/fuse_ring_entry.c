/* Entries of rings to /dev/fuse; the contract is in fuse_ring_entry.h. */
#include "fuse_ring_entry.h"

#include <errno.h>
#include <string.h>

void fuse_ring_entry_init(struct fuse_ring_entry *entry, uint8_t *payload, size_t capacity, uint16_t queue)
{
    *entry = (struct fuse_ring_entry){
        .vectors = {{.iov_base = &entry->header, .iov_len = sizeof(entry->header)},
                    {.iov_base = payload, .iov_len = capacity}},
        .queue = queue,
    };
}

ssize_t fuse_ring_entry_request(struct fuse_ring_entry *entry, struct iovec vectors[FUSE_RING_VECTORS])
{
    struct fuse_in_header in;
    memcpy(&in, entry->header.in_out, sizeof(in));
    size_t payload = entry->header.ring_ent_in_out.payload_sz;
    if (payload > entry->vectors[1].iov_len || in.len < sizeof(in) + payload)
        return -EIO;
    size_t first = in.len - sizeof(in) - payload;
    if (first > sizeof(entry->header.op_in))
        return -EIO;
    vectors[0] = (struct iovec){.iov_base = entry->header.in_out, .iov_len = sizeof(in)};
    vectors[1] = (struct iovec){.iov_base = entry->header.op_in, .iov_len = first};
    vectors[2] = (struct iovec){.iov_base = entry->vectors[1].iov_base, .iov_len = payload};
    return (ssize_t)in.len;
}

void fuse_ring_entry_reply(struct fuse_ring_entry *entry, size_t room, struct iovec vectors[2])
{
    vectors[0] = (struct iovec){.iov_base = entry->header.in_out, .iov_len = sizeof(struct fuse_out_header)};
    vectors[1] = (struct iovec){.iov_base = entry->vectors[1].iov_base, .iov_len = room};
}

static void finish(struct fuse_ring_entry *entry, uint32_t payload)
{
    entry->header.ring_ent_in_out.payload_sz = payload;
    atomic_store(&entry->holder, FUSE_RING_KERNEL);
    atomic_store(&entry->done, fuse_ring_entry_unique(entry));
}

void fuse_ring_entry_answered(struct fuse_ring_entry *entry, uint32_t size)
{
    if (size == 0)
        fuse_ring_entry_refuse(entry, 0);
    else
        finish(entry, size - (uint32_t)sizeof(struct fuse_out_header));
}

void fuse_ring_entry_refuse(struct fuse_ring_entry *entry, int32_t error)
{
    struct fuse_out_header out = {
        .len = sizeof(out), .error = error, .unique = entry->header.ring_ent_in_out.commit_id};
    memcpy(entry->header.in_out, &out, sizeof(out));
    finish(entry, 0);
}

uint64_t fuse_ring_entry_unique(const struct fuse_ring_entry *entry)
{
    _Static_assert(offsetof(struct fuse_in_header, unique) == offsetof(struct fuse_out_header, unique),
                   "in one place before and after the answer");
    /* While somebody else may write the same number there once more. */
    const void *at = entry->header.in_out + offsetof(struct fuse_in_header, unique);
    return atomic_load_explicit((const _Atomic uint64_t *)at, memory_order_acquire);
}
