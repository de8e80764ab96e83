/* Names: lookup, forget, and every operation that makes, moves or removes one.
 *
 * A name is one component, checked before the host sees it; the host is only ever asked relative to the
 * descriptor of a directory of the share, without following links, so nothing resolves outside.
 */
#define _GNU_SOURCE 1
#include "passthrough.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define CREATE_ATTEMPTS 4 /* a name that comes and goes under us */

/* A name in a directory of the share. */
struct place {
    struct node *parent;
    int fd; /* the parent's descriptor */
    const char *name;
};

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* 0; or what Linux answers to such a name, for "." and ".." `dots`. */
static int check_name(const char *name, int dots)
{
    if (name == NULL)
        return -EIO;
    if (name[0] == 0)
        return -ENOENT;
    if (strlen(name) > NAME_MAX)
        return -ENAMETOOLONG;
    if (strchr(name, '/') != NULL)
        return -EINVAL;
    return is_dots(name) ? dots : 0;
}

static int find_parent(struct request *request, uint64_t nodeid, struct place *place)
{
    place->parent = node_find(request, nodeid);
    if (place->parent == NULL)
        return nodeid_mount(nodeid) == passthrough_of(request)->mount ? -ESTALE : -EXDEV;
    if (!S_ISDIR(node_type(place->parent)))
        return -ENOTDIR;
    place->fd = node_descriptor(request, place->parent);
    return place->fd < 0 ? place->fd : 0;
}

/* The next string of the request is a name in the request's directory. */
static int take_place(struct request *request, int dots, struct place *place)
{
    place->name = request_string(request);
    int error = check_name(place->name, dots);
    return error != 0 ? error : find_parent(request, request->in.nodeid, place);
}

/* The same for an operation that changes the directory. */
static int take_place_to_change(struct request *request, int dots, struct place *place)
{
    int error = take_place(request, dots, place);
    if (error == 0 && passthrough_option(passthrough_of(request), VHOSTFS_PASSTHROUGH_READ_ONLY))
        return -EROFS;
    return error;
}

static int stat_place(const struct place *place, struct statx *attributes)
{
    int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
    return statx(place->fd, place->name, flags, NODE_STATX_MASK, attributes) == 0 ? 0 : -errno;
}

static int stat_open(int fd, struct statx *attributes)
{
    return statx(fd, "", AT_EMPTY_PATH, NODE_STATX_MASK, attributes) == 0 ? 0 : -errno;
}

/* ---- Lookups ---- */

static int lookup_dots(struct request *request, const char *name, struct fuse_entry_out *entry)
{
    /* The guest asks so for files that it knows by nodeid only (exported by NFS). */
    struct node *node = node_find(request, request->in.nodeid);
    if (node != NULL && strcmp(name, "..") == 0) {
        if (!S_ISDIR(node_type(node)))
            return -ENOTDIR;
        node = node_parent(node);
    }
    return node != NULL ? node_enter_again(request, node, entry) : -ESTALE;
}

static int lookup(struct request *request, struct fuse_entry_out *entry)
{
    struct place place = {.name = request_string(request)};
    int error = check_name(place.name, 0);
    if (error != 0)
        return error;
    if (is_dots(place.name))
        return lookup_dots(request, place.name, entry);
    error = find_parent(request, request->in.nodeid, &place);
    if (error != 0)
        return error;
    struct statx attributes;
    error = stat_place(&place, &attributes);
    return error != 0 ? error : node_enter(request, place.parent, place.name, &attributes, entry);
}

/* Take back what an entry counted if the reply does not fit: the guest will never forget what it was not
 * told. */
static int32_t reply_entry(struct request *request, const struct fuse_entry_out *entry)
{
    int32_t result = reply_bytes(request, entry, sizeof(*entry));
    if (result < 0 && entry->nodeid != 0)
        node_forget(request, entry->nodeid, 1);
    return result;
}

int32_t passthrough_lookup(struct request *request)
{
    struct fuse_entry_out entry;
    int error = lookup(request, &entry);
    uint64_t negative = passthrough_of(request)->options.negative_nanoseconds;
    if (error == -ENOENT && negative != 0) {
        entry = (struct fuse_entry_out){.entry_valid = negative / 1000000000,
                                        .entry_valid_nsec = (uint32_t)(negative % 1000000000)};
        error = 0;
    }
    return error != 0 ? error : reply_entry(request, &entry);
}

int32_t passthrough_forget(struct request *request)
{
    const struct fuse_forget_in *in = request_argument(request, sizeof(*in));
    if (in != NULL)
        node_forget(request, request->in.nodeid, in->nlookup);
    return REQUEST_NO_REPLY;
}

