/* Answers in a tree of mounts: what those of requests become that mount_tree.c has sent elsewhere, or looks into. */
#include "mount_tree.h"
#include "pseudo.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define NAME_LIMIT 255

/* Attributes of a mount's root, as stored, become its entry. */
static int32_t answer_root(const struct mount_tree *tree, struct request *request, int32_t result)
{
    struct fuse_attr_out from;
    if (result < 0)
        return result;
    if (result != (int32_t)sizeof(from) || !reply_back(request, 0, &from, sizeof(from)))
        return -EIO;
    struct fuse_entry_out entry = {.nodeid = request->in.nodeid,
                                   .entry_valid = TREE_ENTRY_SECONDS,
                                   .attr_valid = from.attr_valid,
                                   .attr_valid_nsec = from.attr_valid_nsec,
                                   .attr = from.attr};
    uint64_t flags = atomic_load_explicit(&tree->session->flags, memory_order_relaxed);
    entry.attr.flags &= ~FUSE_ATTR_SUBMOUNT;
    if ((flags & FUSE_INIT_SUBMOUNTS) != 0)
        entry.attr.flags |= FUSE_ATTR_SUBMOUNT;
    return reply_bytes(request, &entry, sizeof(entry));
}

/* The directory that was looked up on the way to a mount is there, or is a pseudo directory. */
static int32_t answer_way(struct mount_tree *tree, struct request *request, int32_t result)
{
    struct fuse_entry_out entry = {0};
    if (result < 0 && result != -ENOENT)
        return result;
    if (result == (int32_t)sizeof(entry))
        reply_back(request, 0, &entry, sizeof(entry));
    if (entry.nodeid != 0) {
        if (S_ISDIR(entry.attr.mode))
            mount_tree_note(tree, request->waypoint, entry.nodeid);
        return result;
    }
    pthread_mutex_lock(&tree->lock);
    const struct waypoint *waypoint = mount_tree_waypoint(tree, request->waypoint);
    if (waypoint != NULL)
        pseudo_fill_entry(tree, waypoint, &entry);
    pthread_mutex_unlock(&tree->lock);
    return waypoint != NULL ? reply_bytes(request, &entry, sizeof(entry)) : result;
}

/* Take back a lookup that the mount has counted for an entry which the guest will not see. */
static void give_back(struct request *request, uint64_t nodeid)
{
    struct filesystem *filesystem = request->filesystem;
    struct fuse_forget_in in = {.nlookup = 1};
    struct request forgets = *request;
    mount_tree_rewrite(&forgets, FUSE_FORGET, nodeid, &in, sizeof(in));
    forgets.chain = (struct chain){.readable_size = forgets.in.len,
                                   .readable = request->chain.readable,
                                   .writable = request->chain.writable};
    forgets.tree_step = TREE_NONE;
    forgets.pins = 0;
    if (filesystem->operations[FUSE_FORGET] == NULL)
        return;
    if (filesystem->submit_copy != NULL)
        filesystem->submit_copy(filesystem, &forgets);
    else
        filesystem->operations[FUSE_FORGET](&forgets); /* native listings are not answered on the pool */
}

/* Read an entry's head and name where a waypoint may have it. The entry's size, or 0: no more. */
static size_t read_entry(const struct request *request, size_t at, size_t end, struct fuse_direntplus *entry,
                         char *name)
{
    if (end - at < sizeof(*entry) || !reply_back(request, at, entry, sizeof(*entry)))
        return 0;
    size_t length = entry->dirent.namelen;
    size_t size = (sizeof(*entry) + length + 7) & ~(size_t)7;
    if (size > end - at)
        return 0;
    name[0] = 0;
    if (length <= NAME_LIMIT && reply_back(request, at + sizeof(*entry), name, length))
        name[length] = 0;
    return size;
}

/* What the guest would be told of the names of waypoints is what they hide: it is to look them up. */
static int32_t answer_listing(struct mount_tree *tree, struct request *request, int32_t result)
{
    static const struct fuse_entry_out nothing;
    struct fuse_direntplus entry;
    char name[NAME_LIMIT + 1];
    pthread_mutex_lock(&tree->lock);
    const struct waypoint *at = mount_tree_waypoint(tree, request->waypoint);
    size_t end = at != NULL && result > 0 ? (size_t)result : 0;
    size_t position = 0;
    while (position < end) {
        size_t size = read_entry(request, position, end, &entry, name);
        if (size == 0)
            break;
        if (entry.entry_out.nodeid != 0 && mount_tree_child(tree, at, name) != NULL) {
            reply_at(request, position, &nothing, sizeof(nothing));
            give_back(request, entry.entry_out.nodeid);
        }
        position += size;
    }
    pthread_mutex_unlock(&tree->lock);
    return result;
}

