/* The passthrough mount: its life, and which function answers which operation. */
#define _GNU_SOURCE 1
#include "passthrough.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

static operation *const operations[FUSE_OPCODES] = {
    [FUSE_LOOKUP] = passthrough_lookup,
    [FUSE_FORGET] = passthrough_forget,
    [FUSE_GETATTR] = passthrough_getattr,
    [FUSE_SETATTR] = passthrough_setattr,
    [FUSE_READLINK] = passthrough_readlink,
    [FUSE_SYMLINK] = passthrough_symlink,
    [FUSE_MKNOD] = passthrough_mknod,
    [FUSE_MKDIR] = passthrough_mkdir,
    [FUSE_UNLINK] = passthrough_unlink,
    [FUSE_RMDIR] = passthrough_rmdir,
    [FUSE_RENAME] = passthrough_rename,
    [FUSE_LINK] = passthrough_link,
    [FUSE_OPEN] = passthrough_open,
    [FUSE_READ] = passthrough_read,
    [FUSE_WRITE] = passthrough_write,
    [FUSE_STATFS] = passthrough_statfs,
    [FUSE_RELEASE] = passthrough_release,
    [FUSE_FSYNC] = passthrough_fsync,
    [FUSE_SETXATTR] = passthrough_setxattr,
    [FUSE_GETXATTR] = passthrough_getxattr,
    [FUSE_LISTXATTR] = passthrough_listxattr,
    [FUSE_REMOVEXATTR] = passthrough_removexattr,
    [FUSE_FLUSH] = passthrough_flush,
    [FUSE_OPENDIR] = passthrough_opendir,
    [FUSE_READDIR] = passthrough_readdir,
    [FUSE_RELEASEDIR] = passthrough_releasedir,
    [FUSE_FSYNCDIR] = passthrough_fsyncdir,
    [FUSE_GETLK] = passthrough_getlk,
    [FUSE_SETLK] = passthrough_setlk,
    [FUSE_SETLKW] = passthrough_setlkw,
    [FUSE_ACCESS] = passthrough_access,
    [FUSE_CREATE] = passthrough_create_file,
    [FUSE_IOCTL] = passthrough_ioctl,
    [FUSE_BATCH_FORGET] = passthrough_batch_forget,
    [FUSE_FALLOCATE] = passthrough_fallocate,
    [FUSE_READDIRPLUS] = passthrough_readdirplus,
    [FUSE_RENAME2] = passthrough_rename2,
    [FUSE_LSEEK] = passthrough_lseek,
    [FUSE_COPY_FILE_RANGE] = passthrough_copy_file_range,
    [FUSE_SYNCFS] = passthrough_syncfs,
    [FUSE_TMPFILE] = passthrough_tmpfile,
    [FUSE_STATX] = passthrough_statx,
    [FUSE_COPY_FILE_RANGE_64] = passthrough_copy_file_range_64,
};

static void begin(struct filesystem *filesystem, uint64_t flags)
{
    struct passthrough *share = (struct passthrough *)(void *)filesystem;
    atomic_store_explicit(&share->flags, flags, memory_order_relaxed);
}

static void end(struct filesystem *filesystem)
{
    struct passthrough *share = (struct passthrough *)(void *)filesystem;
    lock_table_end(share->locks);
    backing_table_end(share->backing);
    handle_table_end(share->handles);
    node_table_end(share->nodes);
    /* Device numbers of memory file systems are used again when one is unmounted. */
    atomic_store_explicit(&share->memory_device, 0, memory_order_relaxed);
}

static bool relieve(struct filesystem *filesystem)
{
    struct passthrough *share = (struct passthrough *)(void *)filesystem;
    return node_table_relieve(share->nodes);
}

/* Free what was made so far. */
static void destroy(struct filesystem *filesystem)
{
    struct passthrough *share = (struct passthrough *)(void *)filesystem;
    if (share->nodes != NULL)
        node_table_destroy(share->nodes);
    if (share->backing != NULL)
        backing_table_destroy(share->backing);
    if (share->locks != NULL)
        lock_table_destroy(share->locks);
    if (share->handles != NULL)
        handle_table_destroy(share->handles);
    if (share->options.root_fd >= 0)
        close(share->options.root_fd);
    if (share->options.proc_self_fd >= 0)
        close(share->options.proc_self_fd);
    free(share);
}

_Static_assert(offsetof(struct passthrough, filesystem) == 0,
               "a mount starts with what the session knows of it");

/* Whether this process may open by file handle on the share's file system: asked by doing it with the root. */
static bool probe_file_handles(int root_fd)
{
    int mount_fd = openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (mount_fd < 0)
        return false;
    struct {
        struct file_handle head;
        uint8_t bytes[MAX_HANDLE_SZ];
    } handle = {.head.handle_bytes = MAX_HANDLE_SZ};
    int mount_id;
    int opened = -1;
    if (name_to_handle_at(mount_fd, "", &handle.head, &mount_id, AT_EMPTY_PATH) == 0)
        opened = open_by_handle_at(mount_fd, &handle.head, O_PATH | O_CLOEXEC);
    if (opened >= 0)
        close(opened);
    close(mount_fd);
    return opened >= 0;
}

/* File systems whose close(2) may report that data could not be written: FLUSH must reach them. */
static bool is_local(int root_fd)
{
    static const uint32_t remote[] = {NFS_SUPER_MAGIC,  SMB_SUPER_MAGIC, CIFS_SUPER_MAGIC, SMB2_SUPER_MAGIC,
                                      FUSE_SUPER_MAGIC, V9FS_MAGIC,      CEPH_SUPER_MAGIC, AFS_SUPER_MAGIC,
                                      CODA_SUPER_MAGIC, AFS_FS_MAGIC};
    struct statfs about;
    if (fstatfs(root_fd, &about) != 0)
        return false;
    for (size_t i = 0; i < sizeof(remote) / sizeof(remote[0]); i++) {
        if ((uint32_t)about.f_type == remote[i])
            return false;
    }
    return true;
}

static int make_tables(struct passthrough *share)
{
    int error = node_table_create(share, &share->nodes);
    if (error == 0)
        error = handle_table_create(share, &share->handles);
    if (error == 0)
        error = lock_table_create(share, &share->locks);
    if (error == 0)
        error = backing_table_create(share, &share->backing);
    return error;
}

int passthrough_create(const struct vhostfs_passthrough_options *options, struct session *session,
                       uint16_t mount, struct filesystem **filesystem)
{
    if (options->descriptor_budget < 16 || options->cache > VHOSTFS_CACHE_ALWAYS)
        return -EINVAL;
    struct passthrough *share = calloc(1, sizeof(*share));
    if (share == NULL)
        return -ENOMEM;
    share->filesystem = (struct filesystem){
        .operations = operations, .begin = begin, .end = end, .relieve = relieve, .destroy = destroy};
    share->options = *options;
    share->session = session;
    share->mount = mount;
    share->options.root_fd = fcntl(options->root_fd, F_DUPFD_CLOEXEC, 0);
    int error = share->options.root_fd < 0 ? -errno : 0;
    share->options.proc_self_fd = fcntl(options->proc_self_fd, F_DUPFD_CLOEXEC, 0);
    if (error == 0 && share->options.proc_self_fd < 0)
        error = -errno;
    if (error == 0) {
        share->file_handles = probe_file_handles(share->options.root_fd);
        share->local = is_local(share->options.root_fd);
        error = make_tables(share);
    }
    if (error != 0) {
        destroy(&share->filesystem);
        return error;
    }
    *filesystem = &share->filesystem;
    return 0;
}
