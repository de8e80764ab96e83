/* The insides of the node table, for its five files only:
 *
 *   node_map.c          slots, lookup counts, (device, inode, mount id) -> node, the table's life
 *   node_names.c        (parent, name) -> node: where a node was last seen
 *   node_descriptors.c  O_PATH descriptors: opened, given up beyond the budget, opened again
 *   node_file_handles.c file handles, and descriptors on mounts to open them with
 *   nodes.c             what the operations see (nodes.h)
 *
 * Life of a node. A slot is taken and put into the map under the lock of its identity's shard, with one
 * lookup counted. It lives while the guest has lookups of it, or names below it name it as their parent. Both
 * are counted in one word, so that the last to go, and nobody else, sets NODE_DEAD, takes the node off the
 * map and retires it. A dead node is counted no more; its slot is used again, with the next generation, when
 * no reader can see it and nobody pins it. Slots never move and are never freed while the table lives, so a
 * pointer that is read inside an epoch may always be followed.
 *
 * Locks: map shard, then slots.lock; name shard; descriptors.lock. None is held while another of its kind is
 * taken, or while the host is called (but for the first descriptor on a mount). `renaming` is shared by
 * renames under way; whoever takes it holds no other.
 */
#pragma once
#include "hash_index.h"
#include "nodes.h"
#include "passthrough.h"

#include <fcntl.h>
#include <pthread.h>

/* node.references: lookups in the low half, names below it above, and the flag that nobody may count any
 * more. */
#define NODE_LOOKUPS                                                                                         \
    UINT32_MAX /* a count that has reached this stays: the node lives as long as the session */
#define NODE_CHILD (1ULL << 32)
#define NODE_CHILDREN (0x7fffffffULL << 32)
#define NODE_DEAD (1ULL << 63)

struct node_name;
struct node_file_handle;

struct node {
    union {
        struct hash_link link; /* in the map, while `mapped` */
        struct epoch_retired retired;
    };
    struct node_table *table;
    /* Identity: set before the node is published, the same until its slot is used again. */
    uint64_t device;
    uint64_t inode;
    int64_t birth; /* nanoseconds; 0: the file system does not say */
    uint32_t mount_id;
    uint32_t index;
    uint32_t generation;
    uint16_t type;         /* S_IFMT bits */
    bool mapped;           /* under the map shard's lock */
    _Atomic bool recently; /* the descriptor was used since the clock's hand last passed */
    _Atomic uint32_t pins;
    _Atomic int fd;     /* O_PATH, or -1; below -1: one that is not verified, as node_descriptors.c has it */
    uint32_t holder;    /* under descriptors.lock: place in `holders`, from 1; 0: not there */
    uint32_t next_free; /* under slots.lock: the next free slot */
    _Atomic uint64_t references;
    _Atomic(struct node_name *) name;
    _Atomic(struct node_file_handle *) file_handle; /* once made, it stays */
};

_Static_assert(sizeof(struct node) <= 112, "with its name and buckets, a node takes about 200 bytes");

/* Where a node was last seen. Immutable; in the index while `linked`; who takes it out of a node that lives retires it. */
struct node_name {
    union {
        struct hash_link link;
        struct epoch_retired retired;
    };
    struct node *parent; /* counted as one of its children */
    struct node *node;
    bool linked; /* under the name shard's lock */
    bool buried; /* goes with its node, which is dead */
    char name[];
};

struct node_file_handle {
    int32_t type;
    uint16_t size;
    bool lasting;          /* it will never lead to another file */
    _Atomic bool verified; /* it was seen to lead to the node: what a name had may have been another file's */
    uint8_t bytes[];
};

/* Slots lie in chunks, each twice as large as the one before: found by index with one shift. */
#define NODE_FIRST_CHUNK 512U
#define NODE_CHUNKS                                                                                          \
    17 /* 67 million nodes, some 14 GB: more is ENOMEM for the guest that looks up and never forgets */

struct node_slots {
    pthread_mutex_t lock;
    _Atomic(struct node *) chunks[NODE_CHUNKS];
    _Atomic uint32_t used; /* slots below were given out at least once */
    uint32_t free;         /* under lock: the first free slot, 0: none */
};

#define NODE_MOUNTS 32

