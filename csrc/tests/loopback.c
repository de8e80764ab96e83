/* The loopback guest; the contract is in loopback.h. */
#define _GNU_SOURCE 1
#include "loopback.h"
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOPBACK_SENT (sizeof(struct fuse_in_header) + 2 * 1024 * 1024)
#define CANARY 0xa5

struct vhostfs_passthrough_options loopback_options(void)
{
    return (struct vhostfs_passthrough_options){
        .root_fd = -1,
        .proc_self_fd = -1,
        .cache = VHOSTFS_CACHE_AUTO,
        .flags = VHOSTFS_PASSTHROUGH_XATTR,
        .entry_nanoseconds = 1000000000,
        .attribute_nanoseconds = 1000000000,
        .negative_nanoseconds = 0,
        .descriptor_budget = 1024,
    };
}

size_t loopback_open_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory != NULL);
    size_t count = 0;
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count - 3; /* ".", ".." and the listing's own */
}

static void begin_session(struct loopback *loopback, uint64_t flags)
{
    struct loopback_thread thread;
    loopback_attach(loopback, &thread);
    struct fuse_init_in in = {.major = FUSE_KERNEL_VERSION,
                              .minor = FUSE_KERNEL_MINOR_VERSION,
                              .max_readahead = 131072,
                              .flags = (uint32_t)(flags | FUSE_INIT_INIT_EXT),
                              .flags2 = (uint32_t)(flags >> 32)};
    CHECK_EQUAL(loopback_send(&thread, FUSE_INIT, 0, &in, sizeof(in), NULL, NULL),
                sizeof(struct fuse_init_out));
    loopback_detach(&thread);
}

struct passthrough *loopback_mount(struct loopback *loopback, uint16_t mount, int root_fd,
                                   const struct vhostfs_passthrough_options *options)
{
    struct vhostfs_passthrough_options with = *options;
    with.root_fd = root_fd;
    with.proc_self_fd = loopback->proc_self_fd;
    struct filesystem *filesystem;
    CHECK_EQUAL(passthrough_create(&with, &loopback->session, mount, &filesystem), 0);
    CHECK_EQUAL(session_mount(&loopback->session, mount, filesystem), 0);
    return (struct passthrough *)(void *)filesystem;
}

void loopback_create_at(struct loopback *loopback, const char *directory,
                        const struct vhostfs_passthrough_options *options, uint64_t flags)
{
    memset(loopback, 0, sizeof(*loopback));
    loopback->descriptors = loopback_open_descriptors();
    const char *base = getenv("VHOSTFS_TEST_DIRECTORY");
    if (directory == NULL) {
        snprintf(loopback->root, sizeof(loopback->root), "%s/vhostfs-test-XXXXXX",
                 base != NULL ? base : "/dev/shm");
        CHECK(mkdtemp(loopback->root) != NULL);
        directory = loopback->root;
    }
    loopback->root_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    loopback->proc_self_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(loopback->root_fd >= 0 && loopback->proc_self_fd >= 0);
    struct vhostfs_session_options session = {.init_flags = UINT64_MAX,
                                              .max_write = 1024 * 1024,
                                              .max_readahead = 1024 * 1024,
                                              .max_pages = 256,
                                              .max_background = 64,
                                              .congestion_threshold = 48};
    session_init(&loopback->session, &session);
    loopback->memory = memory_table_create(NULL);
    CHECK(loopback->memory != NULL);
    if (options != NULL)
        loopback->share = loopback_mount(loopback, 0, loopback->root_fd, options);
    else
        CHECK_EQUAL(session_plant(&loopback->session), 0);
    begin_session(loopback, flags);
}

void loopback_create(struct loopback *loopback, const struct vhostfs_passthrough_options *options,
                     uint64_t flags)
{
    loopback_create_at(loopback, NULL, options, flags);
}

static int remove_one(const char *path, const struct stat *attributes, int type, struct FTW *where)
{
    (void)attributes;
    (void)where;
    return type == FTW_DP ? rmdir(path) : unlink(path);
}

