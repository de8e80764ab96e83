/* Nodes by where they were last seen: (parent, name) -> node. See node_table.h.
 *
 * A name object belongs to whoever takes it out of node->name by an atomic exchange: that thread unlinks and
 * retires it.
 */
#define _GNU_SOURCE 1
#include "node_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t hash_name(const struct node_table *table, const struct node *parent, const char *name)
{
    return hash_bytes(table->seed ^ ((uint64_t)parent->index << 32), name, strlen(name));
}

static bool is_name(const struct node_name *name, const struct node *parent, const char *text)
{
    return name->parent == parent && strcmp(name->name, text) == 0;
}

/* Under the shard's lock. */
static struct node_name *find_name(const struct hash_shard *shard, uint64_t hash, const struct node *parent,
                                   const char *text)
{
    for (struct hash_link *link = hash_first(shard, hash); link != NULL; link = hash_next(link)) {
        struct node_name *name = (struct node_name *)(void *)link;
        if (is_name(name, parent, text))
            return name;
    }
    return NULL;
}

_Static_assert(offsetof(struct node_name, link) == 0, "a link of the index is its name");

static void free_name(struct node_name *name)
{
    node_drop_child(name->parent);
    free(name);
}

static bool release_name(struct epoch_retired *retired)
{
    struct node_name *name =
        (struct node_name *)(void *)((uint8_t *)retired - offsetof(struct node_name, retired));
    struct filesystem *filesystem = &name->parent->table->share->filesystem;
    free_name(name);
    filesystem_released(filesystem);
    return true;
}

static void retire_name(struct node_table *table, struct node_name *name)
{
    struct passthrough *share = table->share;
    filesystem_retire(&share->filesystem, &share->session->epochs, &name->retired, release_name);
}

/* Take a name, which the caller took out of its node, out of the index. */
static void unlink_name(struct node_table *table, struct node_name *name)
{
    struct hash_shard *shard = hash_lock(&table->names, name->link.hash);
    if (name->linked)
        hash_remove(shard, &name->link);
    name->linked = false;
    hash_unlock(shard);
}

/* The same, and retire it. */
static void discard(struct node_table *table, struct node_name *name)
{
    unlink_name(table, name);
    retire_name(table, name);
}

/* Take `name` out of its node, if it is still its name. */
static bool take_from_node(struct node_name *name)
{
    struct node_name *expected = name;
    return atomic_compare_exchange_strong(&name->node->name, &expected, NULL);
}

static struct node_name *make_name(struct node *node, struct node *parent, const char *text)
{
    size_t size = strlen(text) + 1;
    struct node_name *name = malloc(sizeof(*name) + size);
    if (name == NULL)
        return NULL;
    name->node = node;
    name->parent = parent;
    name->buried = false;
    memcpy(name->name, text, size);
    return name;
}

int node_set_name(struct node *node, struct node *parent, const char *text)
{
    struct node_table *table = node->table;
    const struct node_name *now = atomic_load_explicit(&node->name, memory_order_acquire);
    if (now != NULL && is_name(now, parent, text))
        return 0;
    if (node_is_root(node))
        return 0;
    if (!node_count_child(parent))
        return -ESTALE;
    struct node_name *name = make_name(node, parent, text);
    if (name == NULL) {
        node_drop_child(parent);
        return -ENOMEM;
    }
    uint64_t hash = hash_name(table, parent, text);
    struct hash_shard *shard = hash_lock(&table->names, hash);
    struct node_name *displaced = find_name(shard, hash, parent, text);
    if (displaced != NULL) {
        hash_remove(shard, &displaced->link);
        displaced->linked = false;
        if (!take_from_node(displaced))
            displaced = NULL; /* whoever took it waits for this lock, and retires it */
    }
    hash_insert(shard, &name->link, hash);
    name->linked = true;
    struct node_name *old = atomic_exchange(&node->name, name);
    hash_unlock(shard);
    if (displaced != NULL)
        retire_name(table, displaced);
    if (old != NULL)
        discard(table, old);
    return 0;
}

struct node *node_named(struct node_table *table, const struct node *parent, const char *text)
{
    uint64_t hash = hash_name(table, parent, text);
    struct hash_shard *shard = hash_lock(&table->names, hash);
    const struct node_name *name = find_name(shard, hash, parent, text);
    struct node *node = name != NULL ? name->node : NULL;
    /* Asked under the lock: a dead node keeps its name until it is released, and its slot until its name is
     * gone. */
    if (node != NULL && (atomic_load(&node->references) & NODE_DEAD) != 0)
        node = NULL;
    hash_unlock(shard);
    return node;
}

void node_clear_name(struct node *node, const struct node *parent, const char *text)
{
    struct node_name *name = atomic_load_explicit(&node->name, memory_order_acquire);
    if (name != NULL && is_name(name, parent, text) && take_from_node(name))
        discard(node->table, name);
}

void node_drop_name(struct node *node)
{
    struct node_name *name = atomic_exchange(&node->name, NULL);
    if (name != NULL)
        discard(node->table, name);
}

void node_bury_name(struct node *node)
{
    struct node_name *name = atomic_exchange(&node->name, NULL);
    if (name == NULL)
        return;
    unlink_name(node->table, name);
    name->buried = true;
    /* Who found the node before it died may go on with its name. */
    struct node_name *none = NULL;
    if (!atomic_compare_exchange_strong(&node->name, &none, name))
        retire_name(node->table, name);
}

void node_free_name(struct node *node)
{
    struct node_name *name = atomic_exchange(&node->name, NULL);
    if (name == NULL)
        return;
    if (name->buried)
        free_name(name);
    else
        discard(node->table, name);
}
