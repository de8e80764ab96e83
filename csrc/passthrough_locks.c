/* Passthrough: POSIX and flock locks on the host.
 *
 * A guest's POSIX lock belongs to an owner (a process of the guest) and a file, whatever descriptor it came
 * through, and goes when the owner closes any; that of an open file (F_OFD_SETLK) comes with an owner of its own, and goes,
 * unsaid, when the file is closed. The host's nearest are open-file-description locks; so each
 * (nodeid, owner) that locks has an open file description of its own here, for as long as it may hold a lock.
 * flock locks belong to the guest's open file, which is a handle's descriptor as it is. The host does not
 * detect deadlocks between open file descriptions.
 */
#define _GNU_SOURCE 1
#include "passthrough.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#define LOCK_OWNERS_MAX 65536
#define LOCK_BUCKETS 1024
#define LOCK_HOLDERS_ASKED 64 /* most owners of a file that one GETLK looks at */

/* An owner's open file description of one file. */
struct lock_owner {
    struct lock_owner *next;
    uint64_t nodeid;
    uint64_t owner;
    uint64_t fh;  /* the handle that it locked by last; under the table's mutex */
    uint32_t pid; /* of the guest's process, as it last said; under the table's mutex */
    int fd;
    uint32_t users; /* requests that hold it now, under the table's mutex */
    bool listed;    /* else the last user frees it */
};

struct lock_table {
    struct passthrough *share;
    pthread_mutex_t mutex;
    _Atomic uint32_t count; /* listed ones */
    struct lock_owner *buckets[LOCK_BUCKETS];
};

int lock_table_create(struct passthrough *share, struct lock_table **table)
{
    struct lock_table *locks = calloc(1, sizeof(*locks));
    if (locks == NULL)
        return -ENOMEM;
    locks->share = share;
    pthread_mutex_init(&locks->mutex, NULL);
    *table = locks;
    return 0;
}

static void free_owner(struct lock_table *table, struct lock_owner *owner)
{
    close(owner->fd); /* with it go its locks */
    handle_discount_descriptor(table->share->handles);
    free(owner);
}

void lock_table_end(struct lock_table *table)
{
    struct lock_owner *unused = NULL;
    pthread_mutex_lock(&table->mutex);
    for (size_t i = 0; i < LOCK_BUCKETS; i++) {
        struct lock_owner *owner = table->buckets[i];
        while (owner != NULL) {
            struct lock_owner *next = owner->next;
            owner->listed = false;
            if (owner->users == 0) {
                owner->next = unused;
                unused = owner;
            }
            owner = next;
        }
        table->buckets[i] = NULL;
    }
    atomic_store(&table->count, 0);
    pthread_mutex_unlock(&table->mutex);
    while (unused != NULL) {
        struct lock_owner *next = unused->next;
        free_owner(table, unused);
        unused = next;
    }
}

void lock_table_destroy(struct lock_table *table)
{
    lock_table_end(table);
    pthread_mutex_destroy(&table->mutex);
    free(table);
}

/* All owners of a file are in one bucket. */
static struct lock_owner **bucket_of(struct lock_table *table, uint64_t nodeid)
{
    return &table->buckets[(nodeid * 0x9e3779b97f4a7c15ULL >> 40) % LOCK_BUCKETS];
}

/* Under the mutex. The link that points to the owner, or to NULL at the end of its bucket. */
static struct lock_owner **find_link(struct lock_table *table, uint64_t nodeid, uint64_t owner)
{
    struct lock_owner **link = bucket_of(table, nodeid);
    while (*link != NULL && ((*link)->nodeid != nodeid || (*link)->owner != owner))
        link = &(*link)->next;
    return link;
}

/* The owner's open file description, held until give_back. Who locks is noted with its handle and process. NULL: it has none. */
static struct lock_owner *take_known(struct lock_table *table, uint64_t nodeid, const struct fuse_lk_in *in,
                                     bool locks)
{
    if (atomic_load_explicit(&table->count, memory_order_acquire) == 0)
        return NULL;
    pthread_mutex_lock(&table->mutex);
    struct lock_owner *found = *find_link(table, nodeid, in->owner);
    if (found != NULL)
        found->users++;
    if (found != NULL && locks) {
        found->fh = in->fh;
        found->pid = in->lk.pid;
    }
    pthread_mutex_unlock(&table->mutex);
    return found;
}

