/* The pseudo file system's operations; the contract is in pseudo.h. */
#include "pseudo.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define NAME_LIMIT 255
/* Offsets of a listing: ".", "..", then the waypoints by index. */
#define AFTER_DOT 1
#define AFTER_DOTS 2

static struct mount_tree *tree_of(const struct request *request)
{
    return (struct mount_tree *)(void *)request->filesystem;
}

_Static_assert(offsetof(struct mount_tree, pseudo) == 0, "the tree starts with what the session knows of it");

static void fill_attributes(const struct mount_tree *tree, const struct waypoint *waypoint,
                            struct fuse_attr *attributes)
{
    *attributes = tree->attributes;
    attributes->ino = waypoint->index;
}

void pseudo_fill_entry(const struct mount_tree *tree, const struct waypoint *waypoint,
                       struct fuse_entry_out *entry)
{
    *entry = (struct fuse_entry_out){.nodeid = mount_tree_pseudo_nodeid(tree, waypoint),
                                     .entry_valid = TREE_ENTRY_SECONDS,
                                     .attr_valid = TREE_ENTRY_SECONDS};
    fill_attributes(tree, waypoint, &entry->attr);
}

/* ---- Attributes ---- */

/* The attributes of the request's node. 0 or -ESTALE. */
static int find_attributes(const struct request *request, struct fuse_attr *attributes)
{
    struct mount_tree *tree = tree_of(request);
    pthread_mutex_lock(&tree->lock);
    const struct waypoint *waypoint = mount_tree_find(tree, request->in.nodeid);
    if (waypoint != NULL)
        fill_attributes(tree, waypoint, attributes);
    pthread_mutex_unlock(&tree->lock);
    return waypoint != NULL ? 0 : -ESTALE;
}

static int32_t getattr(struct request *request)
{
    struct fuse_attr_out out = {.attr_valid = TREE_ENTRY_SECONDS};
    int error = find_attributes(request, &out.attr);
    return error != 0 ? error : reply_bytes(request, &out, sizeof(out));
}

static int32_t access_directory(struct request *request)
{
    struct fuse_attr attributes;
    const struct fuse_access_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    int error = find_attributes(request, &attributes);
    return error != 0 ? error : (in->mask & W_OK) != 0 ? -EROFS : 0;
}

static int32_t statfs_directory(struct request *request)
{
    struct fuse_kstatfs out = {.bsize = BLOCK, .frsize = BLOCK, .namelen = NAME_LIMIT};
    return reply_bytes(request, &out, sizeof(out));
}

/* ---- Names ---- */

/* The waypoint that a name leads to, here. Those that are mounts never get here, but by races. */
static const struct waypoint *look_up(const struct mount_tree *tree, uint64_t nodeid, const char *name)
{
    const struct waypoint *at = mount_tree_find(tree, nodeid);
    if (at == NULL || strcmp(name, ".") == 0)
        return at;
    if (strcmp(name, "..") == 0)
        return at->parent != NULL ? at->parent : at;
    return mount_tree_child(tree, at, name);
}

static int32_t lookup(struct request *request)
{
    struct mount_tree *tree = tree_of(request);
    const char *name = request_string(request);
    struct fuse_entry_out entry;
    if (name == NULL)
        return -EIO;
    if (strlen(name) > NAME_LIMIT)
        return -ENAMETOOLONG;
    pthread_mutex_lock(&tree->lock);
    bool stale = mount_tree_find(tree, request->in.nodeid) == NULL;
    const struct waypoint *found = look_up(tree, request->in.nodeid, name);
    if (found != NULL)
        pseudo_fill_entry(tree, found, &entry);
    pthread_mutex_unlock(&tree->lock);
    if (found == NULL)
        return stale ? -ESTALE : -ENOENT;
    return reply_bytes(request, &entry, sizeof(entry));
}

/* ---- Listings ---- */

static int32_t opendir_directory(struct request *request)
{
    struct fuse_attr attributes;
    struct fuse_open_out out = {0};
    int error = find_attributes(request, &attributes);
    return error != 0 ? error : reply_bytes(request, &out, sizeof(out));
}

/* Add an entry at *stored. False: it does not fit any more. */
static bool add(struct request *request, bool plus, size_t limit, size_t *stored, const char *name,
                uint64_t index, uint64_t offset)
{
    /* Nodeid 0: the guest is to look it up itself. */
    static const struct fuse_entry_out nothing;
    size_t head = plus ? sizeof(struct fuse_direntplus) : sizeof(struct fuse_dirent);
    size_t length = strlen(name);
    size_t size = (head + length + 7) & ~(size_t)7;
    if (size > limit - *stored)
        return false;
    uint8_t bytes[sizeof(struct fuse_direntplus) + NAME_LIMIT + 8] = {0};
    struct fuse_dirent entry = {.ino = index, .off = offset, .namelen = (uint32_t)length, .type = DT_DIR};
    if (plus)
        memcpy(bytes, &nothing, sizeof(nothing));
    memcpy(bytes + head - sizeof(entry), &entry, sizeof(entry));
    memcpy(bytes + head, name, length);
    reply_at(request, *stored, bytes, size);
    *stored += size;
    return true;
}

