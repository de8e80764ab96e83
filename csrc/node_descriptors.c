/* Descriptors of nodes: opened when needed, given up beyond the budget, opened again. See node_table.h and
 * nodes.h.
 *
 * A descriptor that is taken from its node is closed when no reader can be using it and no request on the
 * pool pins the node; so one that was read inside an epoch, or from a pinned node, stays open for the
 * request.
 */
#define _GNU_SOURCE 1
#include "node_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLIMB_LIMIT                                                                                          \
    4096              /* directories above a node that are tried: names may be out of date and form a ring */
#define EVICT_BATCH 8 /* descriptors given up at once */
#define EVICT_TRIES 64U /* nodes looked at for that */
#define STAT_ATTEMPTS 4 /* a name that changes under us is read again */
/* Descriptors given up that may wait to be closed, beside a sixteenth of the budget. */
#define RETIRED_DESCRIPTORS 32
/* A descriptor that was opened by name before that name went, and not asked yet whether it is the node's, stands in
 * node.fd as a number below -1: mostly the guest forgets the node next, and nobody ever needs to know. */
#define UNVERIFIED(fd) (-2 - (fd))

struct retired_descriptor {
    struct epoch_retired retired;
    struct passthrough *share;
    struct node *node; /* NULL: a mount's */
    int fd;
};

static uint64_t most_retired(const struct node_descriptors *descriptors)
{
    return RETIRED_DESCRIPTORS + descriptors->budget / 16;
}

int node_descriptors_init(struct node_table *table)
{
    struct node_descriptors *descriptors = &table->descriptors;
    uint64_t budget = table->share->options.descriptor_budget;
    pthread_mutex_init(&descriptors->lock, NULL);
    descriptors->budget = budget > 1U << 24 ? 1U << 24 : (uint32_t)budget;
    atomic_init(&descriptors->patience, EVICT_TRIES);
    descriptors->holders = calloc(descriptors->budget, sizeof(struct node *));
    atomic_fetch_add(&table->share->session->epochs.most_descriptors, most_retired(descriptors));
    return descriptors->holders != NULL ? 0 : -ENOMEM;
}

/* ---- Keeping and giving up ---- */

/* Take the node off the clock, if it is there. Under descriptors.lock. */
static void leave_clock(struct node *node)
{
    struct node_descriptors *descriptors = &node->table->descriptors;
    if (node->holder == 0)
        return;
    struct node *last = descriptors->holders[--descriptors->count];
    descriptors->holders[node->holder - 1] = last;
    last->holder = node->holder;
    node->holder = 0;
}

/* The count of descriptors that wait to be closed: until then no other reader may see them. */
static _Atomic uint64_t *waiting_descriptors(const struct node_table *table)
{
    return &table->share->session->epochs.descriptors;
}

void node_leave_clock(struct node *node)
{
    struct node_descriptors *descriptors = &node->table->descriptors;
    /* Barrier "dead before asked", pairs with the one in publish_descriptor. */
    if (atomic_load(&node->fd) == -1)
        return;
    pthread_mutex_lock(&descriptors->lock);
    if (node->holder != 0)
        atomic_fetch_add_explicit(waiting_descriptors(node->table), 1, memory_order_relaxed);
    leave_clock(node);
    pthread_mutex_unlock(&descriptors->lock);
}

void node_close_descriptor(struct node *node)
{
    int fd = atomic_load_explicit(&node->fd, memory_order_relaxed);
    if (fd == -1)
        return;
    atomic_store_explicit(&node->fd, -1, memory_order_relaxed);
    close(fd < 0 ? UNVERIFIED(fd) : fd);
    atomic_fetch_sub_explicit(waiting_descriptors(node->table), 1, memory_order_relaxed);
}