static struct fuse_sx_time time_of(uint64_t seconds, uint32_t nanoseconds)
{
    return (struct fuse_sx_time){.tv_sec = (int64_t)seconds, .tv_nsec = nanoseconds};
}

static int32_t answer_statx(struct request *request, int32_t result)
{
    struct fuse_attr_out from;
    if (result < 0)
        return result;
    if (result != (int32_t)sizeof(from) || !reply_back(request, 0, &from, sizeof(from)))
        return -EIO;
    const struct fuse_attr *attr = &from.attr;
    struct fuse_statx_out out = {
        .attr_valid = from.attr_valid,
        .attr_valid_nsec = from.attr_valid_nsec,
        .flags = attr->flags,
        .stat = {.mask = 0x7ff, /* STATX_BASIC_STATS */
                 .blksize = attr->blksize,
                 .nlink = attr->nlink,
                 .uid = attr->uid,
                 .gid = attr->gid,
                 .mode = (uint16_t)attr->mode,
                 .ino = attr->ino,
                 .size = attr->size,
                 .blocks = attr->blocks,
                 .atime = time_of(attr->atime, attr->atimensec),
                 .ctime = time_of(attr->ctime, attr->ctimensec),
                 .mtime = time_of(attr->mtime, attr->mtimensec),
                 .rdev_major = attr->rdev >> 8 & 0xfff,
                 .rdev_minor = (attr->rdev & 0xff) | (attr->rdev >> 12 & 0xfff00)},
    };
    return reply_bytes(request, &out, sizeof(out));
}

/* There are no handles, and all may be opened; but nobody would cut the file where the guest trusts OPEN with that. */
static int32_t open_without_handle(struct request *request)
{
    static const struct fuse_open_out opened;
    struct fuse_open_in in = {0};
    if (request->arguments_size >= sizeof(in))
        memcpy(&in, request->arguments, sizeof(in));
    const struct filesystem *filesystem = request->filesystem;
    if ((in.flags & O_TRUNC) != 0 && filesystem != NULL && filesystem->operations[FUSE_SETATTR] == NULL)
        return -EROFS;
    return reply_bytes(request, &opened, sizeof(opened));
}

/* What an operation that the mount does not know is answered, as Linux would take ENOSYS for all mounts. Where it
 * has no other way to be told (CREATE, POLL, BMAP), it is. */
static int32_t answer_unknown(struct request *request)
{
    static const struct fuse_open_out opened;
    switch (request->in.opcode) {
    case FUSE_OPEN:
        return open_without_handle(request);
    case FUSE_OPENDIR:
        return reply_bytes(request, &opened, sizeof(opened));
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_ACCESS:
    case FUSE_SYNCFS:
        return 0;
    case FUSE_SETXATTR:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_FALLOCATE:
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64:
    case FUSE_TMPFILE:
        return -EOPNOTSUPP;
    case FUSE_LSEEK:
    case FUSE_RENAME2:
        return -EINVAL;
    case FUSE_LINK:
        return -EPERM;
    case FUSE_IOCTL:
        return -ENOTTY;
    case FUSE_CREATE: /* without MKNOD there is no other way to make a file */
        return request->filesystem != NULL && request->filesystem->operations[FUSE_MKNOD] == NULL ? -EROFS
                                                                                                  : -ENOSYS;
    default:
        return -ENOSYS;
    }
}

int32_t mount_tree_settle(struct request *request, int32_t result)
{
    struct mount_tree *tree = atomic_load_explicit(&request->session->tree, memory_order_acquire);
    if (tree == NULL)
        return result;
    uint8_t step = request->tree_step;
    request->tree_step = TREE_NONE;
    switch (step) {
    case TREE_ROOT_ENTRY:
        return answer_root(tree, request, result);
    case TREE_NOTE_ENTRY:
        return answer_way(tree, request, result);
    case TREE_LISTING:
        return answer_listing(tree, request, result);
    case TREE_STATX:
        return answer_statx(request, result);
    default:
        return result == -ENOSYS ? answer_unknown(request) : result;
    }
}
