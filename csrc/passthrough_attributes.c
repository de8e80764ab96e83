/* Passthrough: getattr, setattr, statx, statfs, access. */
#define _GNU_SOURCE 1
#include "passthrough.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define NANOSECONDS 1000000000U

#ifndef SYS_fchmodat2 /* headers of before Linux 6.6 */
#define SYS_fchmodat2 452
#endif

static int stat_descriptor(int fd, struct statx *attributes)
{
    if (statx(fd, "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, NODE_STATX_MASK, attributes) != 0)
        return -errno;
    return 0;
}

/* An open file answers for its node without the way there; an open file's fh must be right. */
static int stat_target(struct request *request, bool has_handle, uint64_t fh, struct statx *attributes)
{
    struct node *node = node_find(request, request->in.nodeid);
    if (node == NULL)
        return -ESTALE;
    if (!has_handle)
        return node_stat(request, node, attributes);
    struct handle *handle = passthrough_any_handle(request, fh);
    return handle != NULL ? stat_descriptor(handle->fd, attributes) : -EBADF;
}

static int32_t reply_attributes(struct request *request, const struct statx *attributes)
{
    uint64_t valid = passthrough_of(request)->options.attribute_nanoseconds;
    struct fuse_attr_out out = {.attr_valid = valid / NANOSECONDS,
                                .attr_valid_nsec = (uint32_t)(valid % NANOSECONDS)};
    node_fill_attributes(request, attributes, &out.attr);
    return reply_bytes(request, &out, sizeof(out));
}

int32_t passthrough_getattr(struct request *request)
{
    const struct fuse_getattr_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct statx attributes;
    int error = stat_target(request, (in->getattr_flags & FUSE_GETATTR_FH) != 0, in->fh, &attributes);
    return error != 0 ? error : reply_attributes(request, &attributes);
}

static struct fuse_sx_time statx_time(const struct statx_timestamp *from)
{
    return (struct fuse_sx_time){.tv_sec = from->tv_sec, .tv_nsec = from->tv_nsec};
}

int32_t passthrough_statx(struct request *request)
{
    const struct fuse_statx_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct statx from;
    int error = stat_target(request, (in->getattr_flags & FUSE_GETATTR_FH) != 0, in->fh, &from);
    if (error != 0)
        return error;
    struct fuse_attr attr;
    node_fill_attributes(request, &from, &attr);
    uint64_t valid = passthrough_of(request)->options.attribute_nanoseconds;
    struct fuse_statx_out out = {
        .attr_valid = valid / NANOSECONDS,
        .attr_valid_nsec = (uint32_t)(valid % NANOSECONDS),
        .flags = attr.flags,
        .stat =
            {
                .mask = from.stx_mask & (STATX_BASIC_STATS | STATX_BTIME),
                .blksize = from.stx_blksize,
                .attributes = from.stx_attributes,
                .nlink = from.stx_nlink,
                .uid = from.stx_uid,
                .gid = from.stx_gid,
                .mode = from.stx_mode,
                .ino = attr.ino,
                .size = from.stx_size,
                .blocks = from.stx_blocks,
                .attributes_mask = from.stx_attributes_mask,
                .atime = statx_time(&from.stx_atime),
                .btime = statx_time(&from.stx_btime),
                .ctime = statx_time(&from.stx_ctime),
                .mtime = statx_time(&from.stx_mtime),
                .rdev_major = from.stx_rdev_major,
                .rdev_minor = from.stx_rdev_minor,
                .dev_major = from.stx_dev_major,
                .dev_minor = from.stx_dev_minor,
            },
    };
    return reply_bytes(request, &out, sizeof(out));
}

/* ---- setattr ---- */

/* What SETATTR acts on: the open file, where the guest names one, else the node's own descriptor. */
struct target {
    int fd;
    bool is_handle;
    struct descriptor_path path;
};

static int find_target(struct request *request, struct node *node, const struct fuse_setattr_in *in,
                       struct target *target)
{
    target->is_handle = (in->valid & FATTR_FH) != 0;
    if (target->is_handle) {
        struct handle *handle = passthrough_any_handle(request, in->fh);
        target->fd = handle != NULL ? handle->fd : -EBADF;
    } else {
        target->fd = node_descriptor(request, node);
    }
    if (target->fd < 0)
        return target->fd;
    target->path = descriptor_path(target->fd);
    return 0;
}

static int change_owner(const struct target *target, const struct fuse_setattr_in *in)
{
    uid_t uid = (in->valid & FATTR_UID) != 0 ? in->uid : UINT32_MAX;
    gid_t gid = (in->valid & FATTR_GID) != 0 ? in->gid : UINT32_MAX;
    /* The host clears set-user-id, set-group-id and capabilities of its own accord, as KILL_SUIDGID asks. */
    return fchownat(target->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 ? 0 : -errno;
}

/* Some calls take a descriptor of any kind, alone, since Linux 6.6 (fchmodat2) and 5.8 (utimensat); the way by its path costs
 * twice as much. Set for good when one is refused. */
static _Atomic bool lacks_fchmodat2;
static _Atomic bool lacks_utimensat;

static int change_mode_of(const struct target *target, mode_t mode)
{
    if (target->is_handle)
        return fchmod(target->fd, mode);
    if (!atomic_load_explicit(&lacks_fchmodat2, memory_order_relaxed)) {
        if (syscall(SYS_fchmodat2, target->fd, "", mode, AT_EMPTY_PATH) == 0)
            return 0;
        if (errno != ENOSYS)
            return -1;
        atomic_store_explicit(&lacks_fchmodat2, true, memory_order_relaxed);
    }
    return fchmodat(AT_FDCWD, target->path.text, mode, 0);
}

static int change_mode(const struct target *target, const struct node *node, const struct fuse_setattr_in *in)
{
    if (node_type(node) == S_IFLNK)
        return -EOPNOTSUPP;
    return change_mode_of(target, in->mode & 07777) == 0 ? 0 : -errno;
}

static int change_size(const struct target *target, const struct fuse_setattr_in *in)
{
    off_t size = (off_t)in->size;
    bool dropped = (in->valid & FATTR_KILL_SUIDGID) != 0 && credentials_drop_fsetid();
    int result = target->is_handle ? ftruncate(target->fd, size) : truncate(target->path.text, size);
    int error = result == 0 ? 0 : -errno;
    if (dropped)
        credentials_regain_fsetid();
    return error;
}

static struct timespec wanted_time(uint32_t valid, uint32_t set, uint32_t now, uint64_t seconds,
                                   uint32_t nanoseconds)
{
    if ((valid & set) == 0)
        return (struct timespec){.tv_nsec = UTIME_OMIT};
    if ((valid & now) != 0)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    return (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)nanoseconds};
}

static int change_times_of(const struct target *target, const struct timespec *times)
{
    if (target->is_handle)
        return futimens(target->fd, times);
    if (!atomic_load_explicit(&lacks_utimensat, memory_order_relaxed)) {
        if (utimensat(target->fd, "", times, AT_EMPTY_PATH) == 0)
            return 0;
        if (errno != EINVAL)
            return -1;
        atomic_store_explicit(&lacks_utimensat, true, memory_order_relaxed);
    }
    return utimensat(AT_FDCWD, target->path.text, times, 0);
}

static int change_times(const struct target *target, const struct fuse_setattr_in *in)
{
    struct timespec times[2] = {
        wanted_time(in->valid, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
        wanted_time(in->valid, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec),
    };
    return change_times_of(target, times) == 0 ? 0 : -errno;
}

/* What the host would take for something else (no change, now, leave alone), or not refuse before other
 * changes. */
static int check_values(const struct node *node, const struct fuse_setattr_in *in)
{
    if ((in->valid & FATTR_UID) != 0 && in->uid == UINT32_MAX)
        return -EINVAL;
    if ((in->valid & FATTR_GID) != 0 && in->gid == UINT32_MAX)
        return -EINVAL;
    if (in->atimensec >= NANOSECONDS && (in->valid & (FATTR_ATIME | FATTR_ATIME_NOW)) == FATTR_ATIME)
        return -EINVAL;
    if (in->mtimensec >= NANOSECONDS && (in->valid & (FATTR_MTIME | FATTR_MTIME_NOW)) == FATTR_MTIME)
        return -EINVAL;
    if ((in->valid & FATTR_SIZE) == 0)
        return 0;
    if (node_type(node) == S_IFDIR)
        return -EISDIR;
    return node_type(node) != S_IFREG || in->size > INT64_MAX ? -EINVAL : 0;
}

static int apply(const struct target *target, const struct node *node, const struct fuse_setattr_in *in)
{
    int error = 0;
    /* The owner first: the host clears bits of the mode with it, and the mode that was asked for is to stand.
     */
    if ((in->valid & (FATTR_UID | FATTR_GID)) != 0)
        error = change_owner(target, in);
    if (error == 0 && (in->valid & FATTR_MODE) != 0)
        error = change_mode(target, node, in);
    if (error == 0 && (in->valid & FATTR_SIZE) != 0)
        error = change_size(target, in);
    if (error == 0 && (in->valid & (FATTR_ATIME | FATTR_MTIME)) != 0)
        error = change_times(target, in);
    return error;
}

int32_t passthrough_setattr(struct request *request)
{
    const struct fuse_setattr_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct node *node = node_find(request, request->in.nodeid);
    if (node == NULL)
        return -ESTALE;
    if (passthrough_option(passthrough_of(request), VHOSTFS_PASSTHROUGH_READ_ONLY))
        return -EROFS;
    struct target target;
    struct statx attributes;
    int error = check_values(node, in);
    if (error == 0)
        error = find_target(request, node, in, &target);
    /* A lease that the host's programs hold on the file is waited for. */
    if (error == 0 && (in->valid & FATTR_SIZE) != 0 && !target.is_handle && !request_may_sleep(request))
        return REQUEST_WOULD_SLEEP;
    if (error == 0)
        error = apply(&target, node, in);
    if (error == 0)
        error = stat_descriptor(target.fd, &attributes);
    return error != 0 ? error : reply_attributes(request, &attributes);
}

/* ---- statfs, access ---- */

int32_t passthrough_statfs(struct request *request)
{
    struct node *node = node_find(request, request->in.nodeid);
    if (node == NULL)
        return -ESTALE;
    int fd = node_descriptor(request, node);
    if (fd < 0)
        return fd;
    struct statfs from;
    if (fstatfs(fd, &from) != 0)
        return -errno;
    struct fuse_kstatfs out = {
        .blocks = from.f_blocks,
        .bfree = from.f_bfree,
        .bavail = from.f_bavail,
        .files = from.f_files,
        .ffree = from.f_ffree,
        .bsize = (uint32_t)from.f_bsize,
        .namelen = (uint32_t)from.f_namelen,
        .frsize = (uint32_t)(from.f_frsize != 0 ? from.f_frsize : from.f_bsize),
    };
    return reply_bytes(request, &out, sizeof(out));
}

static int may_access(struct request *request, int fd, int mask)
{
    struct credentials credentials;
    int error = credentials_assume(request, &credentials);
    if (error != 0)
        return error;
    uint64_t dropped = request->in.uid != 0 ? credentials_drop_overrides() : 0;
    /* The wrapper may emulate; the call itself asks with the file-system ids (AT_EACCESS: no switch to the
     * real ones). */
    if (syscall(SYS_faccessat2, fd, "", mask, AT_EMPTY_PATH | AT_EACCESS) != 0)
        error = -errno;
    credentials_regain_overrides(dropped);
    credentials_restore(&credentials);
    return error;
}

int32_t passthrough_access(struct request *request)
{
    const struct fuse_access_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct node *node = node_find(request, request->in.nodeid);
    if (node == NULL)
        return -ESTALE;
    uint32_t type = node_type(node);
    bool changes = (in->mask & W_OK) != 0 && (type == S_IFREG || type == S_IFDIR || type == S_IFLNK);
    if (changes && passthrough_option(passthrough_of(request), VHOSTFS_PASSTHROUGH_READ_ONLY))
        return -EROFS;
    int fd = node_descriptor(request, node);
    return fd < 0 ? fd : may_access(request, fd, (int)(in->mask & (R_OK | W_OK | X_OK)));
}