/* The node's descriptor is this one. Under descriptors.lock, with room. */
static void put_descriptor(struct node *node, int fd)
{
    struct node_descriptors *descriptors = &node->table->descriptors;
    atomic_store_explicit(&node->recently, true, memory_order_relaxed);
    atomic_store(&node->fd, fd);
    /* Barrier "put before asked", pairs with the one in node_leave_clock: either we see that the node died, or who buried
     * it sees the descriptor, and waits for the lock. */
    if ((atomic_load(&node->references) & NODE_DEAD) != 0) {
        atomic_fetch_add_explicit(waiting_descriptors(node->table), 1, memory_order_relaxed);
        return;
    }
    descriptors->holders[descriptors->count] = node;
    node->holder = ++descriptors->count;
}

/* Make the node's descriptor this one, verified or not, if there is room. The node's descriptor, as node.fd has it; or
 * -1: no room. */
static int publish_descriptor(struct node *node, int fd)
{
    struct node_descriptors *descriptors = &node->table->descriptors;
    pthread_mutex_lock(&descriptors->lock);
    int kept = atomic_load(&node->fd);
    if (kept == -1 && descriptors->count < descriptors->budget) {
        put_descriptor(node, fd);
        kept = fd;
    }
    pthread_mutex_unlock(&descriptors->lock);
    return kept;
}

static bool release_descriptor(struct epoch_retired *retired)
{
    struct retired_descriptor *descriptor = (struct retired_descriptor *)(void *)retired;
    /* Acquire, pairs with the release in request_finish. The slot may hold another node by now: then this
     * waits a little for nothing. */
    const struct node *node = descriptor->node;
    if (node != NULL && atomic_load_explicit(&node->pins, memory_order_acquire) != 0)
        return false;
    struct passthrough *share = descriptor->share;
    close(descriptor->fd);
    atomic_fetch_sub_explicit(&share->session->epochs.descriptors, 1, memory_order_relaxed);
    free(descriptor);
    filesystem_released(&share->filesystem);
    return true;
}

_Static_assert(offsetof(struct retired_descriptor, retired) == 0,
               "a retired descriptor starts with what is retired");

/* Close a descriptor of the node when nobody can be using it any more. */
static void retire_descriptor(struct passthrough *share, struct retired_descriptor *descriptor,
                              struct node *node, int fd)
{
    struct epoch_domain *epochs = &share->session->epochs;
    descriptor->share = share;
    descriptor->fd = fd;
    descriptor->node = node;
    atomic_fetch_add_explicit(&epochs->descriptors, 1, memory_order_relaxed);
    filesystem_retire(&share->filesystem, epochs, &descriptor->retired, release_descriptor);
}

void node_descriptors_end(struct node_table *table)
{
    struct node_descriptors *descriptors = &table->descriptors;
    pthread_mutex_lock(&descriptors->lock);
    for (;;) {
        struct retired_descriptor *descriptor = malloc(sizeof(*descriptor));
        int fd = descriptor != NULL ? node_take_mount(table) : -1;
        if (fd < 0) {
            free(descriptor); /* without memory, the next session has use for the rest too */
            break;
        }
        retire_descriptor(table->share, descriptor, NULL, fd);
    }
    pthread_mutex_unlock(&descriptors->lock);
}

void node_descriptors_destroy(struct node_table *table)
{
    struct node_descriptors *descriptors = &table->descriptors;
    for (int fd = node_take_mount(table); fd >= 0; fd = node_take_mount(table))
        close(fd);
    atomic_fetch_sub(&table->share->session->epochs.most_descriptors, most_retired(descriptors));
    free(descriptors->holders);
    pthread_mutex_destroy(&descriptors->lock);
}

/* Use a descriptor for this request alone. */
static int lend_descriptor(struct node *node, int fd)
{
    struct retired_descriptor *descriptor = malloc(sizeof(*descriptor));
    if (descriptor == NULL) {
        close(fd);
        return -ENOMEM;
    }
    retire_descriptor(node->table->share, descriptor, node, fd);
    return fd;
}

int node_keep_descriptor(struct node *node, int fd)
{
    int kept = publish_descriptor(node, fd);
    if (kept == -1 && node_evict(node->table, EVICT_BATCH) > 0)
        kept = publish_descriptor(node, fd);
    if (kept < 0)
        return lend_descriptor(node, fd);
    if (kept != fd)
        close(fd);
    return kept;
}

