/* Passthrough: what is done with an open file, and opening it.
 *
 * File data goes between the host's file and guest memory in one preadv2 or pwritev2. Queue threads take only
 * what needs no disk: a read that the page cache cannot answer, and everything that waits for a device by its
 * nature, says REQUEST_WOULD_SLEEP before anything is done and is called again on the pool.
 */
#define _GNU_SOURCE 1
#include "passthrough.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Most bytes that Linux moves in one call (MAX_RW_COUNT); a guest that asks for more gets a short answer, as
 * on Linux. */
#define TRANSFER_MAX ((size_t)0x7ffff000)

/* Most bytes that the kernel is asked to read by itself. */
#define TRANSFER_ALONE ((size_t)128 * 1024)

/* The least page size there is: a cached read that ends inside a page has met the end of the file; a direct
 * one that ends inside a sector likewise. */
#define PAGE 4096U
#define SECTOR 512U
#define FAULT_SLACK 64U

/* handle.reading */
enum {
    READING_UNKNOWN,   /* RWF_NOWAIT is taken, as far as known */
    READING_IN_MEMORY, /* it is not, but there is no disk to wait for either */
    READING_MAY_SLEEP, /* it is not */
};

/* ---- open ---- */

int passthrough_open_flags(const struct passthrough *share, uint32_t guest_flags)
{
    int guest = (int)guest_flags;
    /* No O_APPEND: writes say so one by one, since the guest's page cache writes back through the same file
     * at offsets of its own. No O_NONBLOCK, O_NOATIME, O_PATH, O_NOFOLLOW and the like: they are between the
     * guest's kernel and its users. */
    int flags = guest & (O_ACCMODE | O_TRUNC | O_SYNC | O_DSYNC);
    if (passthrough_option(share, VHOSTFS_PASSTHROUGH_DIRECT_IO))
        flags |= guest & O_DIRECT;
    /* The guest's page cache reads what it is to complete before it writes. */
    if (passthrough_negotiated(share, FUSE_INIT_WRITEBACK_CACHE) && (flags & O_ACCMODE) == O_WRONLY)
        flags = (flags & ~O_ACCMODE) | O_RDWR;
    return flags | O_CLOEXEC;
}

/* Whether closing the file reports no errors. What is mounted below the root is not known to be so. */
static bool is_local(const struct passthrough *share, const struct node *node)
{
    return share->local && node != NULL && node_on_root_device(node);
}

uint32_t passthrough_fopen_flags(const struct passthrough *share, const struct node *node)
{
    /* O_DIRECT needs no flag: the guest's kernel passes its cache by itself. */
    uint32_t flags = 0;
    switch ((enum vhostfs_cache_mode)share->options.cache) {
    case VHOSTFS_CACHE_NEVER:
    case VHOSTFS_CACHE_METADATA:
        flags = FOPEN_DIRECT_IO;
        break;
    case VHOSTFS_CACHE_AUTO:
        break;
    case VHOSTFS_CACHE_ALWAYS:
        flags = FOPEN_KEEP_CACHE;
        break;
    }
    /* FLUSH is for a close that can fail, and drops POSIX locks. */
    if (is_local(share, node) && !passthrough_negotiated(share, FUSE_INIT_POSIX_LOCKS))
        flags |= FOPEN_NOFLUSH;
    return flags;
}

bool passthrough_drop_fsetid_to_open(const struct request *request, uint32_t guest_flags, uint32_t open_flags)
{
    if ((guest_flags & O_TRUNC) == 0)
        return false;
    bool kill = (open_flags & FUSE_OPEN_KILL_SUIDGID) != 0;
    /* Without HANDLE_KILLPRIV_V2 the guest's kernel leaves it to us and cannot say so: it sends no SETATTR after an
     * atomic O_TRUNC. Who is not root has no CAP_FSETID, as far as we can know. */
    if (!passthrough_negotiated(passthrough_of(request), FUSE_INIT_HANDLE_KILLPRIV_V2))
        kill = kill || request->in.uid != 0;
    return kill && credentials_drop_fsetid();
}

