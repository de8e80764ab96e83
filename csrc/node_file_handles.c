/* File handles of nodes, and the descriptors on their mounts that open_by_handle_at wants. See node_table.h. */
#define _GNU_SOURCE 1
#include "node_table.h"

#include <errno.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

/* A readable descriptor on a mount. */
struct open_mount {
    uint32_t id;
    bool counts_generations; /* its file handles never come to mean another file */
    int fd;                  /* -1: there is none */
};

static uint64_t pack_mount(const struct open_mount *mount)
{
    return (uint64_t)mount->id << 32 | (mount->counts_generations ? 1U << 31 : 0) | (uint32_t)mount->fd;
}

static struct open_mount mount_at(const struct node_descriptors *descriptors, uint32_t place)
{
    uint64_t packed = atomic_load_explicit(&descriptors->mount[place], memory_order_relaxed);
    return (struct open_mount){.id = (uint32_t)(packed >> 32),
                               .counts_generations = (packed & 1U << 31) != 0,
                               .fd = packed & INT_MAX};
}

int node_take_mount(struct node_table *table)
{
    struct node_descriptors *descriptors = &table->descriptors;
    uint32_t mounts = atomic_load_explicit(&descriptors->mounts, memory_order_relaxed);
    if (mounts == 0)
        return -1;
    atomic_store_explicit(&descriptors->mounts, mounts - 1, memory_order_relaxed);
    return mount_at(descriptors, mounts - 1).fd;
}

/* Whether a file handle holds a generation, so that a file with a reused inode number is not taken for the
 * old one. Others may do so too; these are known to. */
static bool counts_generations(int fd)
{
    struct statfs file_system;
    if (fstatfs(fd, &file_system) != 0)
        return false;
    switch ((uint32_t)file_system.f_type) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case TMPFS_MAGIC:
        return true;
    default:
        return false;
    }
}

/* The open mount of a node. Without the lock: what is found stays open until the epoch ends. */
static struct open_mount find_mount(const struct node_table *table, const struct node *node)
{
    const struct node_descriptors *descriptors = &table->descriptors;
    uint32_t mounts = atomic_load_explicit(&descriptors->mounts, memory_order_acquire);
    for (uint32_t i = 0; i < mounts; i++) {
        struct open_mount mount = mount_at(descriptors, i);
        if (mount.id == node->mount_id)
            return mount;
    }
    return (struct open_mount){.fd = -1};
}

/* Open the mount of a node that is open as `fd`. Under descriptors.lock. */
static struct open_mount open_mount(struct node_table *table, const struct node *node, int fd)
{
    struct node_descriptors *descriptors = &table->descriptors;
    struct open_mount mount = find_mount(table, node);
    uint32_t mounts = atomic_load_explicit(&descriptors->mounts, memory_order_relaxed);
    if (mount.fd >= 0 || mounts == NODE_MOUNTS || !(S_ISDIR(node->type) || S_ISREG(node->type)))
        return mount;
    mount.id = node->mount_id;
    mount.fd = open(descriptor_path(fd).text, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (mount.fd < 0)
        return mount;
    mount.counts_generations = counts_generations(mount.fd);
    atomic_store_explicit(&descriptors->mount[mounts], pack_mount(&mount), memory_order_relaxed);
    /* Release, pairs with the acquire in find_mount. */
    atomic_store_explicit(&descriptors->mounts, mounts + 1, memory_order_release);
    return mount;
}

static struct open_mount have_mount(struct node_table *table, const struct node *node, int fd)
{
    struct open_mount mount = find_mount(table, node);
    if (mount.fd >= 0)
        return mount;
    pthread_mutex_lock(&table->descriptors.lock);
    mount = open_mount(table, node, fd);
    pthread_mutex_unlock(&table->descriptors.lock);
    return mount;
}

bool node_have_file_handle(struct node_table *table, struct node *node, int fd, int directory_fd,
                           const char *path)
{
    if (!table->share->file_handles)
        return false;
    struct open_mount mount = have_mount(table, node, fd);
    if (mount.fd < 0)
        return false;
    if (atomic_load_explicit(&node->file_handle, memory_order_acquire) != NULL)
        return true;
    struct {
        struct file_handle head;
        uint8_t bytes[MAX_HANDLE_SZ];
    } handle;
    handle.head.handle_bytes = MAX_HANDLE_SZ;
    int mount_id;
    if (name_to_handle_at(directory_fd, path, &handle.head, &mount_id, AT_EMPTY_PATH) != 0)
        return false;
    struct node_file_handle *kept = malloc(sizeof(*kept) + handle.head.handle_bytes);
    if (kept == NULL)
        return false;
    kept->type = handle.head.handle_type;
    kept->size = (uint16_t)handle.head.handle_bytes;
    atomic_init(&kept->verified, path[0] == 0);
    kept->lasting = mount.counts_generations;
    memcpy(kept->bytes, handle.head.f_handle, kept->size);
    struct node_file_handle *none = NULL;
    if (!atomic_compare_exchange_strong(&node->file_handle, &none, kept))
        free(kept);
    return true;
}

void node_learn_file_handle(struct request *request, struct node *node, struct node *parent, const char *name)
{
    if (!node->table->share->file_handles ||
        atomic_load_explicit(&node->file_handle, memory_order_relaxed) != NULL)
        return;
    /* The parent's descriptor stands for the mount, so a node on another is left to its name. */
    int fd = node->mount_id == parent->mount_id ? node_descriptor(request, parent) : -1;
    if (fd >= 0)
        (void)node_have_file_handle(node->table, node, fd, fd, name);
}

int node_open_file_handle(struct node *node, const struct node_file_handle *kept, int flags)
{
    int mount_fd = kept != NULL ? find_mount(node->table, node).fd : -1;
    if (mount_fd < 0) {
        errno = ESTALE;
        return -1;
    }
    struct {
        struct file_handle head;
        uint8_t bytes[MAX_HANDLE_SZ];
    } handle;
    handle.head.handle_bytes = kept->size;
    handle.head.handle_type = kept->type;
    memcpy(handle.head.f_handle, kept->bytes, kept->size);
    return open_by_handle_at(mount_fd, &handle.head, flags | O_CLOEXEC);
}
