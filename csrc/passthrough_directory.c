/* Directories: opendir, readdir, readdirplus, releasedir, fsyncdir.
 *
 * Entries go from getdents64 into the handle's stream, and from there into replies of whatever size the guest
 * asks for: as long as it reads on where it stopped, nothing is read twice and nothing is sought.
 */
#define _GNU_SOURCE 1
#include "passthrough.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STREAM_SIZE (32 * 1024) /* of a getdents64 */
#define PENDING_SIZE 8192       /* entries gathered before they are stored */
#define DIRENT_NAME_MAX 1024    /* longer ones no guest takes */

/* A reply under way. Never more is added than fits, so what was counted is delivered. */
struct listing {
    struct request *request;
    struct node *directory;
    int fd;
    bool plus;
    size_t limit;   /* bytes that the reply may have */
    size_t stored;  /* bytes in the reply */
    size_t pending; /* bytes gathered behind them */
    uint8_t gathered[PENDING_SIZE];
};

_Static_assert(PENDING_SIZE >= sizeof(struct fuse_direntplus) + DIRENT_NAME_MAX + 8,
               "any entry can be gathered");

/* What the guest may keep, as virtiofsd has it for the same cache mode. */
static uint32_t opendir_flags(const struct passthrough *share)
{
    switch (share->options.cache) {
    case VHOSTFS_CACHE_METADATA:
    case VHOSTFS_CACHE_ALWAYS:
        return FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR;
    default:
        return 0;
    }
}

int32_t passthrough_opendir(struct request *request)
{
    const struct fuse_open_in *in = request_argument(request, sizeof(*in));
    struct fuse_open_out out = {.open_flags = opendir_flags(passthrough_of(request))};
    if (in == NULL || reply_room(request) < sizeof(out))
        return -EIO;
    struct node *node = node_find(request, request->in.nodeid);
    if (node == NULL)
        return -ESTALE;
    if (!S_ISDIR(node_type(node)))
        return -ENOTDIR;
    int flags = O_RDONLY | O_DIRECTORY;
    int fd = node_open(request, node, flags);
    if (fd < 0)
        return fd;
    int error = handle_create(request, fd, HANDLE_DIRECTORY, flags, request->in.nodeid, &out.fh);
    return error != 0 ? error : reply_bytes(request, &out, sizeof(out));
}

int32_t passthrough_releasedir(struct request *request)
{
    const struct fuse_release_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    return handle_close(request, in->fh, HANDLE_DIRECTORY) ? 0 : -EBADF;
}

int32_t passthrough_fsyncdir(struct request *request)
{
    const struct fuse_fsync_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct handle *handle = handle_find(request, in->fh, HANDLE_DIRECTORY);
    if (handle == NULL)
        return -EBADF;
    if (!request_may_sleep(request))
        return REQUEST_WOULD_SLEEP;
    bool data_only = (in->fsync_flags & FUSE_FSYNC_FDATASYNC) != 0;
    return (data_only ? fdatasync(handle->fd) : fsync(handle->fd)) == 0 ? 0 : -errno;
}

/* ---- The reply ---- */

static void flush(struct listing *listing)
{
    reply_at(listing->request, listing->stored, listing->gathered, listing->pending);
    listing->stored += listing->pending;
    listing->pending = 0;
}

static bool is_dots(const char *name)
{
    return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0));
}

/* The attributes of an entry, with a lookup counted; nodeid 0 where the guest is to ask itself, as for one
 * that is gone. */
static void fill_plus(struct listing *listing, const struct dirent64 *from, struct fuse_entry_out *entry,
                      uint32_t *type)
{
    struct statx attributes;
    int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
    bool found = !is_dots(from->d_name) &&
                 statx(listing->fd, from->d_name, flags, NODE_STATX_MASK, &attributes) == 0 &&
                 node_enter(listing->request, listing->directory, from->d_name, &attributes, entry) == 0;
    if (found)
        *type = (uint32_t)IFTODT(attributes.stx_mode);
    else
        *entry = (struct fuse_entry_out){0};
}

/* The root's ".." is outside the share: the guest gets the root's own number, as at the top of any file
 * system. */
static uint64_t entry_inode(const struct listing *listing, const struct dirent64 *from)
{
    bool outside = strcmp(from->d_name, "..") == 0 && node_parent(listing->directory) == listing->directory;
    return outside ? node_inode(listing->directory) : from->d_ino;
}

