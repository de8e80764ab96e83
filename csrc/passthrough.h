/* Passthrough: a directory of the host as a file system, answered in C on the queue's own thread.
 *
 * One function an operation. passthrough.c owns the mount (open, begin, end, destroy) and the table of
 * operations; passthrough_namespace.c   lookup, forget, create, mknod, mkdir, symlink, link, unlink, rmdir,
 * rename, tmpfile, readlink passthrough_attributes.c  getattr, setattr, statx, statfs, access
 *   passthrough_directory.c   opendir, readdir, readdirplus, releasedir, fsyncdir
 *   passthrough_data.c        open, read, write, flush, release, fsync, fallocate, lseek, copy_file_range,
 * syncfs passthrough_locks.c       getlk, setlk, setlkw passthrough_xattr.c       setxattr, getxattr,
 * listxattr, removexattr passthrough_ioctl.c       ioctl credentials.c             acting as the caller: uid,
 * gid, supplementary group, umask nodes.c, handles.c        what the guest knows and has open
 *
 * Every thread that runs operations has called credentials_prepare_thread: its working directory is
 * /proc/self/fd, of its own, so that the relative path "N" names descriptor N in calls that want a path (open
 * again, xattr, chmod), also in a sandbox without /proc.
 */
#pragma once
#include "core.h"
#include "handles.h"
#include "nodes.h"
#include "session.h"

struct node_table;
struct handle_table;
struct lock_table;
struct backing_table;

struct passthrough {
    struct filesystem filesystem;               /* first: a request's filesystem is this mount */
    struct vhostfs_passthrough_options options; /* root_fd and proc_self_fd are our own duplicates */
    struct session *session;
    uint16_t mount;
    _Atomic uint64_t flags;         /* negotiated INIT flags of the session that runs */
    bool file_handles;              /* open_by_handle_at works for this process and file system */
    _Atomic uint64_t memory_device; /* node_device of a tmpfs or the like that reads were seen on; 0: none */
    bool local; /* the root's file system is local: close reports no errors, FLUSH need not be sent */
    struct node_table *nodes;
    struct handle_table *handles;
    struct lock_table *locks;
    struct backing_table *backing;
};

static inline struct passthrough *passthrough_of(const struct request *request)
{
    return (struct passthrough *)(void *)request->filesystem;
}

static inline bool passthrough_option(const struct passthrough *share, enum vhostfs_passthrough_flags flag)
{
    return (share->options.flags & flag) != 0;
}

static inline bool passthrough_negotiated(const struct passthrough *share, uint64_t flag)
{
    return (atomic_load_explicit(&share->flags, memory_order_relaxed) & flag) != 0;
}

/* A descriptor as a path for calls that want one: relative to the working directory of threads that run
 * operations. */
struct descriptor_path {
    char text[12];
};

static inline struct descriptor_path descriptor_path(int descriptor)
{
    struct descriptor_path path;
    unsigned value = (unsigned)descriptor;
    size_t digits = 1;
    for (unsigned rest = value; rest > 9; rest /= 10)
        digits++;
    path.text[digits] = 0;
    while (digits > 0) {
        path.text[--digits] = (char)('0' + value % 10);
        value /= 10;
    }
    return path;
}

/* The handle that a request names, of the node that it is for. NULL: answer EBADF. */
static inline struct handle *passthrough_handle(struct request *request, uint64_t fh, enum handle_kind kind)
{
    struct handle *handle = handle_find(request, fh, kind);
    return handle != NULL && handle->nodeid == request->in.nodeid ? handle : NULL;
}

/* The same where files and directories will do. */
static inline struct handle *passthrough_any_handle(struct request *request, uint64_t fh)
{
    struct handle *handle = passthrough_handle(request, fh, HANDLE_FILE);
    return handle != NULL ? handle : passthrough_handle(request, fh, HANDLE_DIRECTORY);
}

/* passthrough.c */
int passthrough_create(const struct vhostfs_passthrough_options *options, struct session *session,
                       uint16_t mount, struct filesystem **filesystem);

/* nodes.c, handles.c, passthrough_locks.c, passthrough_backing.c: their tables' life, for passthrough.c. `end` drops all but the
 * root. */
int node_table_create(struct passthrough *share, struct node_table **table);
/* Give up some descriptors that can be opened again. False: there are none. Inside an epoch. */
bool node_table_relieve(struct node_table *table);
void node_table_end(struct node_table *table);
void node_table_destroy(struct node_table *table);
int handle_table_create(struct passthrough *share, struct handle_table **table);
void handle_table_end(struct handle_table *table);
void handle_table_destroy(struct handle_table *table);
int lock_table_create(struct passthrough *share, struct lock_table **table);
void lock_table_end(struct lock_table *table);
void lock_table_destroy(struct lock_table *table);
int backing_table_create(struct passthrough *share, struct backing_table **table);
void backing_table_end(struct backing_table *table);
void backing_table_destroy(struct backing_table *table);

