/* Weak stand-ins for rooms that are still being written, so that the others link. A definition elsewhere
 * wins. */
#define _GNU_SOURCE 1
#include "../memory.h"
#include "../passthrough.h"

#include <errno.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#define PENDING __attribute__((weak))

PENDING void memory_table_get(struct memory_table *table)
{
    (void)table;
}
PENDING void memory_table_put(struct memory_table *table)
{
    (void)table;
}
PENDING void memory_mark_dirty(struct memory_table *table, const void *host, size_t size)
{
    (void)table;
    (void)host;
    (void)size;
}
PENDING int credentials_prepare_thread(int proc_self_fd)
{
    if (unshare(CLONE_FS) != 0 || fchdir(proc_self_fd) != 0)
        return -errno;
    umask(0);
    return 0;
}
PENDING int credentials_assume(const struct request *request, struct credentials *credentials)
{
    (void)request;
    (void)credentials;
    return 0;
}
PENDING void credentials_restore(const struct credentials *credentials)
{
    (void)credentials;
}
PENDING void credentials_set_umask(uint32_t mask)
{
    umask(mask);
}
PENDING int passthrough_open_flags(const struct passthrough *share, uint32_t guest_flags)
{
    (void)share;
    return (int)guest_flags;
}
PENDING uint32_t passthrough_fopen_flags(const struct passthrough *share, uint32_t guest_flags)
{
    (void)share;
    (void)guest_flags;
    return 0;
}
#define PENDING_OPERATION(name)                                                                              \
    PENDING int32_t name(struct request *request)                                                            \
    {                                                                                                        \
        (void)request;                                                                                       \
        return -ENOSYS;                                                                                      \
    }
PENDING_OPERATION(passthrough_lookup)
PENDING_OPERATION(passthrough_forget)
PENDING_OPERATION(passthrough_batch_forget)
PENDING_OPERATION(passthrough_create_file)
PENDING_OPERATION(passthrough_mknod)
PENDING_OPERATION(passthrough_mkdir)
PENDING_OPERATION(passthrough_symlink)
PENDING_OPERATION(passthrough_link)
PENDING_OPERATION(passthrough_unlink)
PENDING_OPERATION(passthrough_rmdir)
PENDING_OPERATION(passthrough_rename)
PENDING_OPERATION(passthrough_rename2)
PENDING_OPERATION(passthrough_tmpfile)
PENDING_OPERATION(passthrough_readlink)
PENDING_OPERATION(passthrough_getattr)
PENDING_OPERATION(passthrough_setattr)
PENDING_OPERATION(passthrough_statx)
PENDING_OPERATION(passthrough_statfs)
PENDING_OPERATION(passthrough_access)
PENDING_OPERATION(passthrough_opendir)
PENDING_OPERATION(passthrough_readdir)
PENDING_OPERATION(passthrough_readdirplus)
PENDING_OPERATION(passthrough_releasedir)
PENDING_OPERATION(passthrough_fsyncdir)
PENDING_OPERATION(passthrough_open)
PENDING_OPERATION(passthrough_read)
PENDING_OPERATION(passthrough_write)
PENDING_OPERATION(passthrough_flush)
PENDING_OPERATION(passthrough_release)
PENDING_OPERATION(passthrough_fsync)
PENDING_OPERATION(passthrough_fallocate)
PENDING_OPERATION(passthrough_lseek)
PENDING_OPERATION(passthrough_copy_file_range)
PENDING_OPERATION(passthrough_copy_file_range_64)
PENDING_OPERATION(passthrough_syncfs)
PENDING_OPERATION(passthrough_getlk)
PENDING_OPERATION(passthrough_setlk)
PENDING_OPERATION(passthrough_setlkw)
PENDING_OPERATION(passthrough_setxattr)
PENDING_OPERATION(passthrough_getxattr)
PENDING_OPERATION(passthrough_listxattr)
PENDING_OPERATION(passthrough_removexattr)
PENDING_OPERATION(passthrough_ioctl)
PENDING int lock_table_create(struct passthrough *share, struct lock_table **table)
{
    (void)share;
    *table = NULL;
    return 0;
}
PENDING void lock_table_end(struct lock_table *table)
{
    (void)table;
}
PENDING void lock_table_destroy(struct lock_table *table)
{
    (void)table;
}