static int may_open(const struct passthrough *share, uint32_t type, uint32_t guest_flags)
{
    uint32_t mode = guest_flags & O_ACCMODE;
    if (mode == O_ACCMODE)
        return -EINVAL;
    if (type == S_IFDIR)
        return -EISDIR;
    if (type == S_IFLNK)
        return -ELOOP;
    if (type != S_IFREG)
        return -ENXIO; /* a device or a pipe is the guest's own business; the host's is never opened */
    bool changes = mode != O_RDONLY || (guest_flags & O_TRUNC) != 0;
    return changes && passthrough_option(share, VHOSTFS_PASSTHROUGH_READ_ONLY) ? -EROFS : 0;
}

/* Without sleeping where that can be: a lease that the host's programs hold is waited for on the pool only. */
static int open_once(struct request *request, struct node *node, int node_fd, int flags)
{
    if (!request->on_pool)
        return node_open(request, node, flags | O_NONBLOCK);
    int fd = openat(AT_FDCWD, descriptor_path(node_fd).text, flags);
    return fd >= 0 ? fd : node_open_error(errno);
}

static int open_file(struct request *request, struct node *node, int flags, uint32_t guest_flags)
{
    int node_fd = -1;
    if (request->on_pool) {
        node_fd = node_descriptor(request, node);
        if (node_fd < 0)
            return node_fd;
        (void)request_may_sleep(request);
    }
    int fd = open_once(request, node, node_fd, flags);
    bool widened = ((uint32_t)flags & O_ACCMODE) != (guest_flags & O_ACCMODE);
    if (widened && (fd == -EACCES || fd == -EPERM))
        fd = open_once(request, node, node_fd, (flags & ~O_ACCMODE) | (int)(guest_flags & O_ACCMODE));
    return fd;
}

int passthrough_open_handle(struct request *request, int fd, int flags, uint64_t nodeid,
                            struct fuse_open_out *out)
{
    int error = passthrough_backing_open(request, nodeid, fd, out);
    if (error != 0) {
        close(fd);
        return error;
    }
    error = handle_create(request, fd, HANDLE_FILE, flags, nodeid, &out->fh);
    if (error != 0)
        passthrough_backing_close(request, nodeid);
    return error;
}

bool passthrough_close_handle(struct request *request, uint64_t fh)
{
    /* By the node that it was opened with: what a request says besides may be another. */
    const struct handle *handle = handle_find(request, fh, HANDLE_FILE);
    if (handle == NULL)
        return false;
    uint64_t nodeid = handle->nodeid;
    bool closed = handle_close(request, fh, HANDLE_FILE);
    if (closed)
        passthrough_backing_close(request, nodeid);
    return closed;
}

int32_t passthrough_open(struct request *request)
{
    struct passthrough *share = passthrough_of(request);
    const struct fuse_open_in *in = request_argument(request, sizeof(*in));
    if (in == NULL || reply_room(request) < sizeof(struct fuse_open_out))
        return -EIO; /* nobody would know the handle */
    struct node *node = node_find(request, request->in.nodeid);
    if (node == NULL)
        return -ESTALE;
    int error = may_open(share, node_type(node), in->flags);
    if (error != 0)
        return error;
    int flags = passthrough_open_flags(share, in->flags);
    if ((flags & O_TRUNC) != 0 && !handle_has_room(share->handles))
        return -ENFILE;
    bool dropped = passthrough_drop_fsetid_to_open(request, in->flags, in->open_flags);
    int fd = open_file(request, node, flags, in->flags);
    if (dropped)
        credentials_regain_fsetid();
    if (fd == -EAGAIN && !request->on_pool)
        return REQUEST_WOULD_SLEEP;
    if (fd < 0)
        return fd;
    struct fuse_open_out out = {.open_flags = passthrough_fopen_flags(share, node)};
    error = passthrough_open_handle(request, fd, flags, request->in.nodeid, &out);
    return error != 0 ? error : reply_bytes(request, &out, sizeof(out));
}

