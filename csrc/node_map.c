/* Nodes by index and by identity: slots, counts, the map, and the life of the table. See node_table.h. */
#define _GNU_SOURCE 1
#include "node_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define ROOT_INDEX 1

static struct epoch_domain *epochs_of(const struct node_table *table)
{
    return &table->share->session->epochs;
}

/* ---- Identity ---- */

static int64_t birth_of(const struct statx *attributes)
{
    if ((attributes->stx_mask & STATX_BTIME) == 0)
        return 0;
    return (int64_t)((uint64_t)attributes->stx_btime.tv_sec * 1000000000 + attributes->stx_btime.tv_nsec);
}

static uint64_t device_of(const struct statx *attributes)
{
    return (uint64_t)attributes->stx_dev_major << 32 | attributes->stx_dev_minor;
}

static uint32_t mount_id_of(const struct statx *attributes)
{
    return (attributes->stx_mask & STATX_MNT_ID) != 0 ? (uint32_t)attributes->stx_mnt_id : 0;
}

static void set_identity(struct node *node, const struct statx *attributes)
{
    node->device = device_of(attributes);
    node->inode = attributes->stx_ino;
    node->mount_id = mount_id_of(attributes);
    node->birth = birth_of(attributes);
    node->type = attributes->stx_mode & S_IFMT;
}

static bool same_key(const struct node *node, const struct statx *attributes)
{
    return node->inode == attributes->stx_ino && node->device == device_of(attributes) &&
           node->mount_id == mount_id_of(attributes);
}

/* The same number may come back for another file. */
static bool same_life(const struct node *node, const struct statx *attributes)
{
    return node->birth == birth_of(attributes) && node->type == (attributes->stx_mode & S_IFMT);
}

bool node_matches(const struct node *node, const struct statx *attributes)
{
    return same_key(node, attributes) && same_life(node, attributes);
}

bool node_is_root(const struct node *node)
{
    return node->index == ROOT_INDEX;
}

static uint64_t hash_identity(const struct node_table *table, const struct statx *attributes)
{
    uint64_t where = device_of(attributes) ^ (uint64_t)mount_id_of(attributes) << 16;
    return hash_numbers(table->seed, attributes->stx_ino, where);
}

/* ---- Slots ---- */

static uint32_t chunk_of(uint64_t index, uint64_t *place)
{
    uint64_t position = index + NODE_FIRST_CHUNK;
    uint32_t chunk = 63U - (uint32_t)__builtin_clzll(position) - (uint32_t)__builtin_ctz(NODE_FIRST_CHUNK);
    *place = position - ((uint64_t)NODE_FIRST_CHUNK << chunk);
    return chunk;
}

/* The slot of an index that was given out, whatever state it is in; NULL for any other index. */
static struct node *slot_at(struct node_table *table, uint64_t index)
{
    if (index == 0 || index >= atomic_load_explicit(&table->slots.used, memory_order_acquire))
        return NULL;
    uint64_t place;
    uint32_t chunk = chunk_of(index, &place);
    return &atomic_load_explicit(&table->slots.chunks[chunk], memory_order_acquire)[place];
}

struct node *node_at(struct node_table *table, uint64_t index)
{
    struct node *node = slot_at(table, index);
    if (node == NULL)
        return NULL;
    /* Acquire, pairs with the release in node_intern: who sees the count sees the identity. */
    uint64_t references = atomic_load_explicit(&node->references, memory_order_acquire);
    return (references & NODE_DEAD) == 0 && (references & NODE_LOOKUPS) != 0 ? node : NULL;
}

/* A slot that was never used. Under slots.lock. */
static struct node *fresh_slot(struct node_table *table)
{
    struct node_slots *slots = &table->slots;
    uint32_t index = atomic_load_explicit(&slots->used, memory_order_relaxed);
    uint64_t place;
    uint32_t chunk = chunk_of(index, &place);
    if (chunk >= NODE_CHUNKS)
        return NULL;
    struct node *nodes = atomic_load_explicit(&slots->chunks[chunk], memory_order_relaxed);
    if (nodes == NULL) {
        nodes = calloc((size_t)NODE_FIRST_CHUNK << chunk, sizeof(struct node));
        if (nodes == NULL)
            return NULL;
        atomic_store_explicit(&slots->chunks[chunk], nodes, memory_order_release);
    }
    nodes[place].index = index;
    nodes[place].table = table;
    atomic_store_explicit(&nodes[place].references, NODE_DEAD, memory_order_relaxed);
    atomic_store_explicit(&slots->used, index + 1, memory_order_release);
    return &nodes[place];
}