/* False: it does not fit any more. */
static bool add(struct listing *listing, const struct dirent64 *from)
{
    size_t length = strlen(from->d_name);
    if (length > DIRENT_NAME_MAX)
        return true;
    size_t head = listing->plus ? sizeof(struct fuse_direntplus) : sizeof(struct fuse_dirent);
    size_t size = (head + length + 7) & ~(size_t)7;
    if (size > listing->limit - listing->stored - listing->pending)
        return false;
    if (size > PENDING_SIZE - listing->pending)
        flush(listing);
    uint8_t *at = listing->gathered + listing->pending;
    struct fuse_dirent entry = {.ino = entry_inode(listing, from),
                                .off = (uint64_t)from->d_off,
                                .namelen = (uint32_t)length,
                                .type = from->d_type};
    if (listing->plus) {
        struct fuse_entry_out plus;
        fill_plus(listing, from, &plus, &entry.type);
        memcpy(at, &plus, sizeof(plus));
        at += sizeof(plus);
    }
    memcpy(at, &entry, sizeof(entry));
    memcpy(at + sizeof(entry), from->d_name, length);
    memset(at + sizeof(entry) + length, 0, size - head - length);
    listing->pending += size;
    return true;
}

/* ---- The stream ---- */

/* Let the stream go on at a cookie. Under its lock. */
static int seek(struct handle *handle, uint64_t offset)
{
    struct directory_stream *stream = &handle->stream;
    if (stream->buffer == NULL) {
        stream->buffer = malloc(STREAM_SIZE);
        if (stream->buffer == NULL)
            return -ENOMEM;
    }
    if (stream->next_offset == offset)
        return 0;
    stream->filled = 0;
    stream->position = 0;
    if (lseek(handle->fd, (off_t)offset, SEEK_SET) < 0) {
        stream->next_offset = UINT64_MAX; /* wherever it is now: seek again */
        return -errno;
    }
    stream->next_offset = offset;
    return 0;
}

/* The entry at the stream's position; NULL: no more, or *error says why not. */
static const struct dirent64 *peek(struct handle *handle, int *error)
{
    struct directory_stream *stream = &handle->stream;
    if (stream->position == stream->filled) {
        ssize_t size = getdents64(handle->fd, stream->buffer, STREAM_SIZE);
        stream->position = 0;
        stream->filled = size > 0 ? (uint32_t)size : 0;
        if (size <= 0) {
            *error = size < 0 ? -errno : 0;
            return NULL;
        }
    }
    return (const struct dirent64 *)(const void *)(stream->buffer + stream->position);
}

static int list(struct listing *listing, struct handle *handle, uint64_t offset)
{
    struct directory_stream *stream = &handle->stream;
    int error = seek(handle, offset);
    while (error == 0) {
        const struct dirent64 *entry = peek(handle, &error);
        if (entry == NULL)
            break;
        if (!add(listing, entry)) {
            if (listing->stored + listing->pending == 0)
                error = -EINVAL; /* as getdents: not even one fits */
            break;
        }
        stream->position += entry->d_reclen;
        stream->next_offset = (uint64_t)entry->d_off;
    }
    flush(listing);
    /* What was gathered goes out; the error comes again at the next call. */
    return listing->stored > 0 ? 0 : error;
}

static int32_t read_directory(struct request *request, bool plus)
{
    const struct fuse_read_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct node *directory = node_find(request, request->in.nodeid);
    if (directory == NULL)
        return -ESTALE;
    struct handle *handle = handle_find(request, in->fh, HANDLE_DIRECTORY);
    if (handle == NULL || handle->nodeid != request->in.nodeid)
        return -EBADF;
    struct listing listing;
    listing.request = request;
    listing.directory = directory;
    listing.fd = handle->fd;
    listing.plus = plus;
    listing.limit = reply_room(request) < in->size ? reply_room(request) : in->size;
    listing.stored = 0;
    listing.pending = 0;
    pthread_mutex_lock(&handle->stream.lock);
    int error = list(&listing, handle, in->offset);
    pthread_mutex_unlock(&handle->stream.lock);
    return error != 0 ? error : (int32_t)listing.stored;
}

int32_t passthrough_readdir(struct request *request)
{
    return read_directory(request, false);
}

int32_t passthrough_readdirplus(struct request *request)
{
    return read_directory(request, true);
}