/* ---- read ---- */

/* What a failure of the data path means to the guest: its own memory gone is no EFAULT of its program. */
static int32_t transfer_error(int error)
{
    return error == EFAULT ? -EIO : -error;
}

/* RWF_NOWAIT was refused: see what lies behind the handle, and remember it for others on the same device. */
static uint32_t learn_reading(struct request *request, struct handle *handle)
{
    struct statfs file_system;
    bool memory = fstatfs(handle->fd, &file_system) == 0 &&
                  (file_system.f_type == TMPFS_MAGIC || file_system.f_type == RAMFS_MAGIC);
    uint32_t reading = memory ? READING_IN_MEMORY : READING_MAY_SLEEP;
    atomic_store_explicit(&handle->reading, reading, memory_order_relaxed);
    const struct node *node = memory ? node_find(request, handle->nodeid) : NULL;
    if (node != NULL)
        atomic_store_explicit(&passthrough_of(request)->memory_device, node_device(node),
                              memory_order_relaxed);
    return reading;
}

/* What is known of reading from the handle, without asking the host. */
static uint32_t known_reading(struct request *request, struct handle *handle)
{
    uint32_t reading = atomic_load_explicit(&handle->reading, memory_order_relaxed);
    uint64_t device = atomic_load_explicit(&passthrough_of(request)->memory_device, memory_order_relaxed);
    if (reading != READING_UNKNOWN || device == 0)
        return reading;
    const struct node *node = node_find(request, handle->nodeid);
    if (node == NULL || node_device(node) != device)
        return reading;
    atomic_store_explicit(&handle->reading, READING_IN_MEMORY, memory_order_relaxed);
    return READING_IN_MEMORY;
}

/* Whether a read that stopped here met the end of the file: data is cached in whole pages and read from disks
 * in whole sectors (`grain`), so it is the end unless it lies between two of them; or where the reply's own
 * memory may have ended. */
static bool is_end(uint64_t file_position, unsigned grain, const struct iovec *vector, size_t step)
{
    while (step > vector->iov_len) {
        step -= vector->iov_len;
        vector++;
    }
    if (grain == SECTOR) /* direct reads take hold of all memory first */
        return file_position % SECTOR != 0;
    /* A fault in a page of the guest's stops the copy at its edge, or a few bytes short of it. */
    uintptr_t memory = (uintptr_t)vector->iov_base + step;
    return file_position % grain != 0 && memory % PAGE != 0 && memory % PAGE < PAGE - FAULT_SLACK;
}

/* Read into the reply, all that there is: to the guest, fewer bytes than it asked for mean the end of the
 * file. */
static int32_t read_fully(struct request *request, const struct handle *handle, size_t size, uint64_t offset,
                          int flags)
{
    struct iovec vector[CHAIN_VECTORS];
    /* The pool also reads what is not cached in pages: it asks again, at any place. */
    unsigned grain = request->on_pool ? 1 : PAGE;
    if ((handle->flags & O_DIRECT) != 0)
        grain = SECTOR; /* no asking again from inside a sector: that is refused */
    size_t done = 0;
    while (done < size) {
        int count = reply_vectors(request, done, size - done, vector);
        if (count < 0)
            return count;
        ssize_t step = preadv2(handle->fd, vector, count, (off_t)(offset + done), flags);
        if (step < 0 && errno == EINTR && !atomic_load(request->cancelled))
            continue;
        if (step < 0)
            return transfer_error(errno);
        done += (size_t)step;
        if (step == 0 || is_end(offset + done, grain, vector, (size_t)step))
            break;
    }
    return (int32_t)done;
}

/* What a read that the kernel did by itself comes to. All or nothing of it counts, and what surely met the end;
 * the pool finds out what any other outcome means. */