/* All entries behind an offset, as far as they fit. Under the tree's lock. */
static void list(struct request *request, bool plus, const struct waypoint *at, uint64_t offset, size_t limit,
                 size_t *stored)
{
    const struct mount_tree *tree = tree_of(request);
    const struct waypoint *above = at->parent != NULL ? at->parent : at;
    if (offset < AFTER_DOT && !add(request, plus, limit, stored, ".", at->index, AFTER_DOT))
        return;
    if (offset < AFTER_DOTS && !add(request, plus, limit, stored, "..", above->index, AFTER_DOTS))
        return;
    for (uint32_t i = 0; i < tree->count; i++) {
        const struct waypoint *child = tree->waypoints[i];
        uint64_t behind = child->index + AFTER_DOTS;
        if (child->parent != at || behind <= offset)
            continue;
        if (!add(request, plus, limit, stored, child->name, child->index, behind))
            return;
    }
}

static int32_t read_directory(struct request *request, bool plus)
{
    struct mount_tree *tree = tree_of(request);
    const struct fuse_read_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    size_t limit = reply_room(request) < in->size ? reply_room(request) : in->size;
    size_t stored = 0;
    pthread_mutex_lock(&tree->lock);
    const struct waypoint *at = mount_tree_find(tree, request->in.nodeid);
    if (at != NULL)
        list(request, plus, at, in->offset, limit, &stored);
    pthread_mutex_unlock(&tree->lock);
    return at != NULL ? (int32_t)stored : -ESTALE;
}

static int32_t readdir_directory(struct request *request)
{
    return read_directory(request, false);
}

static int32_t readdirplus_directory(struct request *request)
{
    return read_directory(request, true);
}

/* ---- All others ---- */

static int32_t do_nothing(struct request *request)
{
    (void)request;
    return 0;
}

static int32_t forget(struct request *request)
{
    (void)request;
    return REQUEST_NO_REPLY;
}

static int32_t refuse_change(struct request *request)
{
    (void)request;
    return -EROFS;
}

static int32_t refuse_directory(struct request *request)
{
    (void)request;
    return -EISDIR;
}

static operation *const operations[FUSE_OPCODES] = {
    [FUSE_LOOKUP] = lookup,
    [FUSE_FORGET] = forget,
    [FUSE_GETATTR] = getattr,
    [FUSE_SETATTR] = refuse_change,
    [FUSE_SYMLINK] = refuse_change,
    [FUSE_MKNOD] = refuse_change,
    [FUSE_MKDIR] = refuse_change,
    [FUSE_UNLINK] = refuse_change,
    [FUSE_RMDIR] = refuse_change,
    [FUSE_RENAME] = refuse_change,
    [FUSE_LINK] = refuse_change,
    [FUSE_OPEN] = refuse_directory,
    [FUSE_READ] = refuse_directory,
    [FUSE_WRITE] = refuse_directory,
    [FUSE_STATFS] = statfs_directory,
    [FUSE_SETXATTR] = refuse_change,
    [FUSE_REMOVEXATTR] = refuse_change,
    [FUSE_OPENDIR] = opendir_directory,
    [FUSE_READDIR] = readdir_directory,
    [FUSE_RELEASEDIR] = do_nothing,
    [FUSE_FSYNCDIR] = do_nothing,
    [FUSE_ACCESS] = access_directory,
    [FUSE_CREATE] = refuse_change,
    [FUSE_READDIRPLUS] = readdirplus_directory,
    [FUSE_RENAME2] = refuse_change,
    [FUSE_TMPFILE] = refuse_change,
};

/* ---- The mount's life: it has no state of its own ---- */

static void begin(struct filesystem *filesystem, uint64_t flags)
{
    (void)filesystem;
    (void)flags;
}

static void end(struct filesystem *filesystem)
{
    (void)filesystem;
}

void pseudo_init(struct mount_tree *tree)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t seconds = (uint64_t)now.tv_sec;
    uint32_t nanoseconds = (uint32_t)now.tv_nsec;
    tree->attributes = (struct fuse_attr){.mode = S_IFDIR | 0555,
                                          .nlink = 2,
                                          .blksize = BLOCK,
                                          .atime = seconds,
                                          .mtime = seconds,
                                          .ctime = seconds,
                                          .atimensec = nanoseconds,
                                          .mtimensec = nanoseconds,
                                          .ctimensec = nanoseconds};
    tree->pseudo.operations = operations;
    tree->pseudo.begin = begin;
    tree->pseudo.end = end;
    tree->pseudo.destroy = end; /* the session frees the tree itself */
}
