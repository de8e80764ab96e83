/* Sessions: INIT, DESTROY, and the way from an opcode to the file system that answers it. */
#include "session.h"
#include "mount_tree.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* FUSE_PASSTHROUGH: how many file systems may lie upon each other, this one not counted; files of others are
 * not passed through. */
#define FILE_SYSTEM_DEPTH 1

void session_init(struct session *session, const struct vhostfs_session_options *options)
{
    memset(session, 0, sizeof(*session));
    epoch_domain_init(&session->epochs);
    session->options = *options;
    session->fuse_fd = -1;
    pthread_mutex_init(&session->lock, NULL);
}

static uint16_t mounts_end(const struct session *session)
{
    return (uint16_t)atomic_load_explicit(&session->mounts_end, memory_order_acquire);
}

static void destroy_filesystem(struct filesystem *filesystem)
{
    filesystem_drop_limits(filesystem);
    filesystem->destroy(filesystem);
}

void session_destroy(struct session *session)
{
    session_end(session);
    epoch_drain(&session->epochs); /* while the tables are still there */
    for (uint16_t i = 0; i < mounts_end(session); i++) {
        struct filesystem *filesystem = session_find(session, i);
        if (filesystem != NULL)
            destroy_filesystem(filesystem);
    }
    while (session->removed != NULL) {
        struct filesystem *filesystem = session->removed;
        session->removed = filesystem->next;
        destroy_filesystem(filesystem);
    }
    struct mount_tree *tree = atomic_load(&session->tree);
    if (tree != NULL)
        mount_tree_destroy(tree);
    epoch_domain_destroy(&session->epochs);
    pthread_mutex_destroy(&session->lock);
}

/* ---- Mounts ---- */

int session_mount(struct session *session, uint16_t mount, struct filesystem *filesystem)
{
    if (mount >= PSEUDO_MOUNT)
        return -EINVAL;
    pthread_mutex_lock(&session->lock);
    int error = session->used[mount] ? -EBUSY : 0;
    if (error == 0) {
        session->used[mount] = true;
        if (atomic_load(&session->minor) != 0)
            filesystem->begin(filesystem, atomic_load(&session->flags));
        atomic_store_explicit(&session->mounts[mount], filesystem, memory_order_release);
        if (mount >= mounts_end(session))
            atomic_store_explicit(&session->mounts_end, mount + 1U, memory_order_release);
    }
    pthread_mutex_unlock(&session->lock);
    return error;
}

int session_free_mount(struct session *session)
{
    int found = -ENOSPC;
    pthread_mutex_lock(&session->lock);
    for (int mount = 1; mount < PSEUDO_MOUNT && found < 0; mount++) {
        if (!session->used[mount])
            found = mount;
    }
    pthread_mutex_unlock(&session->lock);
    return found;
}

int session_plant(struct session *session)
{
    if (atomic_load(&session->tree) != NULL)
        return -EBUSY;
    bool has_root = session_find(session, 0) != NULL;
    struct mount_tree *tree = mount_tree_create(session, has_root);
    if (tree == NULL)
        return -ENOMEM;
    if (!has_root)
        session_mount(session, 0, &tree->pseudo);
    atomic_store_explicit(&session->mounts[PSEUDO_MOUNT], &tree->pseudo, memory_order_release);
    atomic_store_explicit(&session->tree, tree, memory_order_release);
    return 0;
}

int session_attach(struct session *session, const char *path, uint16_t mount)
{
    struct mount_tree *tree = atomic_load(&session->tree);
    if (tree == NULL || mount == 0)
        return -EINVAL;
    if (mount >= PSEUDO_MOUNT || session_find(session, mount) == NULL)
        return -ENOENT;
    return mount_tree_add(tree, path, mount);
}

/* No reader that found it as a mount is left. False: requests that sleep use it, or what was its own is not freed
 * yet. */
static bool release_filesystem(struct epoch_retired *retired)
{
    struct filesystem *filesystem =
        (struct filesystem *)(void *)((uint8_t *)retired - offsetof(struct filesystem, retired));
    /* Acquire, pairs with the release in request_finish. */
    if (atomic_load_explicit(&filesystem->pins, memory_order_acquire) != 0)
        return false;
    /* What was under way left nodes and handles behind. */
    if (!filesystem->ended)
        filesystem->end(filesystem);
    filesystem->ended = true;
    /* Acquire, pairs with the release in filesystem_released. */
    if (atomic_load_explicit(&filesystem->retiring, memory_order_acquire) != 0)
        return false;
    destroy_filesystem(filesystem);
    return true;
}

