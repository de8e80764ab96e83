/* Which limits the requests of a session keep to, and what each of them costs. */
#include "rate_limit.h"
#include "session.h"

#include <errno.h>
#include <string.h>

int session_limit(struct session *session, uint16_t mount, struct vhostfs_rate_limit *limit)
{
    struct filesystem *filesystem = session_find(session, mount);
    if (filesystem == NULL)
        return -ENOENT;
    size_t i = 0;
    while (i < FILESYSTEM_LIMITS &&
           atomic_load_explicit(&filesystem->limits[i], memory_order_relaxed) != NULL)
        i++;
    if (i == FILESYSTEM_LIMITS)
        return -ENOSPC;
    rate_limit_get(limit);
    /* Release, pairs with the acquire in limit_of. */
    atomic_store_explicit(&filesystem->limits[i], limit, memory_order_release);
    atomic_store_explicit(&session->limited, true, memory_order_relaxed);
    return 0;
}

void filesystem_drop_limits(struct filesystem *filesystem)
{
    for (size_t i = 0; i < FILESYSTEM_LIMITS; i++) {
        struct vhostfs_rate_limit *limit =
            atomic_exchange_explicit(&filesystem->limits[i], NULL, memory_order_relaxed);
        if (limit != NULL)
            vhostfs_rate_limit_put(limit);
    }
}

static struct vhostfs_rate_limit *limit_of(struct filesystem *filesystem, size_t i)
{
    return i < FILESYSTEM_LIMITS ? atomic_load_explicit(&filesystem->limits[i], memory_order_acquire) : NULL;
}

/* What frees memory, or ends what others wait for, is not held up. */
static bool never_waits(uint32_t opcode)
{
    return opcode == FUSE_INIT || opcode == FUSE_DESTROY || opcode == FUSE_FORGET ||
           opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

_Static_assert(offsetof(struct fuse_read_in, size) == offsetof(struct fuse_write_in, size),
               "fuse.h has the sizes of reads and writes in one place");

/* Bytes of data that a request asks to be moved: no more than it has room for. */
static uint64_t bytes_asked_for(const struct request *request)
{
    bool reads = request->in.opcode == FUSE_READ;
    if ((!reads && request->in.opcode != FUSE_WRITE) || request->arguments_size < sizeof(struct fuse_read_in))
        return 0;
    uint32_t size = 0;
    memcpy(&size, request->arguments + offsetof(struct fuse_read_in, size), sizeof(size));
    size_t room = reads ? request->chain.writable_size : request->chain.readable_size;
    return size < room ? size : room;
}

uint64_t session_delay(struct session *session, const struct request *request, uint64_t now)
{
    struct filesystem *filesystem = session_find(session, nodeid_mount(request->in.nodeid));
    if (filesystem == NULL || never_waits(request->in.opcode))
        return 0;
    uint64_t longest = 0;
    struct vhostfs_rate_limit *limit = NULL;
    for (size_t i = 0; (limit = limit_of(filesystem, i)) != NULL; i++) {
        uint64_t wait = rate_limit_wait(limit, now);
        longest = wait > longest ? wait : longest;
    }
    if (longest > 0)
        return longest;
    uint64_t bytes = bytes_asked_for(request);
    for (size_t i = 0; (limit = limit_of(filesystem, i)) != NULL; i++)
        rate_limit_pay(limit, now, bytes);
    return 0;
}