struct node_descriptors {
    pthread_mutex_t lock;
    struct node **holders; /* `budget` places, `count` of them taken: nodes with a descriptor, the root not
                              among them */
    uint32_t budget;
    uint32_t count;
    uint32_t hand;             /* the clock's */
    _Atomic uint32_t patience; /* nodes that are looked at to give up some */
    /* Readable descriptors, one a mount, for open_by_handle_at; only added to. */
    _Atomic uint32_t mounts;             /* changed under lock */
    _Atomic uint64_t mount[NODE_MOUNTS]; /* a struct open_mount, packed */
};

struct node_table {
    struct passthrough *share;
    uint64_t seed;
    struct hash_index map;
    struct hash_index names;
    struct node_slots slots;
    struct node_descriptors descriptors;
    pthread_rwlock_t renaming;
};

/* ---- node_map.c ---- */

/* The node of an identity, with a lookup counted; a new one where there is none. NULL: no memory. */
struct node *node_intern(struct node_table *table, const struct statx *attributes, bool *created);
/* Count one more lookup. False: it is dead. */
bool node_count_lookup(struct node *node);
bool node_count_child(struct node *node);
void node_drop_child(struct node *node);
/* The node in a slot, if a guest may know it. */
struct node *node_at(struct node_table *table, uint64_t index);
bool node_is_root(const struct node *node);
/* Whether statx told of this very node. */
bool node_matches(const struct node *node, const struct statx *attributes);

/* ---- node_names.c ---- */

/* The node is now known to be (parent, name); any other that was known there has no name any more. 0 or
 * -ENOMEM, -ESTALE. */
int node_set_name(struct node *node, struct node *parent, const char *name);
/* The node that is known as (parent, name), or NULL. */
struct node *node_named(struct node_table *table, const struct node *parent, const char *name);
/* Nobody is known as (parent, name) any more, if it was this node. */
void node_clear_name(struct node *node, const struct node *parent, const char *name);
/* Take the node's name away, whatever it is. */
void node_drop_name(struct node *node);
/* The node is dead: nobody finds it by name any more, but its name stays as long as it does. */
void node_bury_name(struct node *node);
/* Nobody can see the node, nor its name, any more. */
void node_free_name(struct node *node);

/* ---- node_descriptors.c ---- */

int node_descriptors_init(struct node_table *table);
/* The session has ended: close what was kept for the mounts. */
void node_descriptors_end(struct node_table *table);
void node_descriptors_destroy(struct node_table *table);
/* Keep a descriptor (O_PATH, known to be the node's) as the node's own, or, without room, for this request
 * alone. Takes fd. A descriptor that is good for the request, or -ENOMEM. */
int node_keep_descriptor(struct node *node, int fd);
/* Have the node, which is known as (parent, name), keep a descriptor for when that name is gone: opened by name now, and
 * asked only when it is needed whether it is the node's. Where that fails, the node will be stale. */
void node_hold(struct node *node, int parent_fd, const char *name);
/* The node is dead: who looks for descriptors to give up shall not find it any more. */
void node_leave_clock(struct node *node);
/* Close the node's descriptor; nobody can see the node any more. */
void node_close_descriptor(struct node *node);
/* Give up some descriptors. How many. */
uint32_t node_evict(struct node_table *table, uint32_t wanted);

/* ---- node_file_handles.c ---- */

/* Make sure that the node, which is (directory_fd, path), can be opened by file handle later; fd is open on
 * its mount. */
bool node_have_file_handle(struct node_table *table, struct node *node, int fd, int directory_fd,
                           const char *path);
/* Note the file handle of (parent, name) as the node's, where the process may open by handle. One that is not
 * the node's does no harm: what is opened is checked. */
void node_learn_file_handle(struct request *request, struct node *node, struct node *parent,
                            const char *name);
/* Open the node's file by this handle of its: a descriptor that the caller owns; -1 with errno set, ESTALE also where
 * there is no handle. */
int node_open_file_handle(struct node *node, const struct node_file_handle *kept, int flags);
/* Take one of the mounts' descriptors off the table, for the caller to close when nobody uses it; -1: none is left. Under
 * descriptors.lock, or when nobody else uses the table. */
int node_take_mount(struct node_table *table);