/* A slot for a new node, not yet published; NULL: no memory. */
static struct node *take_slot(struct node_table *table)
{
    struct node_slots *slots = &table->slots;
    pthread_mutex_lock(&slots->lock);
    struct node *node;
    if (slots->free != 0) {
        node = slot_at(table, slots->free);
        slots->free = node->next_free;
    } else {
        node = fresh_slot(table);
    }
    pthread_mutex_unlock(&slots->lock);
    if (node == NULL)
        return NULL;
    node->generation++;
    atomic_store_explicit(&node->fd, -1, memory_order_relaxed);
    atomic_store_explicit(&node->recently, false, memory_order_relaxed);
    return node;
}

static void give_slot_back(struct node *node)
{
    struct node_slots *slots = &node->table->slots;
    pthread_mutex_lock(&slots->lock);
    node->next_free = slots->free;
    slots->free = node->index;
    pthread_mutex_unlock(&slots->lock);
}

/* ---- Counts ---- */

static void unmap(struct node *node)
{
    struct hash_shard *shard = hash_lock(&node->table->map, node->link.hash);
    if (node->mapped)
        hash_remove(shard, &node->link);
    node->mapped = false;
    hash_unlock(shard);
}

/* No reader can see the node. False: a request on the pool still holds it, or a name below it is not yet
 * freed. */
static bool release_node(struct epoch_retired *retired)
{
    struct node *node = (struct node *)(void *)((uint8_t *)retired - offsetof(struct node, retired));
    /* Acquire, pairs with the release in request_finish. */
    if (atomic_load_explicit(&node->pins, memory_order_acquire) != 0 ||
        atomic_load_explicit(&node->references, memory_order_acquire) != NODE_DEAD)
        return false;
    node_free_name(node);
    node_close_descriptor(node);
    free(atomic_exchange_explicit(&node->file_handle, NULL, memory_order_relaxed));
    struct filesystem *filesystem = &node->table->share->filesystem;
    give_slot_back(node);
    filesystem_released(filesystem);
    return true;
}

/* For the one who set NODE_DEAD. */
static void bury(struct node *node)
{
    unmap(node);
    node_bury_name(node);
    node_leave_clock(node);
    filesystem_retire(&node->table->share->filesystem, epochs_of(node->table), &node->retired, release_node);
}

static void bury_if_unused(struct node *node)
{
    uint64_t unused = 0;
    if (atomic_compare_exchange_strong(&node->references, &unused, NODE_DEAD))
        bury(node);
}

bool node_count_lookup(struct node *node)
{
    uint64_t references = atomic_load_explicit(&node->references, memory_order_relaxed);
    do {
        if ((references & NODE_DEAD) != 0)
            return false;
        if ((references & NODE_LOOKUPS) == NODE_LOOKUPS)
            return true;
    } while (!atomic_compare_exchange_weak(&node->references, &references, references + 1));
    return true;
}

bool node_count_child(struct node *node)
{
    uint64_t references = atomic_load_explicit(&node->references, memory_order_relaxed);
    do {
        if ((references & NODE_DEAD) != 0 || (references & NODE_CHILDREN) == NODE_CHILDREN)
            return false;
    } while (!atomic_compare_exchange_weak(&node->references, &references, references + NODE_CHILD));
    return true;
}

void node_drop_child(struct node *node)
{
    if (atomic_fetch_sub(&node->references, NODE_CHILD) == NODE_CHILD)
        bury_if_unused(node);
}

void node_forget(struct request *request, uint64_t nodeid, uint64_t lookups)
{
    struct passthrough *share = passthrough_of(request);
    if (nodeid_mount(nodeid) != share->mount)
        return;
    struct node *node = node_at(share->nodes, nodeid_index(nodeid));
    if (node == NULL)
        return;
    uint64_t references = atomic_load_explicit(&node->references, memory_order_relaxed);
    uint64_t left;
    do {
        uint64_t counted = references & NODE_LOOKUPS;
        if ((references & NODE_DEAD) != 0 || counted == NODE_LOOKUPS)
            return;
        left = references - (lookups < counted ? lookups : counted);
    } while (!atomic_compare_exchange_weak(&node->references, &references, left));
    if (left == 0)
        bury_if_unused(node);
}

/* ---- The map ---- */