/* Whether the node had that very descriptor, as node.fd had it, and has it no more. */
static bool give_up(struct node *node, int fd)
{
    struct node_descriptors *descriptors = &node->table->descriptors;
    struct retired_descriptor *descriptor = malloc(sizeof(*descriptor));
    if (descriptor == NULL)
        return false;
    pthread_mutex_lock(&descriptors->lock);
    bool given_up = node->holder != 0 && atomic_compare_exchange_strong(&node->fd, &fd, -1);
    if (given_up)
        leave_clock(node);
    pthread_mutex_unlock(&descriptors->lock);
    if (!given_up) {
        free(descriptor);
        return false;
    }
    retire_descriptor(node->table->share, descriptor, node, fd < 0 ? UNVERIFIED(fd) : fd);
    return true;
}

/* Whether an open descriptor is the node's file: 0, or -ESTALE, ... */
static int check_same(const struct node *node, int fd)
{
    struct statx attributes;
    if (statx(fd, "", AT_EMPTY_PATH, NODE_STATX_MASK, &attributes) != 0)
        return -errno;
    return node_matches(node, &attributes) ? 0 : -ESTALE;
}

/* The node's descriptor, verified by now, or -1: what was opened by name and is another's is given up. Inside an epoch. */
static int verified_descriptor(struct node *node)
{
    int fd = atomic_load_explicit(&node->fd, memory_order_acquire);
    if (fd >= -1)
        return fd;
    int verified = UNVERIFIED(fd);
    if (check_same(node, verified) != 0) {
        give_up(node, fd);
        return -1;
    }
    /* Who was faster has verified it too, or given it up to whoever wants it next: it stays open for this request. */
    atomic_compare_exchange_strong(&node->fd, &fd, verified);
    return verified;
}

/* The next node whose descriptor nobody used since the clock's hand passed it last; NULL: none has one. */
static struct node *next_victim(struct node_descriptors *descriptors)
{
    struct node *victim = NULL;
    pthread_mutex_lock(&descriptors->lock);
    for (uint64_t left = 2ULL * descriptors->count; left > 0 && victim == NULL; left--) {
        struct node *node = descriptors->holders[descriptors->hand++ % descriptors->count];
        if (!atomic_exchange_explicit(&node->recently, false, memory_order_relaxed))
            victim = node;
    }
    pthread_mutex_unlock(&descriptors->lock);
    return victim;
}

/* Whether a node that gives up its descriptor fd can be opened again: asked of the host, as a name may be out of
 * date and an unlinked file would be gone for good. */
static bool can_be_found_again(struct node_table *table, struct node *node, int fd)
{
    struct statx attributes;
    if (node_have_file_handle(table, node, fd, fd, ""))
        return statx(fd, "", AT_EMPTY_PATH, STATX_NLINK, &attributes) == 0 && attributes.stx_nlink > 0;
    const struct node_name *name = atomic_load_explicit(&node->name, memory_order_acquire);
    if (name == NULL)
        return false;
    int parent_fd = atomic_load_explicit(&name->parent->fd, memory_order_acquire);
    if (parent_fd < 0)
        return true;
    return statx(parent_fd, name->name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, NODE_STATX_MASK,
                 &attributes) == 0 &&
           node_matches(node, &attributes);
}

uint32_t node_evict(struct node_table *table, uint32_t wanted)
{
    /* Where all that is open was unlinked, looking for more costs ever less. */
    uint32_t patience = atomic_load_explicit(&table->descriptors.patience, memory_order_relaxed);
    uint32_t evicted = 0;
    for (uint32_t tries = 0; tries < patience && evicted < wanted; tries++) {
        struct node *node = next_victim(&table->descriptors);
        if (node == NULL)
            break;
        int fd = verified_descriptor(node);
        if (fd >= 0 && can_be_found_again(table, node, fd) && give_up(node, fd))
            evicted++;
    }
    uint32_t next = evicted > 0 ? EVICT_TRIES : patience > 2 ? patience / 2 : 1;
    if (next != patience)
        atomic_store_explicit(&table->descriptors.patience, next, memory_order_relaxed);
    return evicted;
}