void loopback_destroy(struct loopback *loopback)
{
    session_destroy(&loopback->session);
    memory_table_put(loopback->memory);
    close(loopback->root_fd);
    close(loopback->proc_self_fd);
    CHECK_EQUAL(loopback_open_descriptors(), loopback->descriptors);
    if (loopback->root[0] != 0)
        CHECK_EQUAL(nftw(loopback->root, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

void loopback_attach(struct loopback *loopback, struct loopback_thread *thread)
{
    memset(thread, 0, sizeof(*thread));
    thread->loopback = loopback;
    thread->room = LOOPBACK_ROOM;
    thread->sent = malloc(LOOPBACK_SENT);
    thread->answer = malloc(LOOPBACK_ROOM + 1);
    thread->arguments = aligned_alloc(8, REQUEST_ARGUMENTS_SIZE + sizeof(struct fuse_in_header));
    CHECK(thread->sent != NULL && thread->answer != NULL && thread->arguments != NULL);
    CHECK_EQUAL(credentials_prepare_thread(loopback->proc_self_fd), 0);
    epoch_add_reader(&loopback->session.epochs, &thread->reader);
}

void loopback_detach(struct loopback_thread *thread)
{
    epoch_remove_reader(&thread->loopback->session.epochs, &thread->reader);
    free(thread->sent);
    free(thread->answer);
    free(thread->arguments);
}

/* Cut `size` bytes into vectors of `piece` bytes, or into `first` and the rest. */
static uint32_t cut(uint8_t *bytes, size_t size, size_t first, size_t piece, struct iovec *vector)
{
    uint32_t count = 0;
    size_t done = 0;
    while (done < size) {
        size_t step = piece != 0 ? piece : first;
        if ((piece == 0 && count > 0) || step > size - done || count == CHAIN_VECTORS - 1)
            step = size - done;
        vector[count++] = (struct iovec){.iov_base = bytes + done, .iov_len = step};
        done += step;
    }
    return count;
}

static int32_t run_detached(struct loopback_thread *thread, struct request *request)
{
    struct epoch_domain *epochs = &thread->loopback->session.epochs;
    struct request *copy = request_detach(request);
    CHECK(copy != NULL);
    epoch_enter(epochs, &thread->reader);
    copy->reader = &thread->reader;
    copy->inside_epoch = true;
    int32_t result = session_dispatch(&thread->loopback->session, copy);
    CHECK(result != REQUEST_WOULD_SLEEP);
    if (copy->inside_epoch)
        epoch_leave(epochs, &thread->reader);
    request_finish(copy, result);
    request->used_length = copy->used_length;
    request_free(copy);
    return result;
}

static int32_t check_reply(struct loopback_thread *thread, const struct request *request, int32_t result)
{
    CHECK_EQUAL(thread->answer[thread->room], CANARY);
    if (result == REQUEST_NO_REPLY || thread->room < sizeof(struct fuse_out_header)) {
        CHECK_EQUAL(request->used_length, 0);
        thread->reply_size = 0;
        return result == REQUEST_NO_REPLY ? 0 : result;
    }
    struct fuse_out_header out;
    memcpy(&out, thread->answer, sizeof(out));
    CHECK_EQUAL(out.len, request->used_length);
    CHECK_EQUAL(out.unique, thread->unique);
    CHECK(out.len >= sizeof(out) && out.len <= thread->room);
    CHECK(out.error <= 0 && out.error > -512);
    CHECK(out.error == 0 || out.len == sizeof(out));
    thread->reply_size = out.len - sizeof(out);
    return out.error != 0 ? out.error : (int32_t)thread->reply_size;
}

int32_t loopback_call(struct loopback_thread *thread, uint32_t opcode, uint64_t nodeid,
                      const struct loopback_piece *pieces, size_t count)
{
    struct session *session = &thread->loopback->session;
    struct fuse_in_header in = {.len = sizeof(in),
                                .opcode = opcode,
                                .unique = thread->unique += 2,
                                .nodeid = nodeid,
                                .uid = thread->uid,
                                .gid = thread->gid,
                                .pid = 1,
                                .total_extlen = thread->extension_size};
    for (size_t i = 0; i < count; i++) {
        CHECK(in.len + pieces[i].size <= LOOPBACK_SENT);
        if (pieces[i].size > 0)
            memcpy(thread->sent + in.len, pieces[i].bytes, pieces[i].size);
        in.len += (uint32_t)pieces[i].size;
    }
    memcpy(thread->sent, &in, sizeof(in));
    thread->answer[thread->room] = CANARY;
    struct iovec readable[CHAIN_VECTORS];
    struct iovec writable[CHAIN_VECTORS];
    struct request request = {
        .chain = {.readable = readable,
                  .writable = writable,
                  .readable_size = in.len,
                  .writable_size = thread->room,
                  .readable_count = cut(thread->sent, in.len, sizeof(in), thread->piece, readable),
                  .writable_count = cut(thread->answer, thread->room, sizeof(struct fuse_out_header),
                                        thread->piece, writable)},
        .session = session,
        .memory = thread->loopback->memory,
        .reader = &thread->reader,
        .cancelled = &thread->cancelled,
    };
    int32_t result = request_begin(&request, thread->arguments);
    thread->reply = thread->answer + sizeof(struct fuse_out_header);
    thread->detached = false;
    if (result == 0) {
        epoch_enter(&session->epochs, &thread->reader);
        result = session_dispatch(session, &request);
        epoch_leave(&session->epochs, &thread->reader);
    }
    if (result == REQUEST_WOULD_SLEEP) {
        thread->detached = true;
        result = run_detached(thread, &request);
    } else {
        request_finish(&request, result);
    }
    return check_reply(thread, &request, result);
}

int32_t loopback_send(struct loopback_thread *thread, uint32_t opcode, uint64_t nodeid, const void *structure,
                      size_t size, const char *name, const char *second_name)
{
    struct loopback_piece pieces[3];
    size_t count = 0;
    if (size > 0)
        pieces[count++] = (struct loopback_piece){structure, size};
    if (name != NULL)
        pieces[count++] = (struct loopback_piece){name, strlen(name) + 1};
    if (second_name != NULL)
        pieces[count++] = (struct loopback_piece){second_name, strlen(second_name) + 1};
    return loopback_call(thread, opcode, nodeid, pieces, count);
}

/* Take `size` bytes of a reply that must have them. */
static int take(const struct loopback_thread *thread, int32_t result, size_t offset, void *structure,
                size_t size)
{
    if (result < 0)
        return result;
    CHECK(offset + size <= thread->reply_size);
    if (structure != NULL)
        memcpy(structure, thread->reply + offset, size);
    return 0;
}

int loopback_lookup(struct loopback_thread *thread, uint64_t parent, const char *name,
                    struct fuse_entry_out *entry)
{
    int32_t result = loopback_send(thread, FUSE_LOOKUP, parent, NULL, 0, name, NULL);
    return take(thread, result, 0, entry, sizeof(*entry));
}

int loopback_getattr(struct loopback_thread *thread, uint64_t nodeid, struct fuse_attr *attributes)
{
    struct fuse_getattr_in in = {0};
    int32_t result = loopback_send(thread, FUSE_GETATTR, nodeid, &in, sizeof(in), NULL, NULL);
    return take(thread, result, offsetof(struct fuse_attr_out, attr), attributes, sizeof(*attributes));
}

int loopback_create_file(struct loopback_thread *thread, uint64_t parent, const char *name, uint32_t flags,
                         uint32_t mode, struct fuse_entry_out *entry, uint64_t *fh)
{
    struct fuse_create_in in = {.flags = flags | O_CREAT, .mode = mode | S_IFREG};
    struct fuse_open_out open;
    int32_t result = loopback_send(thread, FUSE_CREATE, parent, &in, sizeof(in), name, NULL);
    int error = take(thread, result, sizeof(struct fuse_entry_out), &open, sizeof(open));
    if (error == 0 && fh != NULL)
        *fh = open.fh;
    return take(thread, result, 0, entry, sizeof(*entry));
}

int loopback_mkdir(struct loopback_thread *thread, uint64_t parent, const char *name, uint32_t mode,
                   struct fuse_entry_out *entry)
{
    struct fuse_mkdir_in in = {.mode = mode};
    int32_t result = loopback_send(thread, FUSE_MKDIR, parent, &in, sizeof(in), name, NULL);
    return take(thread, result, 0, entry, sizeof(*entry));
}

int loopback_unlink(struct loopback_thread *thread, uint64_t parent, const char *name)
{
    return loopback_send(thread, FUSE_UNLINK, parent, NULL, 0, name, NULL);
}

int loopback_rmdir(struct loopback_thread *thread, uint64_t parent, const char *name)
{
    return loopback_send(thread, FUSE_RMDIR, parent, NULL, 0, name, NULL);
}

int loopback_rename(struct loopback_thread *thread, uint64_t parent, const char *name, uint64_t new_parent,
                    const char *new_name, uint32_t flags)
{
    struct fuse_rename2_in in = {.newdir = new_parent, .flags = flags};
    return loopback_send(thread, FUSE_RENAME2, parent, &in, sizeof(in), name, new_name);
}

static int open_handle(struct loopback_thread *thread, uint32_t opcode, uint64_t nodeid, uint32_t flags,
                       uint64_t *fh)
{
    struct fuse_open_in in = {.flags = flags};
    struct fuse_open_out out = {0};
    int error = take(thread, loopback_send(thread, opcode, nodeid, &in, sizeof(in), NULL, NULL), 0, &out,
                     sizeof(out));
    *fh = out.fh;
    return error;
}

static int close_handle(struct loopback_thread *thread, uint32_t opcode, uint64_t nodeid, uint64_t fh)
{
    struct fuse_release_in in = {.fh = fh};
    return loopback_send(thread, opcode, nodeid, &in, sizeof(in), NULL, NULL);
}

int loopback_open(struct loopback_thread *thread, uint64_t nodeid, uint32_t flags, uint64_t *fh)
{
    return open_handle(thread, FUSE_OPEN, nodeid, flags, fh);
}

int loopback_release(struct loopback_thread *thread, uint64_t nodeid, uint64_t fh)
{
    return close_handle(thread, FUSE_RELEASE, nodeid, fh);
}

int loopback_opendir(struct loopback_thread *thread, uint64_t nodeid, uint64_t *fh)
{
    return open_handle(thread, FUSE_OPENDIR, nodeid, 0, fh);
}

int loopback_releasedir(struct loopback_thread *thread, uint64_t nodeid, uint64_t fh)
{
    return close_handle(thread, FUSE_RELEASEDIR, nodeid, fh);
}

void loopback_forget(struct loopback_thread *thread, uint64_t nodeid, uint64_t lookups)
{
    struct fuse_forget_in in = {.nlookup = lookups};
    CHECK_EQUAL(loopback_send(thread, FUSE_FORGET, nodeid, &in, sizeof(in), NULL, NULL), 0);
}