int32_t passthrough_batch_forget(struct request *request)
{
    const struct fuse_batch_forget_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return REQUEST_NO_REPLY;
    for (uint32_t i = 0; i < in->count; i++) {
        const struct fuse_forget_one *one = request_argument(request, sizeof(*one));
        if (one == NULL)
            break;
        node_forget(request, one->nodeid, one->nlookup);
    }
    return REQUEST_NO_REPLY;
}

int32_t passthrough_readlink(struct request *request)
{
    struct node *node = node_find(request, request->in.nodeid);
    if (node == NULL)
        return -ESTALE;
    char target[PATH_MAX];
    int size = node_read_link(request, node, target, sizeof(target));
    return size < 0 ? size : reply_bytes(request, target, (size_t)size);
}

/* ---- Making names ---- */

/* Act as the caller, with its umask where the guest leaves masking to the host. */
static int begin_creation(struct request *request, uint32_t umask, struct credentials *credentials)
{
    bool masks = passthrough_negotiated(passthrough_of(request), FUSE_INIT_DONT_MASK);
    credentials_set_umask(masks ? umask & 0777 : 0);
    return credentials_assume(request, credentials);
}

/* The reply for a name that was just made. */
static int32_t reply_made(struct request *request, const struct place *place)
{
    struct statx attributes;
    struct fuse_entry_out entry;
    int error = stat_place(place, &attributes);
    if (error == 0)
        error = node_enter(request, place->parent, place->name, &attributes, &entry);
    return error != 0 ? error : reply_entry(request, &entry);
}

static bool has_room(const struct request *request, size_t size)
{
    return reply_room(request) >= size;
}

int32_t passthrough_mknod(struct request *request)
{
    const struct fuse_mknod_in *in = request_argument(request, sizeof(*in));
    struct place place;
    if (in == NULL || !has_room(request, sizeof(struct fuse_entry_out)))
        return -EIO;
    int error = take_place_to_change(request, -EEXIST, &place);
    if (error != 0)
        return error;
    dev_t device = makedev(in->rdev >> 8 & 0xfff, (in->rdev & 0xff) | (in->rdev >> 12 & 0xfff00));
    struct credentials credentials;
    error = begin_creation(request, in->umask, &credentials);
    if (error != 0)
        return error;
    if (mknodat(place.fd, place.name, in->mode & (S_IFMT | 07777), device) != 0)
        error = -errno;
    credentials_restore(&credentials);
    return error != 0 ? error : reply_made(request, &place);
}

/* A directory that was just made, opened: the guest goes into it next, and the host may rename it. */
static int32_t reply_made_directory(struct request *request, const struct place *place)
{
    int fd = openat(place->fd, place->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return reply_made(request, place);
    struct statx attributes;
    struct fuse_entry_out entry;
    int error = stat_open(fd, &attributes);
    if (error != 0) {
        close(fd);
        return error;
    }
    error = node_enter_opened(request, place->parent, place->name, &attributes, fd, &entry);
    return error != 0 ? error : reply_entry(request, &entry);
}

int32_t passthrough_mkdir(struct request *request)
{
    const struct fuse_mkdir_in *in = request_argument(request, sizeof(*in));
    struct place place;
    if (in == NULL || !has_room(request, sizeof(struct fuse_entry_out)))
        return -EIO;
    int error = take_place_to_change(request, -EEXIST, &place);
    if (error != 0)
        return error;
    struct credentials credentials;
    error = begin_creation(request, in->umask, &credentials);
    if (error != 0)
        return error;
    if (mkdirat(place.fd, place.name, in->mode & 07777) != 0)
        error = -errno;
    credentials_restore(&credentials);
    return error != 0 ? error : reply_made_directory(request, &place);
}

int32_t passthrough_symlink(struct request *request)
{
    struct place place;
    if (!has_room(request, sizeof(struct fuse_entry_out)))
        return -EIO;
    int error = take_place_to_change(request, -EEXIST, &place);
    const char *target = request_string(request);
    if (error != 0)
        return error;
    if (target == NULL)
        return -EIO;
    struct credentials credentials;
    error = begin_creation(request, 0, &credentials);
    if (error != 0)
        return error;
    if (symlinkat(target, place.fd, place.name) != 0)
        error = -errno;
    credentials_restore(&credentials);
    return error != 0 ? error : reply_made(request, &place);
}

int32_t passthrough_link(struct request *request)
{
    const struct fuse_link_in *in = request_argument(request, sizeof(*in));
    struct place place;
    if (in == NULL || !has_room(request, sizeof(struct fuse_entry_out)))
        return -EIO;
    int error = take_place_to_change(request, -EEXIST, &place);
    if (error != 0)
        return error;
    struct node *node = node_find(request, in->oldnodeid);
    if (node == NULL)
        return nodeid_mount(in->oldnodeid) == passthrough_of(request)->mount ? -ESTALE : -EXDEV;
    int fd = node_descriptor(request, node);
    if (fd < 0)
        return fd;
    /* The magic link of a descriptor leads to the file itself, also where that is a symbolic link. */
    if (linkat(AT_FDCWD, descriptor_path(fd).text, place.fd, place.name, AT_SYMLINK_FOLLOW) != 0)
        return -errno;
    return reply_made(request, &place);
}

/* ---- Creating and opening at once ---- */

struct created {
    struct fuse_entry_out entry;
    struct fuse_open_out open;
};

_Static_assert(sizeof(struct created) == sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out),
               "CREATE's reply");