bool node_table_relieve(struct node_table *table)
{
    return node_evict(table, EVICT_BATCH) > 0;
}

/* ---- Opening ---- */

/* The descriptor that the node has, if any; tells the clock that it is used. */
static int present_descriptor(struct node *node)
{
    int fd = atomic_load_explicit(&node->fd, memory_order_acquire);
    if (fd >= 0 && !atomic_load_explicit(&node->recently, memory_order_relaxed))
        atomic_store_explicit(&node->recently, true, memory_order_relaxed);
    return fd;
}

/* Renames change a name on the host and then here: wait for those that are in between. */
static void wait_for_renames(struct node_table *table)
{
    pthread_rwlock_wrlock(&table->renaming);
    pthread_rwlock_unlock(&table->renaming);
}

/* A request on the pool that has left its epoch looks at names in one of its own. True: leave_epoch is to
 * follow; not where a caller has entered already, who goes on in it. */
static bool enter_epoch(struct request *request)
{
    if (!request->on_pool || request->inside_epoch)
        return false;
    epoch_enter(&request->session->epochs, request->reader);
    request->inside_epoch = true;
    return true;
}

static void leave_epoch(struct request *request, bool entered)
{
    if (!entered)
        return;
    epoch_leave(&request->session->epochs, request->reader);
    request->inside_epoch = false;
}

/* An O_PATH descriptor that the caller owns, if it is the node's. Takes fd, or a negative one with errno set.
 */
static int take_if_same(const struct node *node, int fd)
{
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? -ESTALE : node_open_error(errno);
    int error = check_same(node, fd);
    if (error == 0)
        return fd;
    close(fd);
    return error;
}