static int32_t read_outcome(struct request *request, int32_t moved)
{
    const struct request_transfer *transfer = &request->transfer;
    if (moved == 0 || moved == (int32_t)transfer->size)
        return moved;
    struct iovec vector[CHAIN_VECTORS];
    if (moved > 0 && reply_vectors(request, 0, transfer->size, vector) > 0 &&
        is_end(transfer->offset + (uint64_t)moved, transfer->grain, vector, (size_t)moved))
        return moved;
    return REQUEST_WOULD_SLEEP;
}

/* A large read costs more for its copy than for its wait, which the pool's threads do beside the queue's. */
static int32_t read_later(struct request *request, const struct handle *handle, size_t size, uint64_t offset,
                          uint32_t grain)
{
    if (size <= TRANSFER_ALONE)
        request->transfer = (struct request_transfer){
            .fd = handle->fd, .grain = grain, .size = size, .offset = offset, .outcome = read_outcome};
    return REQUEST_WOULD_SLEEP;
}

static int32_t read_without_sleep(struct request *request, struct handle *handle, size_t size,
                                  uint64_t offset)
{
    if ((handle->flags & O_DIRECT) != 0)
        return read_later(request, handle, size, offset, SECTOR);
    uint32_t reading = known_reading(request, handle);
    if (reading == READING_UNKNOWN) {
        int32_t result = read_fully(request, handle, size, offset, RWF_NOWAIT);
        if (result != -EOPNOTSUPP)
            return result == -EAGAIN ? read_later(request, handle, size, offset, PAGE) : result;
        reading = learn_reading(request, handle);
    }
    return reading == READING_IN_MEMORY ? read_fully(request, handle, size, offset, 0) : REQUEST_WOULD_SLEEP;
}

int32_t passthrough_read(struct request *request)
{
    const struct fuse_read_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct handle *handle = passthrough_handle(request, in->fh, HANDLE_FILE);
    if (handle == NULL)
        return -EBADF;
    if (in->offset > INT64_MAX)
        return -EINVAL;
    size_t size = in->size;
    if (size > reply_room(request))
        size = reply_room(request);
    if (size > TRANSFER_MAX)
        size = TRANSFER_MAX;
    if (request_may_sleep(request))
        return read_fully(request, handle, size, in->offset, 0);
    return read_without_sleep(request, handle, size, in->offset);
}

/* ---- write ---- */

/* Flags of this write alone: those that the file was not opened with. */
static int write_flags(const struct request *request, const struct handle *handle,
                       const struct fuse_write_in *in)
{
    int guest = (int)in->flags;
    int flags = 0;
    /* Write-back from the guest's page cache goes where the guest says, whoever's file it borrows for it. */
    if ((in->write_flags & FUSE_WRITE_CACHE) != 0)
        return 0;
    if ((guest & O_APPEND) != 0 &&
        !passthrough_negotiated(passthrough_of(request), FUSE_INIT_WRITEBACK_CACHE))
        flags |= RWF_APPEND;
    if ((guest & O_DSYNC) != 0 && (handle->flags & O_DSYNC) == 0)
        flags |= RWF_DSYNC;
    if ((guest & O_SYNC) == O_SYNC && (handle->flags & O_SYNC) != O_SYNC)
        flags |= RWF_SYNC;
    return flags;
}

static ssize_t write_vectors(const struct request *request, const struct handle *handle,
                             const struct iovec *vector, int count, uint64_t offset, int flags)
{
    ssize_t written;
    do
        written = pwritev2(handle->fd, vector, count, (off_t)offset, flags);
    while (written < 0 && errno == EINTR && !atomic_load(request->cancelled));
    return written >= 0 ? written : transfer_error(errno);
}