/* The handle for a file that was entered and opened. Takes fd; takes the lookup back where it fails. */
static int32_t reply_created(struct request *request, int fd, int flags, struct created *created)
{
    const struct node *node = node_find(request, created->entry.nodeid);
    created->open =
        (struct fuse_open_out){.open_flags = passthrough_fopen_flags(passthrough_of(request), node)};
    int error = passthrough_open_handle(request, fd, flags, created->entry.nodeid, &created->open);
    int32_t result = error != 0 ? error : reply_bytes(request, created, sizeof(*created));
    if (error == 0 && result < 0)
        passthrough_close_handle(request, created->open.fh);
    if (result < 0)
        node_forget(request, created->entry.nodeid, 1);
    return result;
}

/* Open a file that is there already, by its node: so neither a device nor a link is opened, whatever the name
 * is now. */
static int32_t open_existing(struct request *request, const struct fuse_create_in *in,
                             const struct place *place, int flags)
{
    struct statx attributes;
    int error = stat_place(place, &attributes);
    if (error != 0)
        return error;
    if (S_ISDIR(attributes.stx_mode))
        return -EISDIR;
    if (!S_ISREG(attributes.stx_mode))
        return -ESTALE; /* the guest looks the name up again and finds what it is */
    if (passthrough_option(passthrough_of(request), VHOSTFS_PASSTHROUGH_READ_ONLY) &&
        ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0))
        return -EROFS;
    /* The guest's kernel took the name for new, so it checked no permission on the file, and would not do so
     * now. Told ESTALE, it looks the name up, checks, and sends OPEN. */
    if (request->in.uid != 0)
        return -ESTALE;
    struct created created;
    error = node_enter(request, place->parent, place->name, &attributes, &created.entry);
    if (error != 0)
        return error;
    bool kills = passthrough_drop_fsetid_to_open(request, in->flags, in->open_flags);
    struct node *node = node_find(request, created.entry.nodeid);
    int fd = node != NULL ? node_open(request, node, flags | O_NONBLOCK) : -ESTALE;
    if (kills)
        credentials_regain_fsetid();
    if (fd == -EAGAIN)
        fd = -ESTALE; /* a program of the host's holds a lease: OPEN, which comes next, waits for it */
    if (fd < 0) {
        node_forget(request, created.entry.nodeid, 1);
        return fd;
    }
    if ((flags & O_TRUNC) != 0 && stat_open(fd, &attributes) == 0)
        node_fill_attributes(request, &attributes, &created.entry.attr);
    return reply_created(request, fd, flags, &created);
}

static int open_new(struct request *request, const struct fuse_create_in *in, const struct place *place,
                    int flags)
{
    struct credentials credentials;
    int error = begin_creation(request, in->umask, &credentials);
    if (error != 0)
        return error;
    int fd = openat(place->fd, place->name, flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY,
                    in->mode & 07777);
    if (fd < 0)
        fd = node_open_error(errno);
    credentials_restore(&credentials);
    return fd;
}

static int32_t reply_new(struct request *request, const struct place *place, int fd, int flags)
{
    struct statx attributes;
    struct created created;
    int error = stat_open(fd, &attributes);
    if (error == 0)
        error = node_enter(request, place->parent, place->name, &attributes, &created.entry);
    if (error != 0) {
        close(fd);
        return error;
    }
    return reply_created(request, fd, flags, &created);
}

int32_t passthrough_create_file(struct request *request)
{
    const struct passthrough *share = passthrough_of(request);
    const struct fuse_create_in *in = request_argument(request, sizeof(*in));
    struct place place;
    if (in == NULL || !has_room(request, sizeof(struct created)))
        return -EIO;
    if ((in->flags & O_ACCMODE) == O_ACCMODE)
        return -EINVAL;
    int error = take_place(request, -EISDIR, &place);
    if (error != 0)
        return error;
    if (!handle_has_room(share->handles))
        return -ENFILE;
    int flags = passthrough_open_flags(share, in->flags);
    for (uint32_t attempt = 0; attempt < CREATE_ATTEMPTS; attempt++) {
        bool fixed = passthrough_option(share, VHOSTFS_PASSTHROUGH_READ_ONLY);
        int fd = fixed ? -EEXIST : open_new(request, in, &place, flags);
        if (fd >= 0)
            return reply_new(request, &place, fd, flags);
        if (fd != -EEXIST || ((in->flags & O_EXCL) != 0 && !fixed))
            return fd;
        error = open_existing(request, in, &place, flags);
        if (error == -ENOENT && fixed)
            return -EROFS;
        if (error != -ENOENT)
            return error;
    }
    return -ESTALE;
}