int session_unmount(struct session *session, uint16_t mount)
{
    struct mount_tree *tree = atomic_load(&session->tree);
    if (mount == 0)
        return -EBUSY;
    pthread_mutex_lock(&session->lock);
    struct filesystem *filesystem = mount < PSEUDO_MOUNT ? session_find(session, mount) : NULL;
    int error = filesystem == NULL ? -ENOENT : tree != NULL ? mount_tree_remove(tree, mount) : 0;
    if (error == 0) {
        atomic_store_explicit(&session->mounts[mount], NULL, memory_order_release);
        filesystem->end(filesystem);
        if (filesystem->submit != NULL) {
            filesystem->next = session->removed;
            session->removed = filesystem;
        } else {
            epoch_retire(&session->epochs, &filesystem->retired, release_filesystem);
        }
    }
    pthread_mutex_unlock(&session->lock);
    epoch_reclaim(&session->epochs);
    return error;
}

/* ---- The session's life ---- */

static void announce(const struct session *session, const char *text)
{
    if (session->announce != NULL)
        session->announce(session->announce_context, text);
}

/* Under the lock. Also where no session runs, for what requests that were under way at its end left behind. */
static void end_locked(struct session *session)
{
    bool running = atomic_exchange(&session->minor, 0) != 0;
    for (uint16_t i = 0; i < mounts_end(session); i++) {
        struct filesystem *filesystem = session_find(session, i);
        session->used[i] = filesystem != NULL;
        if (filesystem != NULL)
            filesystem->end(filesystem);
    }
    struct mount_tree *tree = atomic_load(&session->tree);
    if (tree != NULL)
        mount_tree_end(tree);
    atomic_store(&session->flags, 0);
    if (running)
        announce(session, "session ended");
}

void session_end(struct session *session)
{
    pthread_mutex_lock(&session->lock);
    end_locked(session);
    pthread_mutex_unlock(&session->lock);
}

static int32_t answer_newer_major(struct request *request)
{
    /* A kernel with a newer major sends INIT again with ours; it reads no more than these fields now. */
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION};
    return reply_bytes(request, &out, sizeof(out));
}

static void begin_locked(struct session *session, uint32_t minor, uint64_t flags)
{
    atomic_store(&session->flags, flags);
    session->beginning_minor = minor;
    for (uint16_t i = 0; i < mounts_end(session); i++) {
        struct filesystem *filesystem = session_find(session, i);
        if (filesystem != NULL)
            filesystem->begin(filesystem, flags);
    }
    atomic_store(&session->minor, minor);
    char text[VHOSTFS_EVENT_TEXT_SIZE];
    snprintf(text, sizeof(text), "session began: FUSE 7.%u, flags 0x%llx", minor, (unsigned long long)flags);
    announce(session, text);
}

static int32_t answer_init(struct session *session, struct request *request)
{
    struct fuse_init_in in = {0};
    const void *fixed = request_argument(request, FUSE_COMPAT_INIT_IN_SIZE);
    if (fixed == NULL)
        return -EIO;
    memcpy(&in, fixed, FUSE_COMPAT_INIT_IN_SIZE);
    if (in.major > FUSE_KERNEL_VERSION)
        return answer_newer_major(request);
    if (in.major < FUSE_KERNEL_VERSION || in.minor < FUSE_MINIMUM_MINOR)
        return -EPROTO;
    uint64_t offered = in.flags;
    const void *rest = request_argument(request, sizeof(in.flags2));
    if ((offered & FUSE_INIT_INIT_EXT) != 0 && rest != NULL) {
        memcpy(&in.flags2, rest, sizeof(in.flags2));
        offered |= (uint64_t)in.flags2 << 32;
    }
    const struct vhostfs_session_options *options = &session->options;
    uint64_t flags = offered & options->init_flags;
    if ((flags & FUSE_INIT_INIT_EXT) == 0)
        flags &= UINT32_MAX;
    uint32_t minor = in.minor < FUSE_KERNEL_MINOR_VERSION ? in.minor : FUSE_KERNEL_MINOR_VERSION;
    struct fuse_init_out out = {
        .major = FUSE_KERNEL_VERSION,
        .minor = FUSE_KERNEL_MINOR_VERSION,
        .max_readahead =
            in.max_readahead < options->max_readahead ? in.max_readahead : options->max_readahead,
        .flags = (uint32_t)flags,
        .flags2 = (uint32_t)(flags >> 32),
        .max_background = options->max_background,
        .congestion_threshold = options->congestion_threshold,
        .max_write = options->max_write,
        .time_gran = 1,
        .max_pages = (flags & FUSE_INIT_MAX_PAGES) != 0 ? options->max_pages : 0,
        .max_stack_depth = (flags & FUSE_INIT_PASSTHROUGH) != 0 ? FILE_SYSTEM_DEPTH : 0,
    };
    int32_t result = reply_bytes(request, &out, sizeof(out));
    if (result < 0)
        return result;
    pthread_mutex_lock(&session->lock);
    end_locked(session);
    begin_locked(session, minor, flags);
    pthread_mutex_unlock(&session->lock);
    return result;
}

/* Have descriptors given up, inside an epoch: a request that has begun to sleep has left its own. */
static bool relieve(struct request *request)
{
    struct filesystem *filesystem = request->filesystem;
    struct epoch_domain *epochs = &request->session->epochs;
    bool outside = request->on_pool && !request->inside_epoch;
    if (outside)
        epoch_enter(epochs, request->reader);
    bool relieved = filesystem->relieve != NULL && filesystem->relieve(filesystem);
    if (outside)
        epoch_leave(epochs, request->reader);
    return relieved;
}