int32_t passthrough_write(struct request *request)
{
    const struct fuse_write_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct handle *handle = passthrough_handle(request, in->fh, HANDLE_FILE);
    if (handle == NULL)
        return -EBADF;
    if (in->offset > INT64_MAX)
        return -EINVAL;
    struct iovec vector[CHAIN_VECTORS];
    int count = request_data_vectors(request, in->size < TRANSFER_MAX ? in->size : TRANSFER_MAX, vector);
    if (count < 0)
        return count;
    struct fuse_write_out out = {0};
    if (reply_room(request) < sizeof(out))
        return -EIO;
    int flags = write_flags(request, handle, in);
    bool sleeps = (handle->flags & (O_DIRECT | O_DSYNC)) != 0 || (flags & (RWF_DSYNC | RWF_SYNC)) != 0;
    if (sleeps && !request_may_sleep(request))
        return REQUEST_WOULD_SLEEP;
    bool dropped = (in->write_flags & FUSE_WRITE_KILL_SUIDGID) != 0 && credentials_drop_fsetid();
    ssize_t written = write_vectors(request, handle, vector, count, in->offset, flags);
    if (dropped)
        credentials_regain_fsetid();
    if (written < 0)
        return (int32_t)written;
    out.size = (uint32_t)written;
    return reply_bytes(request, &out, sizeof(out));
}

/* ---- flush, release, fsync, syncfs ---- */

int32_t passthrough_flush(struct request *request)
{
    const struct fuse_flush_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct handle *handle = passthrough_handle(request, in->fh, HANDLE_FILE);
    if (handle == NULL)
        return -EBADF;
    int32_t result = 0;
    if (!is_local(passthrough_of(request), node_find(request, request->in.nodeid))) {
        if (!request_may_sleep(request))
            return REQUEST_WOULD_SLEEP;
        /* A network file system reports what went wrong with earlier writes when a descriptor is closed. */
        int copy = fcntl(handle->fd, F_DUPFD_CLOEXEC, 0);
        if (copy < 0)
            result = node_open_error(errno);
        else if (close(copy) != 0 && errno != EINTR)
            result = -errno;
    }
    passthrough_drop_posix_locks(request, handle, in->lock_owner);
    return result;
}

int32_t passthrough_release(struct request *request)
{
    const struct fuse_release_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct handle *handle = passthrough_handle(request, in->fh, HANDLE_FILE);
    if (handle == NULL)
        return -EBADF;
    /* The descriptor is closed when nobody can be using it any more; who waits for the lock need not wait for
     * that. */
    if ((in->release_flags & FUSE_RELEASE_FLOCK_UNLOCK) != 0)
        (void)flock(handle->fd, LOCK_UN);
    if ((in->release_flags & FUSE_RELEASE_FLUSH) != 0)
        passthrough_drop_posix_locks(request, handle, in->lock_owner);
    passthrough_drop_handle_locks(request, handle, in->fh);
    return passthrough_close_handle(request, in->fh) ? 0 : -EBADF;
}

int32_t passthrough_fsync(struct request *request)
{
    const struct fuse_fsync_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct handle *handle = passthrough_handle(request, in->fh, HANDLE_FILE);
    if (handle == NULL)
        return -EBADF;
    if (!request_may_sleep(request))
        return REQUEST_WOULD_SLEEP;
    bool data_only = (in->fsync_flags & FUSE_FSYNC_FDATASYNC) != 0;
    return (data_only ? fdatasync(handle->fd) : fsync(handle->fd)) == 0 ? 0 : -errno;
}

