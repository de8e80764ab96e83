/* Nodes as the operations see them; the contract is in nodes.h, the insides are in node_table.h. */
#define _GNU_SOURCE 1
#include "node_table.h"

#include <errno.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define NANOSECONDS 1000000000ULL

struct node *node_find(struct request *request, uint64_t nodeid)
{
    const struct passthrough *share = passthrough_of(request);
    if (nodeid_mount(nodeid) != share->mount)
        return NULL;
    struct node *node = node_at(share->nodes, nodeid_index(nodeid));
    if (node != NULL)
        request_pin(request, &node->pins);
    return node;
}

uint32_t node_type(const struct node *node)
{
    return node->type;
}

uint64_t node_id(const struct node *node)
{
    return make_nodeid(node->table->share->mount, node->index);
}

uint64_t node_inode(const struct node *node)
{
    return node->inode;
}

uint64_t node_device(const struct node *node)
{
    return node->device + 1;
}

bool node_on_root_device(const struct node *node)
{
    const struct node *root = node_at(node->table, FUSE_ROOT_ID);
    return root != NULL && node->device == root->device;
}

struct node *node_parent(const struct node *node)
{
    if (node_is_root(node))
        return (struct node *)(uintptr_t)node;
    const struct node_name *name = atomic_load_explicit(&node->name, memory_order_acquire);
    return name != NULL ? name->parent : NULL;
}

/* ---- Replies ---- */

/* As Linux's new_encode_dev, which the guest decodes: the low 32 bits of major and minor, interleaved. */
static uint32_t encode_device(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | (major & 0xfff) << 8 | (minor & ~0xffU) << 12;
}

void node_fill_attributes(const struct request *request, const struct statx *from,
                          struct fuse_attr *attributes)
{
    (void)request;
    *attributes = (struct fuse_attr){
        .ino = from->stx_ino,
        .size = from->stx_size,
        .blocks = from->stx_blocks,
        .atime = (uint64_t)from->stx_atime.tv_sec,
        .mtime = (uint64_t)from->stx_mtime.tv_sec,
        .ctime = (uint64_t)from->stx_ctime.tv_sec,
        .atimensec = from->stx_atime.tv_nsec,
        .mtimensec = from->stx_mtime.tv_nsec,
        .ctimensec = from->stx_ctime.tv_nsec,
        .mode = from->stx_mode,
        .nlink = from->stx_nlink,
        .uid = from->stx_uid,
        .gid = from->stx_gid,
        .rdev = encode_device(from->stx_rdev_major, from->stx_rdev_minor),
        .blksize = from->stx_blksize,
    };
}

/* A directory on another mount than its parent is where one begins. */
static bool is_submount(const struct passthrough *share, const struct node *node, const struct node *parent)
{
    return S_ISDIR(node->type) && (node->mount_id != parent->mount_id || node->device != parent->device) &&
           passthrough_option(share, VHOSTFS_PASSTHROUGH_ANNOUNCE_SUBMOUNTS) &&
           passthrough_negotiated(share, FUSE_INIT_SUBMOUNTS);
}

/* Linux gives its own root, and what it makes of FUSE_ATTR_SUBMOUNT (the place of a mount and the root of the file system
 * mounted there), generation 0, whatever it was told (fuse_iget). At an entry with another one it takes them for stale
 * (fuse_stale_inode) and detaches all that is mounted there. */
static uint32_t generation_for_guest(const struct node *node, bool submount)
{
    return submount || node_is_root(node) ? 0 : node->generation;
}

static void fill_entry(const struct request *request, const struct node *node, const struct node *parent,
                       const struct statx *attributes, struct fuse_entry_out *entry)
{
    const struct passthrough *share = passthrough_of(request);
    const struct vhostfs_passthrough_options *options = &share->options;
    bool submount = is_submount(share, node, parent);
    *entry = (struct fuse_entry_out){
        .nodeid = node_id(node),
        .generation = generation_for_guest(node, submount),
        .entry_valid = options->entry_nanoseconds / NANOSECONDS,
        .entry_valid_nsec = (uint32_t)(options->entry_nanoseconds % NANOSECONDS),
        .attr_valid = options->attribute_nanoseconds / NANOSECONDS,
        .attr_valid_nsec = (uint32_t)(options->attribute_nanoseconds % NANOSECONDS),
    };
    node_fill_attributes(request, attributes, &entry->attr);
    if (submount)
        entry->attr.flags |= FUSE_ATTR_SUBMOUNT;
}

