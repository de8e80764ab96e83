/* Passthrough: files that this host's kernel reads and writes by itself (FUSE_PASSTHROUGH, over /dev/fuse only).
 *
 * With the reply to an open the kernel is given the file behind it, and asks for data no more. All opens of a
 * file must be of one kind, as long as there is any, with one backing file (fs/fuse/iomode.c): so each file that
 * is open has an entry here, also one that the kernel would not take.
 */
#define _GNU_SOURCE 1
#include "passthrough.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#define BACKING_BUCKETS 1024

struct backing {
    struct backing *next;
    uint64_t nodeid;
    int32_t id; /* the kernel's; 0: the file is read and written here */
    uint32_t opens;
};

struct backing_table {
    struct passthrough *share;
    pthread_mutex_t lock;
    struct backing *buckets[BACKING_BUCKETS];
};

int backing_table_create(struct passthrough *share, struct backing_table **table)
{
    struct backing_table *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return -ENOMEM;
    made->share = share;
    pthread_mutex_init(&made->lock, NULL);
    *table = made;
    return 0;
}

static void drop(struct backing_table *table, struct backing *backing)
{
    if (backing->id > 0)
        (void)ioctl(table->share->session->fuse_fd, FUSE_DEV_IOC_BACKING_CLOSE, &backing->id);
    free(backing);
}

void backing_table_end(struct backing_table *table)
{
    pthread_mutex_lock(&table->lock);
    for (size_t i = 0; i < BACKING_BUCKETS; i++) {
        while (table->buckets[i] != NULL) {
            struct backing *backing = table->buckets[i];
            table->buckets[i] = backing->next;
            drop(table, backing);
        }
    }
    pthread_mutex_unlock(&table->lock);
}

void backing_table_destroy(struct backing_table *table)
{
    backing_table_end(table);
    pthread_mutex_destroy(&table->lock);
    free(table);
}

/* Under the lock. The link that points to the file's entry, or to NULL at the end of its bucket. */
static struct backing **find_link(struct backing_table *table, uint64_t nodeid)
{
    struct backing **link = &table->buckets[(nodeid * 0x9e3779b97f4a7c15ULL >> 40) % BACKING_BUCKETS];
    while (*link != NULL && (*link)->nodeid != nodeid)
        link = &(*link)->next;
    return link;
}

/* What the kernel does by itself keeps to no limit of ours. */
static bool is_limited(const struct passthrough *share)
{
    return atomic_load_explicit(&share->filesystem.limits[0], memory_order_relaxed) != NULL;
}

/* Under the lock: an entry for a file that is opened by `fd`. NULL: no memory. */
static struct backing *enter(struct backing_table *table, struct backing **link, uint64_t nodeid, int fd)
{
    struct backing *made = malloc(sizeof(*made));
    if (made == NULL)
        return NULL;
    struct fuse_backing_map map = {.fd = fd};
    /* The kernel keeps this thread's credentials to write with, whoever writes, and does not ask whose
     * set-user-id and set-group-id bits are to go: without CAP_FSETID they always do. */
    bool dropped = credentials_drop_fsetid();
    int id =
        is_limited(table->share) ? 0 : ioctl(table->share->session->fuse_fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
    if (dropped)
        credentials_regain_fsetid();
    *made = (struct backing){.next = *link, .nodeid = nodeid, .id = id > 0 ? id : 0};
    *link = made;
    return made;
}

static bool is_negotiated(const struct request *request)
{
    return passthrough_negotiated(passthrough_of(request), FUSE_INIT_PASSTHROUGH);
}

int passthrough_backing_open(struct request *request, uint64_t nodeid, int fd, struct fuse_open_out *out)
{
    if (!is_negotiated(request))
        return 0;
    struct backing_table *table = passthrough_of(request)->backing;
    pthread_mutex_lock(&table->lock);
    struct backing **link = find_link(table, nodeid);
    struct backing *backing = *link != NULL ? *link : enter(table, link, nodeid, fd);
    int32_t id = 0;
    if (backing != NULL) {
        backing->opens++;
        id = backing->id;
    }
    pthread_mutex_unlock(&table->lock);
    if (id > 0) {
        /* No other flags: the kernel takes none that speak of its cache, which it does not use. */
        out->open_flags = (out->open_flags & FOPEN_NOFLUSH) | FOPEN_PASSTHROUGH;
        out->backing_id = id;
    }
    return backing != NULL ? 0 : -ENOMEM;
}

void passthrough_backing_close(struct request *request, uint64_t nodeid)
{
    if (!is_negotiated(request))
        return;
    struct backing_table *table = passthrough_of(request)->backing;
    pthread_mutex_lock(&table->lock);
    struct backing **link = find_link(table, nodeid);
    struct backing *backing = *link;
    if (backing != NULL && --backing->opens == 0) {
        *link = backing->next;
        drop(table, backing);
    }
    pthread_mutex_unlock(&table->lock);
}