/* Call an operation; once more where the process had no descriptor left and the file system could do without
 * some. */
static int32_t call(struct request *request, operation *answer)
{
    int32_t result = answer(request);
    if (result == REQUEST_NO_DESCRIPTORS && relieve(request)) {
        request_again(request);
        /* In the new epoch the mount may be gone. */
        bool there = session_find(request->session, nodeid_mount(request->in.nodeid)) == request->filesystem;
        result = there ? answer(request) : -ESTALE;
    }
    return result == REQUEST_NO_DESCRIPTORS ? -ENFILE : result;
}

void session_cancel(struct session *session, const void *source, bool all)
{
    pthread_mutex_lock(&session->lock); /* none is removed meanwhile */
    for (uint16_t i = 0; i < mounts_end(session); i++) {
        struct filesystem *filesystem = session_find(session, i);
        if (filesystem != NULL && filesystem->cancel != NULL)
            filesystem->cancel(filesystem, source, all);
    }
    for (struct filesystem *removed = session->removed; removed != NULL; removed = removed->next) {
        if (removed->cancel != NULL)
            removed->cancel(removed, source, all);
    }
    pthread_mutex_unlock(&session->lock);
}

void session_give_up(struct session *session, const void *source)
{
    pthread_mutex_lock(&session->lock); /* none is removed meanwhile */
    for (uint16_t i = 0; i < mounts_end(session); i++) {
        struct filesystem *filesystem = session_find(session, i);
        if (filesystem != NULL && filesystem->give_up != NULL)
            filesystem->give_up(filesystem, source);
    }
    for (struct filesystem *removed = session->removed; removed != NULL; removed = removed->next) {
        if (removed->give_up != NULL)
            removed->give_up(removed, source);
    }
    pthread_mutex_unlock(&session->lock);
}

/* The end is told to all; who answers outside of the rings' threads answers DESTROY when it is done with it. */
static int32_t answer_destroy(struct session *session, struct request *request)
{
    session_end(session);
    for (uint16_t i = 0; i < mounts_end(session); i++) {
        struct filesystem *filesystem = session_find(session, i);
        if (filesystem != NULL && filesystem->submit != NULL) {
            request->filesystem = filesystem;
            return REQUEST_WOULD_SLEEP;
        }
    }
    return 0;
}

/* Requests that name no mount, or nodes of several: each file system picks what is its own. The chain itself goes with
 * the last of those that are asked outside of the rings' threads. */
static int32_t tell_all(struct session *session, struct request *request)
{
    struct filesystem *taker = NULL;
    struct mount_tree *tree = atomic_load_explicit(&session->tree, memory_order_acquire);
    if (tree != NULL && request->in.opcode == FUSE_BATCH_FORGET)
        mount_tree_forget(tree, request);
    for (uint16_t i = 0; i < mounts_end(session); i++) {
        struct filesystem *filesystem = session_find(session, i);
        operation *tell = filesystem != NULL ? filesystem->operations[request->in.opcode] : NULL;
        if (tell == NULL)
            continue;
        if (filesystem->submit == NULL) {
            request->filesystem = filesystem;
            request->arguments_position = 0;
            tell(request);
            continue;
        }
        if (taker != NULL)
            taker->submit_copy(taker, request);
        taker = filesystem;
    }
    request->filesystem = taker;
    return taker != NULL ? REQUEST_WOULD_SLEEP : REQUEST_NO_REPLY;
}

int32_t session_dispatch(struct session *session, struct request *request)
{
    uint32_t opcode = request->in.opcode;
    if (opcode == FUSE_INIT)
        return answer_init(session, request);
    if (atomic_load_explicit(&session->minor, memory_order_acquire) == 0) {
        if (fuse_is_unanswered(opcode))
            return REQUEST_NO_REPLY;
        return opcode == FUSE_DESTROY ? 0 : -EIO;
    }
    if (opcode == FUSE_DESTROY)
        return answer_destroy(session, request);
    if (opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT)
        return tell_all(session, request);
    struct mount_tree *tree = atomic_load_explicit(&session->tree, memory_order_acquire);
    if (tree != NULL && request->tree_step == TREE_NONE) {
        int32_t result = 0;
        if (mount_tree_route(tree, request, &result))
            return result;
        opcode = request->in.opcode;
    }
    request->filesystem = session_find(session, nodeid_mount(request->in.nodeid));
    if (request->filesystem == NULL)
        return fuse_is_unanswered(opcode) ? REQUEST_NO_REPLY : -ESTALE;
    operation *answer = opcode < FUSE_OPCODES ? request->filesystem->operations[opcode] : NULL;
    if (answer == NULL)
        return fuse_is_unanswered(opcode) ? REQUEST_NO_REPLY : -ENOSYS;
    return call(request, answer);
}