/* credentials.c */
/* Give the calling thread a working directory, umask (0) and securebits of its own, and take the daemon's
 * supplementary groups off it where permitted. Capabilities must not be changed by others afterwards. -errno:
 * it cannot run operations. */
int credentials_prepare_thread(int proc_self_fd);
struct credentials {
    uint32_t uid;
    uint32_t gid;
    bool switched;
    bool grouped;
    bool fsetid_dropped;
};
/* Act as the request's caller until credentials_restore. 0; -EPERM where the process may not. Costs nothing
 * for a caller that is the daemon's own user, as the guest's root is where the daemon may be nobody else.
 * Capabilities stay: the guest's kernel has checked permissions (default_permissions), and with groups that
 * the host does not know. Only CAP_FSETID is dropped for another user, so that the host decides who may make
 * a file set-group-id; for that the caller's supplementary group counts where the guest sent it. */
int credentials_assume(const struct request *request, struct credentials *credentials);
void credentials_restore(const struct credentials *credentials);
/* Set the thread's umask for the next creation (DONT_MASK); remembered, so that an unchanged one costs no
 * call. */
void credentials_set_umask(uint32_t umask);
/* Run a write or truncation so that the host clears set-user-id and set-group-id bits (drops CAP_FSETID). */
bool credentials_drop_fsetid(void);
void credentials_regain_fsetid(void);
/* Let permission bits count for the daemon too, until what this returned is regained. */
uint64_t credentials_drop_overrides(void);
void credentials_regain_overrides(uint64_t dropped);

/* passthrough_namespace.c and others: the operations. */
operation passthrough_lookup, passthrough_forget, passthrough_batch_forget, passthrough_create_file,
    passthrough_mknod, passthrough_mkdir, passthrough_symlink, passthrough_link, passthrough_unlink,
    passthrough_rmdir, passthrough_rename, passthrough_rename2, passthrough_tmpfile, passthrough_readlink;
operation passthrough_getattr, passthrough_setattr, passthrough_statx, passthrough_statfs, passthrough_access;
operation passthrough_opendir, passthrough_readdir, passthrough_readdirplus, passthrough_releasedir,
    passthrough_fsyncdir;
operation passthrough_open, passthrough_read, passthrough_write, passthrough_flush, passthrough_release,
    passthrough_fsync, passthrough_fallocate, passthrough_lseek, passthrough_copy_file_range,
    passthrough_copy_file_range_64, passthrough_syncfs;
operation passthrough_getlk, passthrough_setlk, passthrough_setlkw;
operation passthrough_setxattr, passthrough_getxattr, passthrough_listxattr, passthrough_removexattr;
operation passthrough_ioctl;

/* passthrough_data.c: what both OPEN and CREATE do: the flags that reach the host, and those that answer the
 * guest. */
int passthrough_open_flags(const struct passthrough *share, uint32_t guest_flags);
uint32_t passthrough_fopen_flags(const struct passthrough *share, const struct node *node);
/* The handle of a file that was opened, with the rest of the reply. Takes fd. 0 or a negative errno. */
int passthrough_open_handle(struct request *request, int fd, int flags, uint64_t nodeid,
                            struct fuse_open_out *out);
/* False: there is no such handle. */
bool passthrough_close_handle(struct request *request, uint64_t fh);
/* Before an open that may truncate: whether the host is to clear set-user-id and set-group-id. True: CAP_FSETID is dropped, and
 * credentials_regain_fsetid is to follow. */
bool passthrough_drop_fsetid_to_open(const struct request *request, uint32_t guest_flags,
                                     uint32_t open_flags);
/* passthrough_backing.c: with each open, and with each handle that is closed. The file behind `fd` is given to this host's
 * kernel where that takes it, and the reply says so. 0 or -ENOMEM. */
int passthrough_backing_open(struct request *request, uint64_t nodeid, int fd, struct fuse_open_out *out);
void passthrough_backing_close(struct request *request, uint64_t nodeid);
/* passthrough_locks.c: called by FLUSH and RELEASE. */
void passthrough_drop_posix_locks(struct request *request, struct handle *handle, uint64_t owner);
/* Called by RELEASE: who locked by this handle last has none left, or was this open file. */
void passthrough_drop_handle_locks(struct request *request, struct handle *handle, uint64_t fh);