/* A node of this identity with one more lookup counted, or NULL. Under the shard's lock. */
static struct node *count_known(struct hash_shard *shard, uint64_t hash, const struct statx *attributes)
{
    struct hash_link *next;
    for (struct hash_link *link = hash_first(shard, hash); link != NULL; link = next) {
        next = hash_next(link);
        struct node *node = (struct node *)(void *)link;
        if (!same_key(node, attributes))
            continue;
        if (same_life(node, attributes) && node_count_lookup(node))
            return node;
        /* Dying, or its number names another file now. */
        if (!node_is_root(node)) {
            hash_remove(shard, link);
            node->mapped = false;
        }
    }
    return NULL;
}

_Static_assert(offsetof(struct node, link) == 0, "a link of the map is its node");

struct node *node_intern(struct node_table *table, const struct statx *attributes, bool *created)
{
    uint64_t hash = hash_identity(table, attributes);
    struct hash_shard *shard = hash_lock(&table->map, hash);
    struct node *node = count_known(shard, hash, attributes);
    *created = node == NULL;
    if (node == NULL) {
        node = take_slot(table);
        if (node != NULL) {
            set_identity(node, attributes);
            node->mapped = true;
            hash_insert(shard, &node->link, hash);
            /* Release: who finds it by index sees what it is. */
            atomic_store_explicit(&node->references, 1, memory_order_release);
        }
    }
    hash_unlock(shard);
    return node;
}

/* ---- The table's life ---- */

static int make_root(struct node_table *table)
{
    int fd = openat(table->share->options.root_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    struct statx attributes;
    if (statx(fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, NODE_STATX_MASK, &attributes) != 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    bool created;
    struct node *root = node_intern(table, &attributes, &created);
    if (root == NULL) {
        close(fd);
        return -ENOMEM;
    }
    /* Its count never comes down again, and its descriptor is not among those that the clock sees. */
    atomic_store(&root->references, NODE_LOOKUPS);
    atomic_store(&root->fd, fd);
    return 0;
}

int node_table_create(struct passthrough *share, struct node_table **result)
{
    struct node_table *table = aligned_alloc(alignof(struct node_table), sizeof(*table));
    if (table == NULL)
        return -ENOMEM;
    memset(table, 0, sizeof(*table));
    table->share = share;
    atomic_init(&table->slots.used, ROOT_INDEX);
    pthread_mutex_init(&table->slots.lock, NULL);
    pthread_rwlockattr_t writers_first;
    pthread_rwlockattr_init(&writers_first);
    pthread_rwlockattr_setkind_np(&writers_first, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&table->renaming, &writers_first);
    pthread_rwlockattr_destroy(&writers_first);
    int error = getrandom(&table->seed, sizeof(table->seed), 0) == sizeof(table->seed) ? 0 : -EIO;
    int map_error = hash_index_init(&table->map);
    int names_error = hash_index_init(&table->names);
    int descriptors_error = node_descriptors_init(table);
    if (error == 0)
        error = map_error != 0 ? map_error : names_error != 0 ? names_error : descriptors_error;
    if (error == 0)
        error = make_root(table);
    if (error != 0) {
        node_table_destroy(table);
        return error;
    }
    *result = table;
    return 0;
}

void node_table_end(struct node_table *table)
{
    uint32_t used = atomic_load_explicit(&table->slots.used, memory_order_acquire);
    for (uint32_t index = ROOT_INDEX + 1; index < used; index++) {
        struct node *node = slot_at(table, index);
        uint64_t references = atomic_load(&node->references);
        uint64_t dead;
        do {
            dead = NODE_DEAD | (references & NODE_CHILDREN);
        } while ((references & NODE_DEAD) == 0 &&
                 !atomic_compare_exchange_weak(&node->references, &references, dead));
        if ((references & NODE_DEAD) != 0)
            continue;
        /* Names go first: two directories that were moved below one another would keep each other for ever. */
        node_drop_name(node);
        bury(node);
    }
    node_descriptors_end(table);
}

void node_table_destroy(struct node_table *table)
{
    struct node *root = slot_at(table, ROOT_INDEX);
    if (root != NULL)
        close(atomic_load(&root->fd));
    node_descriptors_destroy(table);
    hash_index_destroy(&table->names);
    hash_index_destroy(&table->map);
    for (size_t i = 0; i < NODE_CHUNKS; i++)
        free(atomic_load(&table->slots.chunks[i]));
    pthread_rwlock_destroy(&table->renaming);
    pthread_mutex_destroy(&table->slots.lock);
    free(table);
}