int32_t passthrough_syncfs(struct request *request)
{
    if (request_argument(request, sizeof(struct fuse_syncfs_in)) == NULL)
        return -EIO;
    struct node *node = node_find(request, request->in.nodeid);
    if (node == NULL)
        return -ESTALE;
    if (node_type(node) != S_IFDIR && node_type(node) != S_IFREG)
        return -EINVAL;
    if (!request->on_pool)
        return REQUEST_WOULD_SLEEP;
    int fd = node_open(request, node, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return fd;
    (void)request_may_sleep(request);
    int32_t result = syncfs(fd) == 0 ? 0 : -errno;
    close(fd);
    return result;
}

/* ---- fallocate, lseek, copy_file_range ---- */

/* With HANDLE_KILLPRIV_V2 the guest's kernel leaves it to the host to clear set-user-id and set-group-id, but
 * these requests have no flag that says for whom: who is not root has no CAP_FSETID, as far as we can know. */
static bool drop_fsetid_to_change(const struct request *request)
{
    return request->in.uid != 0 && credentials_drop_fsetid();
}

int32_t passthrough_fallocate(struct request *request)
{
    const struct fuse_fallocate_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct handle *handle = passthrough_handle(request, in->fh, HANDLE_FILE);
    if (handle == NULL)
        return -EBADF;
    if (passthrough_option(passthrough_of(request), VHOSTFS_PASSTHROUGH_READ_ONLY))
        return -EROFS;
    if (in->offset > INT64_MAX || in->length > INT64_MAX)
        return -EINVAL;
    if (!request_may_sleep(request))
        return REQUEST_WOULD_SLEEP;
    bool dropped = drop_fsetid_to_change(request);
    int error;
    do
        error = fallocate(handle->fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) == 0 ? 0 : -errno;
    while (error == -EINTR && !atomic_load(request->cancelled));
    if (dropped)
        credentials_regain_fsetid();
    return error;
}

int32_t passthrough_lseek(struct request *request)
{
    const struct fuse_lseek_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct handle *handle = passthrough_handle(request, in->fh, HANDLE_FILE);
    if (handle == NULL)
        return -EBADF;
    if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE)
        return -EINVAL; /* the guest's kernel knows the others itself */
    if (in->offset > INT64_MAX)
        return -ENXIO;
    off_t found = lseek(handle->fd, (off_t)in->offset, (int)in->whence);
    if (found < 0)
        return -errno;
    struct fuse_lseek_out out = {.offset = (uint64_t)found};
    return reply_bytes(request, &out, sizeof(out));
}

/* The bytes copied, or a negative errno, or REQUEST_WOULD_SLEEP. */
static int64_t copy_range(struct request *request, const struct fuse_copy_file_range_in *in, uint64_t most)
{
    if (passthrough_option(passthrough_of(request), VHOSTFS_PASSTHROUGH_READ_ONLY))
        return -EROFS;
    if (nodeid_mount(in->nodeid_out) != nodeid_mount(request->in.nodeid))
        return -EXDEV;
    struct handle *from = passthrough_handle(request, in->fh_in, HANDLE_FILE);
    struct handle *to = handle_find(request, in->fh_out, HANDLE_FILE);
    if (from == NULL || to == NULL || to->nodeid != in->nodeid_out)
        return -EBADF;
    if (!request_may_sleep(request))
        return REQUEST_WOULD_SLEEP;
    off_t offset_in = (off_t)in->off_in;
    off_t offset_out = (off_t)in->off_out;
    size_t size = in->len < most ? in->len : most;
    bool dropped = drop_fsetid_to_change(request);
    int64_t copied;
    do {
        copied = copy_file_range(from->fd, &offset_in, to->fd, &offset_out, size, (unsigned)in->flags);
        if (copied < 0)
            copied = -errno;
    } while (copied == -EINTR && !atomic_load(request->cancelled));
    if (dropped)
        credentials_regain_fsetid();
    return copied;
}

int32_t passthrough_copy_file_range(struct request *request)
{
    const struct fuse_copy_file_range_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    int64_t copied = copy_range(request, in, TRANSFER_MAX); /* the reply has 32 bits */
    if (copied < 0)
        return (int32_t)copied;
    struct fuse_write_out out = {.size = (uint32_t)copied};
    return reply_bytes(request, &out, sizeof(out));
}

int32_t passthrough_copy_file_range_64(struct request *request)
{
    const struct fuse_copy_file_range_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    int64_t copied = copy_range(request, in, INT64_MAX);
    if (copied < 0)
        return (int32_t)copied;
    struct fuse_copy_file_range_out out = {.bytes_copied = (uint64_t)copied};
    return reply_bytes(request, &out, sizeof(out));
}