static int open_nameless(struct request *request, const struct fuse_create_in *in, const struct place *place,
                         int flags)
{
    struct credentials credentials;
    int error = begin_creation(request, in->umask, &credentials);
    if (error != 0)
        return error;
    int exclusive = (int)in->flags & O_EXCL; /* never to be linked */
    int fd = openat(place->fd, ".", flags | exclusive | O_TMPFILE | O_CLOEXEC, in->mode & 07777);
    if (fd < 0)
        fd = node_open_error(errno);
    credentials_restore(&credentials);
    return fd;
}

int32_t passthrough_tmpfile(struct request *request)
{
    const struct passthrough *share = passthrough_of(request);
    const struct fuse_create_in *in = request_argument(request, sizeof(*in));
    struct place place = {.name = NULL};
    if (in == NULL || !has_room(request, sizeof(struct created)))
        return -EIO;
    int error = find_parent(request, request->in.nodeid, &place);
    if (error != 0)
        return error;
    if (passthrough_option(share, VHOSTFS_PASSTHROUGH_READ_ONLY))
        return -EROFS;
    int flags = passthrough_open_flags(share, in->flags) & ~(O_TRUNC | O_CREAT);
    int fd = open_nameless(request, in, &place, flags);
    if (fd < 0)
        return fd;
    struct statx attributes;
    struct created created;
    error = stat_open(fd, &attributes);
    /* The node needs a descriptor of its own: no name will ever lead to it, and the handle may be closed
     * first. */
    int own = error == 0 ? open(descriptor_path(fd).text, O_PATH | O_CLOEXEC) : -1;
    if (error == 0)
        error = own < 0 ? node_open_error(errno)
                        : node_enter_opened(request, place.parent, NULL, &attributes, own, &created.entry);
    if (error != 0) {
        close(fd);
        return error;
    }
    return reply_created(request, fd, flags, &created);
}

/* ---- Removing and moving names ---- */

static int32_t remove_name(struct request *request, int dots, int dot, int flags)
{
    struct place place;
    int error = take_place_to_change(request, dots, &place);
    if (error != 0)
        return place.name != NULL && strcmp(place.name, ".") == 0 ? dot : error;
    struct node *node = node_before_removal(request, place.parent, place.fd, place.name);
    if (unlinkat(place.fd, place.name, flags) != 0)
        return -errno;
    node_after_removal(node, place.parent, place.name);
    return 0;
}

int32_t passthrough_unlink(struct request *request)
{
    return remove_name(request, -EISDIR, -EISDIR, 0);
}

int32_t passthrough_rmdir(struct request *request)
{
    return remove_name(request, -ENOTEMPTY, -EINVAL, AT_REMOVEDIR);
}

static int32_t rename_with(struct request *request, uint64_t new_directory, uint32_t flags)
{
    struct place from;
    struct place to;
    int error = take_place_to_change(request, -EBUSY, &from);
    to.name = request_string(request);
    if (error == 0)
        error = check_name(to.name, (flags & RENAME_NOREPLACE) != 0 ? -EEXIST : -EBUSY);
    if (error == 0)
        error = find_parent(request, new_directory, &to);
    if (error != 0)
        return error;
    struct node_rename rename = {.parent = from.parent,
                                 .name = from.name,
                                 .new_parent = to.parent,
                                 .new_parent_fd = to.fd,
                                 .new_name = to.name,
                                 .exchange = (flags & RENAME_EXCHANGE) != 0};
    node_rename_begin(request, &rename);
    if (renameat2(from.fd, from.name, to.fd, to.name, flags) != 0)
        error = -errno;
    node_rename_end(request, &rename, error == 0);
    return error;
}

int32_t passthrough_rename(struct request *request)
{
    const struct fuse_rename_in *in = request_argument(request, sizeof(*in));
    return in != NULL ? rename_with(request, in->newdir, 0) : -EIO;
}

int32_t passthrough_rename2(struct request *request)
{
    const struct fuse_rename2_in *in = request_argument(request, sizeof(*in));
    return in != NULL ? rename_with(request, in->newdir, in->flags) : -EIO;
}
