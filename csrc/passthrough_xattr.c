/* Passthrough: extended attributes. The calls go by the path of the node's descriptor, so that they act on
 * the object itself, whatever it is, without opening it.
 */
#define _GNU_SOURCE 1
#include "passthrough.h"

#include <errno.h>
#include <linux/limits.h>
#include <linux/xattr.h>
#include <string.h>
#include <sys/xattr.h>

/* The path of the request's node, or a negative errno. */
static int find_path(struct request *request, struct descriptor_path *path)
{
    struct node *node = node_find(request, request->in.nodeid);
    if (node == NULL)
        return -ESTALE;
    int fd = node_descriptor(request, node);
    if (fd < 0)
        return fd;
    *path = descriptor_path(fd);
    return 0;
}

static bool is_acl(const char *name)
{
    return strcmp(name, XATTR_NAME_POSIX_ACL_ACCESS) == 0 || strcmp(name, XATTR_NAME_POSIX_ACL_DEFAULT) == 0;
}

/* 0; ENOSYS where the share has no attributes at all (the guest asks no more); EOPNOTSUPP for ACLs that the
 * guest's kernel would not enforce; EROFS. */
static int may_use(const struct passthrough *share, const char *name, bool change)
{
    if (!passthrough_option(share, VHOSTFS_PASSTHROUGH_XATTR))
        return -ENOSYS;
    if (change && passthrough_option(share, VHOSTFS_PASSTHROUGH_READ_ONLY))
        return -EROFS;
    if (name != NULL && is_acl(name) && !passthrough_negotiated(share, FUSE_INIT_POSIX_ACL))
        return -EOPNOTSUPP;
    return 0;
}

/* As the caller without CAP_FSETID, the host itself clears set-group-id of a file whose group the caller is
 * not in. */
static int set_acl_as_caller(struct request *request, const char *path, const char *name, const void *value,
                             size_t size, int flags)
{
    struct credentials credentials;
    int error = credentials_assume(request, &credentials);
    if (error != 0)
        return error;
    bool dropped = credentials_drop_fsetid();
    if (setxattr(path, name, value, size, flags) != 0)
        error = -errno;
    if (dropped)
        credentials_regain_fsetid();
    credentials_restore(&credentials);
    return error;
}

int32_t passthrough_setxattr(struct request *request)
{
    struct passthrough *share = passthrough_of(request);
    bool extended = passthrough_negotiated(share, FUSE_INIT_SETXATTR_EXT);
    struct fuse_setxattr_in in = {0};
    size_t in_size = extended ? sizeof(in) : FUSE_COMPAT_SETXATTR_IN_SIZE;
    const void *sent = request_argument(request, in_size);
    if (sent == NULL)
        return -EIO;
    memcpy(&in, sent, in_size);
    const char *name = request_string(request);
    if (name == NULL)
        return -EIO;
    if (in.size > XATTR_SIZE_MAX)
        return -E2BIG;
    const void *value = request_argument(request, in.size);
    if (value == NULL)
        return -EIO;
    int error = may_use(share, name, true);
    struct descriptor_path path;
    if (error == 0)
        error = find_path(request, &path);
    if (error != 0)
        return error;
    bool kill = (in.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) != 0;
    if (kill && strcmp(name, XATTR_NAME_POSIX_ACL_ACCESS) == 0)
        return set_acl_as_caller(request, path.text, name, value, in.size, (int)in.flags);
    return setxattr(path.text, name, value, in.size, (int)in.flags) == 0 ? 0 : -errno;
}

/* Answer a value, or only its size where the guest asked with a size of 0. */
static int32_t reply_value(struct request *request, uint32_t asked, const void *value, size_t size)
{
    if (asked != 0)
        return size <= asked ? reply_bytes(request, value, size) : -ERANGE;
    struct fuse_getxattr_out out = {.size = (uint32_t)size};
    return reply_bytes(request, &out, sizeof(out));
}

int32_t passthrough_getxattr(struct request *request)
{
    const struct fuse_getxattr_in *in = request_argument(request, sizeof(*in));
    const char *name = in != NULL ? request_string(request) : NULL;
    if (name == NULL)
        return -EIO;
    int error = may_use(passthrough_of(request), name, false);
    struct descriptor_path path;
    if (error == 0)
        error = find_path(request, &path);
    if (error != 0)
        return error;
    uint8_t value[XATTR_SIZE_MAX];
    size_t room = in->size < sizeof(value) ? in->size : sizeof(value);
    ssize_t size = getxattr(path.text, name, value, room);
    return size >= 0 ? reply_value(request, in->size, value, (size_t)size) : -errno;
}

/* Take the names of ACLs out of a list. What is left of its size. */
static size_t remove_acls(char *names, size_t size)
{
    size_t kept = 0;
    for (size_t at = 0; at < size;) {
        size_t length = strnlen(names + at, size - at - 1) + 1;
        if (!is_acl(names + at)) {
            memmove(names + kept, names + at, length);
            kept += length;
        }
        at += length;
    }
    return kept;
}

int32_t passthrough_listxattr(struct request *request)
{
    const struct fuse_getxattr_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct passthrough *share = passthrough_of(request);
    int error = may_use(share, NULL, false);
    struct descriptor_path path;
    if (error == 0)
        error = find_path(request, &path);
    if (error != 0)
        return error;
    char names[XATTR_LIST_MAX];
    ssize_t size = listxattr(path.text, names, sizeof(names));
    if (size < 0)
        return -errno;
    size_t kept = (size_t)size;
    if (kept > 0 && !passthrough_negotiated(share, FUSE_INIT_POSIX_ACL))
        kept = remove_acls(names, kept);
    return reply_value(request, in->size, names, kept);
}

int32_t passthrough_removexattr(struct request *request)
{
    const char *name = request_string(request);
    if (name == NULL)
        return -EIO;
    int error = may_use(passthrough_of(request), name, true);
    struct descriptor_path path;
    if (error == 0)
        error = find_path(request, &path);
    if (error != 0)
        return error;
    return removexattr(path.text, name) == 0 ? 0 : -errno;
}