static void give_back(struct lock_table *table, struct lock_owner *owner)
{
    pthread_mutex_lock(&table->mutex);
    bool last = --owner->users == 0 && !owner->listed;
    pthread_mutex_unlock(&table->mutex);
    if (last)
        free_owner(table, owner);
}

/* Open the handle's file once more, for read and write locks where the host lets us. */
static int open_description(const struct passthrough *share, const struct handle *handle)
{
    const struct descriptor_path path = descriptor_path(handle->fd);
    int fd = -1;
    if (!passthrough_option(share, VHOSTFS_PASSTHROUGH_READ_ONLY))
        fd = openat(AT_FDCWD, path.text, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        fd = openat(AT_FDCWD, path.text, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        fd = openat(AT_FDCWD, path.text, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    return fd >= 0 ? fd : node_open_error(errno);
}

/* Put a new owner into the table; one that another thread put there meanwhile is taken instead, and the new
 * one freed. */
static struct lock_owner *list_owner(struct lock_table *table, struct lock_owner *made)
{
    pthread_mutex_lock(&table->mutex);
    struct lock_owner **link = find_link(table, made->nodeid, made->owner);
    struct lock_owner *listed = *link;
    if (listed == NULL && atomic_load(&table->count) < LOCK_OWNERS_MAX) {
        made->listed = true;
        *link = listed = made;
        atomic_fetch_add(&table->count, 1);
    }
    if (listed != NULL)
        listed->users++;
    pthread_mutex_unlock(&table->mutex);
    if (listed != made)
        free_owner(table, made);
    return listed;
}

/* The owner's open file description, made where there is none: 0 and *owner, or a negative errno (ENOLCK: no
 * more of them) or REQUEST_NO_DESCRIPTORS. */
static int take_owner(struct request *request, const struct handle *handle, const struct fuse_lk_in *in,
                      struct lock_owner **owner)
{
    struct passthrough *share = passthrough_of(request);
    *owner = take_known(share->locks, handle->nodeid, in, true);
    if (*owner != NULL)
        return 0;
    if (atomic_load(&share->locks->count) >= LOCK_OWNERS_MAX)
        return -ENOLCK;
    if (!handle_count_descriptor(share->handles))
        return -ENOLCK;
    int fd = open_description(share, handle);
    struct lock_owner *made = fd >= 0 ? malloc(sizeof(*made)) : NULL;
    if (made == NULL) {
        if (fd >= 0)
            close(fd);
        handle_discount_descriptor(share->handles);
        return fd >= 0 ? -ENOLCK : fd;
    }
    *made = (struct lock_owner){
        .nodeid = handle->nodeid, .owner = in->owner, .fh = in->fh, .pid = in->lk.pid, .fd = fd};
    *owner = list_owner(share->locks, made);
    return *owner != NULL ? 0 : -ENOLCK;
}

/* Under the mutex: take away all locks of an owner. It is returned, to be freed, where nobody waits with it. */
static struct lock_owner *drop(struct lock_table *table, struct lock_owner **link)
{
    struct lock_owner *owner = *link;
    if (owner->users == 0) {
        *link = owner->next;
        atomic_fetch_sub(&table->count, 1);
        return owner;
    }
    /* Another thread of the owner waits for a lock, and will have it, as on Linux: only what is held now goes. */
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    (void)fcntl(owner->fd, F_OFD_SETLK, &all);
    return NULL;
}

void passthrough_drop_posix_locks(struct request *request, struct handle *handle, uint64_t owner)
{
    struct lock_table *table = passthrough_of(request)->locks;
    if (atomic_load_explicit(&table->count, memory_order_acquire) == 0)
        return;
    pthread_mutex_lock(&table->mutex);
    struct lock_owner **link = find_link(table, handle->nodeid, owner);
    struct lock_owner *idle = *link != NULL ? drop(table, link) : NULL;
    pthread_mutex_unlock(&table->mutex);
    if (idle != NULL)
        free_owner(table, idle);
}

void passthrough_drop_handle_locks(struct request *request, struct handle *handle, uint64_t fh)
{
    struct lock_table *table = passthrough_of(request)->locks;
    if (atomic_load_explicit(&table->count, memory_order_acquire) == 0)
        return;
    struct lock_owner *unused = NULL;
    pthread_mutex_lock(&table->mutex);
    struct lock_owner **link = bucket_of(table, handle->nodeid);
    while (*link != NULL) {
        bool locked_by_it = (*link)->nodeid == handle->nodeid && (*link)->fh == fh;
        struct lock_owner *idle = locked_by_it ? drop(table, link) : NULL;
        if (idle == NULL) {
            link = &(*link)->next;
            continue;
        }
        idle->next = unused;
        unused = idle;
    }
    pthread_mutex_unlock(&table->mutex);
    while (unused != NULL) {
        struct lock_owner *next = unused->next;
        free_owner(table, unused);
        unused = next;
    }
}

/* ---- The operations ---- */

/* The guest's lock as the host takes it. False: no range that there can be, or no type. */
static bool lock_from_guest(const struct fuse_file_lock *from, struct flock *lock)
{
    bool type = from->type == F_RDLCK || from->type == F_WRLCK || from->type == F_UNLCK;
    if (!type || from->start > from->end || from->end > INT64_MAX)
        return false;
    *lock = (struct flock){.l_type = (short)from->type, .l_whence = SEEK_SET, .l_start = (off_t)from->start};
    if (from->end != INT64_MAX)
        lock->l_len = (off_t)(from->end - from->start + 1);
    return true;
}

static void lock_to_guest(const struct flock *lock, struct fuse_file_lock *to)
{
    to->type = (uint32_t)lock->l_type;
    if (lock->l_type == F_UNLCK)
        return;
    to->start = (uint64_t)lock->l_start;
    to->end = lock->l_len == 0 ? (uint64_t)INT64_MAX : (uint64_t)(lock->l_start + lock->l_len - 1);
}

/* The guest's process that holds a lock which F_OFD_GETLK found; 0 for one of the host's or another guest's, which this guest
 * does not have. The host does not name owners of such locks, but to its own owner a lock is not in the way. */
static uint32_t holder_of(struct lock_table *table, uint64_t nodeid, const struct flock *lock)
{
    uint32_t pid = 0;
    int asked = 0;
    pthread_mutex_lock(&table->mutex);
    const struct lock_owner *owner = *bucket_of(table, nodeid);
    for (; owner != NULL && pid == 0 && asked < LOCK_HOLDERS_ASKED; owner = owner->next) {
        struct flock seen = {
            .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = lock->l_start, .l_len = lock->l_len};
        if (owner->nodeid != nodeid)
            continue;
        asked++;
        if (fcntl(owner->fd, F_OFD_GETLK, &seen) == 0 &&
            (seen.l_type != lock->l_type || seen.l_start != lock->l_start || seen.l_len != lock->l_len))
            pid = owner->pid;
    }
    pthread_mutex_unlock(&table->mutex);
    return pid;
}

int32_t passthrough_getlk(struct request *request)
{
    struct passthrough *share = passthrough_of(request);
    const struct fuse_lk_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct handle *handle = passthrough_handle(request, in->fh, HANDLE_FILE);
    if (handle == NULL)
        return -EBADF;
    if (!passthrough_option(share, VHOSTFS_PASSTHROUGH_POSIX_LOCKS))
        return -EOPNOTSUPP; /* was not negotiated: the guest keeps its locks to itself */
    struct flock lock;
    if ((in->lk_flags & FUSE_LK_FLOCK) != 0 || in->lk.type == F_UNLCK || !lock_from_guest(&in->lk, &lock))
        return -EINVAL;
    struct lock_owner *owner = take_known(share->locks, handle->nodeid, in, false);
    /* A handle's own description never holds POSIX locks, so it asks for an owner that has none. */
    int error = fcntl(owner != NULL ? owner->fd : handle->fd, F_OFD_GETLK, &lock) == 0 ? 0 : -errno;
    if (owner != NULL)
        give_back(share->locks, owner);
    if (error != 0)
        return error;
    struct fuse_lk_out out = {.lk = {.start = in->lk.start, .end = in->lk.end}};
    lock_to_guest(&lock, &out.lk);
    if (lock.l_type != F_UNLCK && lock.l_pid == -1)
        out.lk.pid = holder_of(share->locks, handle->nodeid, &lock);
    return reply_bytes(request, &out, sizeof(out));
}

/* Wait for a lock on the pool. A signal ends the wait; it counts where the ring is being stopped, or the caller interrupted. */
static int wait_for_posix_lock(const struct request *request, int fd, struct flock *lock)
{
    while (!request_cancelled(request)) {
        if (fcntl(fd, F_OFD_SETLKW, lock) == 0)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
    return -EINTR;
}

static int32_t set_posix_lock(struct request *request, struct handle *handle, const struct fuse_lk_in *in,
                              bool wait)
{
    struct passthrough *share = passthrough_of(request);
    struct flock lock;
    if (!lock_from_guest(&in->lk, &lock))
        return -EINVAL;
    if (lock.l_type == F_UNLCK && lock.l_start == 0 && lock.l_len == 0) {
        passthrough_drop_posix_locks(request, handle, in->owner);
        return 0;
    }
    int error = 0;
    struct lock_owner *owner = NULL;
    if (lock.l_type == F_UNLCK)
        owner = take_known(share->locks, handle->nodeid, in, false);
    else
        error = take_owner(request, handle, in, &owner);
    if (owner == NULL)
        return error; /* or there is nothing to unlock */
    if (fcntl(owner->fd, F_OFD_SETLK, &lock) != 0)
        error = -errno;
    if (error == -EACCES)
        error = -EAGAIN;
    if (error == -EAGAIN && wait)
        error =
            request_may_sleep(request) ? wait_for_posix_lock(request, owner->fd, &lock) : REQUEST_WOULD_SLEEP;
    give_back(share->locks, owner);
    return error;
}

static int wait_for_flock(const struct request *request, int fd, int operation)
{
    while (!request_cancelled(request)) {
        if (flock(fd, operation) == 0)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
    return -EINTR;
}

static int32_t set_flock(struct request *request, const struct handle *handle, const struct fuse_lk_in *in,
                         bool wait)
{
    int operation;
    switch (in->lk.type) {
    case F_RDLCK:
        operation = LOCK_SH;
        break;
    case F_WRLCK:
        operation = LOCK_EX;
        break;
    case F_UNLCK:
        operation = LOCK_UN;
        break;
    default:
        return -EINVAL;
    }
    if (flock(handle->fd, operation | LOCK_NB) == 0)
        return 0;
    if (errno != EWOULDBLOCK || !wait)
        return -errno;
    return request_may_sleep(request) ? wait_for_flock(request, handle->fd, operation) : REQUEST_WOULD_SLEEP;
}

static int32_t set_lock(struct request *request, bool wait)
{
    struct passthrough *share = passthrough_of(request);
    const struct fuse_lk_in *in = request_argument(request, sizeof(*in));
    if (in == NULL)
        return -EIO;
    struct handle *handle = passthrough_handle(request, in->fh, HANDLE_FILE);
    if (handle == NULL)
        return -EBADF;
    bool whole_file = (in->lk_flags & FUSE_LK_FLOCK) != 0;
    if (!passthrough_option(share, whole_file ? VHOSTFS_PASSTHROUGH_FLOCK : VHOSTFS_PASSTHROUGH_POSIX_LOCKS))
        return -EOPNOTSUPP;
    return whole_file ? set_flock(request, handle, in, wait) : set_posix_lock(request, handle, in, wait);
}

int32_t passthrough_setlk(struct request *request)
{
    return set_lock(request, false);
}

int32_t passthrough_setlkw(struct request *request)
{
    return set_lock(request, true);
}