static int open_by_name(const struct node_name *name, int parent_fd)
{
    return take_if_same(name->node, openat(parent_fd, name->name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
}

static int open_by_file_handle(struct node *node)
{
    struct node_file_handle *kept = atomic_load_explicit(&node->file_handle, memory_order_acquire);
    int fd = take_if_same(node, node_open_file_handle(node, kept, O_PATH | O_NOFOLLOW));
    if (fd >= 0)
        atomic_store_explicit(&kept->verified, true, memory_order_relaxed);
    return fd;
}

/* The way to a node: the names of it and the directories above it, up to one that is open. */
struct way {
    uint32_t length;
    int fd; /* of the directory above the last name; good inside the epoch */
    const struct node_name *names[CLIMB_LIMIT];
};

static bool find_way(const struct node *node, struct way *way)
{
    for (way->length = 0; way->length < CLIMB_LIMIT;) {
        const struct node_name *name = atomic_load_explicit(&node->name, memory_order_acquire);
        if (name == NULL)
            return false;
        way->names[way->length++] = name;
        node = name->parent;
        way->fd = present_descriptor(name->parent);
        if (way->fd >= 0)
            return true;
    }
    return false;
}

/* Open what is on the way, the node last. The directories in between are kept where there is room, else
 * closed again: they are not to push others out, nor to pile up until the epoch ends. A descriptor that the
 * caller owns. */
static int go_way(const struct way *way)
{
    int fd = way->fd;
    bool ours = false;
    for (uint32_t left = way->length; left > 0; left--) {
        const struct node_name *name = way->names[left - 1];
        int next = open_by_name(name, fd);
        if (ours)
            close(fd);
        if (next == -ESTALE && left > 1)
            next = open_by_file_handle(name->node); /* the host moved a directory in between */
        if (next < 0 || left == 1)
            return next;
        fd = publish_descriptor(name->node, next);
        ours = fd < 0;
        if (ours)
            fd = next;
        else if (fd != next)
            close(next);
    }
    return -ESTALE;
}

static int open_by_way(const struct node *node)
{
    struct way way;
    return find_way(node, &way) ? go_way(&way) : -ESTALE;
}

/* A file that the guest has open is there, wherever its name went. */
static int open_by_open_file(struct request *request, const struct node *node)
{
    int fd = handle_any_descriptor(request, node_id(node));
    return fd >= 0 ? take_if_same(node, open(descriptor_path(fd).text, O_PATH | O_CLOEXEC)) : -ESTALE;
}

/* By the ways there are, the most certain first. */
static int open_descriptor(struct request *request, struct node *node)
{
    int present = verified_descriptor(node);
    if (present >= 0)
        return present;
    int fd = open_by_file_handle(node);
    if (fd == -ESTALE)
        fd = open_by_way(node);
    if (fd == -ESTALE) {
        wait_for_renames(node->table);
        present = verified_descriptor(node);
        if (present >= 0)
            return present;
        fd = open_by_way(node);
    }
    if (fd == -ESTALE)
        fd = open_by_open_file(request, node);
    return fd >= 0 ? node_keep_descriptor(node, fd) : fd;
}

int node_descriptor(struct request *request, struct node *node)
{
    int fd = present_descriptor(node);
    if (fd >= 0)
        return fd;
    bool entered = enter_epoch(request);
    fd = open_descriptor(request, node);
    leave_epoch(request, entered);
    return fd;
}

void node_hold(struct node *node, int parent_fd, const char *name)
{
    int fd = present_descriptor(node);
    if (fd < -1)
        fd = verified_descriptor(node); /* of an attempt before this */
    if (fd >= 0)
        return;
    fd = openat(parent_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return;
    int kept = publish_descriptor(node, UNVERIFIED(fd));
    if (kept == -1 && node_evict(node->table, EVICT_BATCH) > 0)
        kept = publish_descriptor(node, UNVERIFIED(fd));
    if (kept != UNVERIFIED(fd))
        close(fd);
}

/* By a file handle that was verified: it costs less than the way through the node's descriptor. -ESTALE: not
 * so. */
static int open_verified(struct node *node, int flags)
{
    const struct node_file_handle *kept = atomic_load_explicit(&node->file_handle, memory_order_acquire);
    if (kept == NULL || !atomic_load_explicit(&kept->verified, memory_order_relaxed) || !kept->lasting)
        return -ESTALE;
    int fd = node_open_file_handle(node, kept, flags);
    return fd >= 0 ? fd : node_open_error(errno);
}

/* By the magic link of the node's descriptor. */
static int open_through_descriptor(struct request *request, struct node *node, int flags)
{
    int fd = node_descriptor(request, node);
    if (fd < 0)
        return fd;
    int opened = open(descriptor_path(fd).text, flags | O_CLOEXEC);
    return opened >= 0 ? opened : node_open_error(errno);
}

int node_open(struct request *request, struct node *node, int flags)
{
    const int refused = O_CREAT | O_EXCL | O_NOFOLLOW | O_PATH | (O_TMPFILE & ~O_DIRECTORY);
    if (S_ISLNK(node->type))
        return -ELOOP;
    if (!S_ISREG(node->type) && !S_ISDIR(node->type))
        return -EBADF;
    flags = (flags & ~refused) | O_NOCTTY;
    /* Both lead to that very file, whose type is known: no device or FIFO is ever opened. */
    bool entered = enter_epoch(request);
    int fd = open_verified(node, flags);
    if (fd == -ESTALE || fd == -EPERM)
        fd = open_through_descriptor(request, node, flags);
    leave_epoch(request, entered);
    return fd;
}

/* ---- Asking ---- */

static int stat_descriptor(int fd, struct statx *attributes)
{
    return statx(fd, "", AT_EMPTY_PATH, NODE_STATX_MASK, attributes) == 0 ? 0 : -errno;
}

/* Ask by parent and name. -ESTALE: another file, or none, is there. */
static int stat_name(struct request *request, const struct node *node, const struct node_name *name,
                     struct statx *attributes)
{
    int parent_fd = node_descriptor(request, name->parent);
    if (parent_fd < 0)
        return parent_fd;
    if (statx(parent_fd, name->name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, NODE_STATX_MASK, attributes) != 0)
        return errno == ENOENT || errno == ENOTDIR ? -ESTALE : -errno;
    return node_matches(node, attributes) ? 0 : -ESTALE;
}

static bool has_room(struct node_descriptors *descriptors)
{
    pthread_mutex_lock(&descriptors->lock);
    bool room = descriptors->count < descriptors->budget;
    pthread_mutex_unlock(&descriptors->lock);
    return room;
}

/* A node that is asked again and again is asked for half the price by a descriptor: give it one the second
 * time, if no other node has to give its own up for that. */
static void note_asked(struct request *request, struct node *node)
{
    struct node_descriptors *descriptors = &node->table->descriptors;
    bool again = atomic_load_explicit(&node->recently, memory_order_relaxed);
    atomic_store_explicit(&node->recently, !again, memory_order_relaxed);
    if (!again || !has_room(descriptors))
        return;
    const struct node_name *name = atomic_load_explicit(&node->name, memory_order_acquire);
    int parent_fd = name != NULL ? node_descriptor(request, name->parent) : -ESTALE;
    int fd = parent_fd >= 0 ? open_by_name(name, parent_fd) : -ESTALE;
    if (fd >= 0 && publish_descriptor(node, fd) != fd)
        close(fd);
}

/* Ask a node without descriptor. */
static int stat_closed(struct request *request, struct node *node, struct statx *attributes)
{
    for (uint32_t attempt = 0; attempt < STAT_ATTEMPTS; attempt++) {
        const struct node_name *name = atomic_load_explicit(&node->name, memory_order_acquire);
        int error = name != NULL ? stat_name(request, node, name, attributes) : -ESTALE;
        if (error != -ESTALE)
            return error;
        /* A rename may be under way, or the name is about to go and the node got its descriptor. */
        wait_for_renames(node->table);
        int fd = atomic_load_explicit(&node->fd, memory_order_acquire);
        if (fd >= 0)
            return stat_descriptor(fd, attributes);
        if (fd != -1 || atomic_load_explicit(&node->name, memory_order_acquire) == name)
            break;
    }
    int fd = node_descriptor(request, node);
    return fd >= 0 ? stat_descriptor(fd, attributes) : fd;
}

int node_stat(struct request *request, struct node *node, struct statx *attributes)
{
    int fd = present_descriptor(node);
    if (fd >= 0)
        return stat_descriptor(fd, attributes);
    bool entered = enter_epoch(request);
    int error = stat_closed(request, node, attributes);
    if (error == 0)
        note_asked(request, node);
    leave_epoch(request, entered);
    return error;
}

/* Ask by parent and name, and then whether that was the node. */
static int read_named_link(struct request *request, const struct node *node, char *target, size_t size)
{
    const struct node_name *name = atomic_load_explicit(&node->name, memory_order_acquire);
    int parent_fd = name != NULL ? node_descriptor(request, name->parent) : -ESTALE;
    if (parent_fd < 0)
        return parent_fd;
    ssize_t length = readlinkat(parent_fd, name->name, target, size);
    struct statx attributes;
    int error = length >= 0 ? stat_name(request, node, name, &attributes) : -ESTALE;
    return error != 0 ? error : (int)length;
}

int node_read_link(struct request *request, struct node *node, char *target, size_t size)
{
    if (!S_ISLNK(node->type))
        return -EINVAL;
    int fd = present_descriptor(node);
    if (fd < 0) {
        bool entered = enter_epoch(request);
        int length = read_named_link(request, node, target, size);
        leave_epoch(request, entered);
        if (length != -ESTALE)
            return length;
        fd = node_descriptor(request, node);
        if (fd < 0)
            return fd;
    }
    ssize_t length = readlinkat(fd, "", target, size);
    return length >= 0 ? (int)length : -errno;
}