/* ---- Lookups ---- */

/* What the guest looks up by itself, and does not only list, is to outlive the host's renames: it may have been mounted
 * elsewhere (bind), or be somebody's working directory. A directory is opened, since it will be a parent; of others the
 * file handle will do, also of those that it made or listed first. */
static void hold_on_to(struct request *request, struct node *node, struct node *parent, const char *name,
                       bool created)
{
    if (S_ISDIR(node->type)) {
        if (created && request->in.opcode != FUSE_READDIRPLUS)
            node_descriptor(request, node); /* if not now, then later, by name */
    } else if (request->in.opcode == FUSE_LOOKUP) {
        node_learn_file_handle(request, node, parent, name);
    }
}

int node_enter(struct request *request, struct node *parent, const char *name, const struct statx *attributes,
               struct fuse_entry_out *entry)
{
    bool created;
    struct node *node = node_intern(passthrough_of(request)->nodes, attributes, &created);
    if (node == NULL)
        return -ENOMEM;
    int error = node_set_name(node, parent, name);
    if (error != 0) {
        node_forget(request, node_id(node), 1);
        return error;
    }
    hold_on_to(request, node, parent, name, created);
    fill_entry(request, node, parent, attributes, entry);
    return 0;
}

int node_enter_opened(struct request *request, struct node *parent, const char *name,
                      const struct statx *attributes, int fd, struct fuse_entry_out *entry)
{
    bool created;
    struct node *node = node_intern(passthrough_of(request)->nodes, attributes, &created);
    if (node == NULL) {
        if (fd >= 0)
            close(fd);
        return -ENOMEM;
    }
    int error = name != NULL ? node_set_name(node, parent, name) : 0;
    if (fd >= 0)
        node_keep_descriptor(node, fd);
    /* Without a name, nothing else leads there. */
    if (name == NULL && atomic_load_explicit(&node->fd, memory_order_acquire) < 0)
        error = -ENFILE;
    if (error != 0) {
        node_forget(request, node_id(node), 1);
        return error;
    }
    fill_entry(request, node, parent, attributes, entry);
    return 0;
}

int node_enter_again(struct request *request, struct node *node, struct fuse_entry_out *entry)
{
    struct statx attributes;
    int error = node_stat(request, node, &attributes);
    if (error != 0)
        return error;
    if (!node_count_lookup(node))
        return -ESTALE;
    const struct node *parent = node_parent(node);
    fill_entry(request, node, parent != NULL ? parent : node, &attributes, entry);
    /* Who comes by "." or ".." is inside the mount already. */
    entry->attr.flags &= ~FUSE_ATTR_SUBMOUNT;
    return 0;
}

/* ---- Changes of names ---- */

struct node *node_before_removal(struct request *request, struct node *parent, int parent_fd,
                                 const char *name)
{
    struct node *node = node_named(passthrough_of(request)->nodes, parent, name);
    if (node != NULL)
        node_hold(node, parent_fd, name);
    return node;
}

void node_after_removal(struct node *node, const struct node *parent, const char *name)
{
    if (node != NULL)
        node_clear_name(node, parent, name);
}

void node_rename_begin(struct request *request, struct node_rename *rename)
{
    struct node_table *table = passthrough_of(request)->nodes;
    if (!rename->exchange)
        node_before_removal(request, rename->new_parent, rename->new_parent_fd, rename->new_name);
    pthread_rwlock_rdlock(&table->renaming);
    rename->moved = node_named(table, rename->parent, rename->name);
    rename->replaced = node_named(table, rename->new_parent, rename->new_name);
}

/* A name that cannot be set leaves the node to be found by file handle, or not at all. */
static void move(struct node *node, struct node *parent, const char *name)
{
    if (node != NULL && node_set_name(node, parent, name) != 0)
        node_drop_name(node);
}

void node_rename_end(struct request *request, const struct node_rename *rename, bool done)
{
    struct node_table *table = passthrough_of(request)->nodes;
    if (done && rename->moved != rename->replaced) {
        if (rename->replaced != NULL)
            node_clear_name(rename->replaced, rename->new_parent, rename->new_name);
        move(rename->moved, rename->new_parent, rename->new_name);
        if (rename->exchange)
            move(rename->replaced, rename->parent, rename->name);
    }
    pthread_rwlock_unlock(&table->renaming);
}
