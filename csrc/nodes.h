/* Nodes: what the guest knows of the share, by nodeid. Owned by one passthrough mount.
 *
 * A nodeid's index leads to its node in O(1) without a lock: slots live in chunks that never move while the
 * session lasts. Only the map (device, inode, mount id) -> node is locked, and sharded. What is taken out is
 * retired by epochs.
 *
 * Descriptors are a budget, not a consequence. A directory gets an O_PATH descriptor when it is looked up, or, if it was
 * only listed, when it is first needed as a parent; any other node has none until an operation cannot do without: what
 * can be asked by parent and name (statx says device and inode too, so the answer checks itself) is asked so. Nodes
 * beyond the budget give their descriptor up (clock order) and are opened again by file handle where the process may,
 * else by parent and name, or by a handle that the guest has open, checked by device, inode and birth time; ESTALE where
 * the file is no longer to be found. Before the guest removes or replaces a name, the node that is known only by that
 * name gets its descriptor, so that it lives on as an unlinked file does.
 */
#pragma once
#include "epoch.h"
#include "fuse_wire.h"
#include "request.h"
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct passthrough;
struct node; /* its insides are in node_table.h */

/* The mask with which every statx for a node is made: basic attributes, birth time and mount id. */
#define NODE_STATX_MASK (STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID)

/* The node of a nodeid, held for the request. NULL: stale or invented; answer ESTALE. */
struct node *node_find(struct request *request, uint64_t nodeid);
/* An O_PATH descriptor of the node, good until the request ends; or a negative errno (ESTALE, EMFILE, ...).
 * This and the next two may also be called after request_may_sleep. */
int node_descriptor(struct request *request, struct node *node);
/* S_IFMT bits; they never change for a node. */
uint32_t node_type(const struct node *node);
uint64_t node_id(const struct node *node);
/* statx of the node itself, in one system call where it is known how. 0 or a negative errno. */
int node_stat(struct request *request, struct node *node, struct statx *attributes);
/* Open the node's file anew with these open(2) flags. Returns a descriptor that the caller owns, or a negative errno:
 * -ELOOP for a symbolic link, -EBADF for a device, FIFO or socket, none of which is ever opened. */
int node_open(struct request *request, struct node *node, int flags);
/* What an operation answers to a failed open, nothing being done yet: -errno, or REQUEST_NO_DESCRIPTORS. */
static inline int node_open_error(int error)
{
    return error == EMFILE || error == ENFILE ? REQUEST_NO_DESCRIPTORS : -error;
}

/* The target of a symbolic link, without NUL: its size, at most `size`; or a negative errno. */
int node_read_link(struct request *request, struct node *node, char *target, size_t size);

/* The node for what statx of (parent, name) said: a known one, or a new one; counts one lookup and fills the
 * entry (nodeid, generation, attributes, time-outs, FUSE_ATTR_SUBMOUNT). 0, or a negative errno with no
 * lookup counted. */
int node_enter(struct request *request, struct node *parent, const char *name, const struct statx *attributes,
               struct fuse_entry_out *entry);
/* Take back lookups (FORGET, or a reply that could not be delivered). More than there were: all. The root
 * stays. */
void node_forget(struct request *request, uint64_t nodeid, uint64_t lookups);

/* The same where the file is already open: takes fd (O_PATH, or -1). With fd, the node needs no name (NULL:
 * O_TMPFILE). */
int node_enter_opened(struct request *request, struct node *parent, const char *name,
                      const struct statx *attributes, int fd, struct fuse_entry_out *entry);
/* Count one more lookup of a node that is at hand (LOOKUP "." and "..") and fill the entry. 0 or -ESTALE, ...
 */
int node_enter_again(struct request *request, struct node *node, struct fuse_entry_out *entry);
/* The directory in which a node was last seen; the root's is the root. NULL: not known. */
struct node *node_parent(const struct node *node);
/* The inode number, as the host has it. */
uint64_t node_inode(const struct node *node);
/* The device that the file lies on: a number that tells one from another, never 0. */
uint64_t node_device(const struct node *node);
/* Whether that is the root's own, and no other that is mounted below. */
bool node_on_root_device(const struct node *node);

/* For who changes names. Before a name is removed or replaced: the node that is known only by it gets its
 * descriptor; parent_fd is the parent's. That node, or NULL where none is known. */
struct node *node_before_removal(struct request *request, struct node *parent, int parent_fd,
                                 const char *name);
/* After it, with that node. */
void node_after_removal(struct node *node, const struct node *parent, const char *name);
/* Around a rename on the host: what was (parent, name) is now (new_parent, new_name), and the other way round
 * where they are exchanged. node_rename_end learns it where the rename was done. */
struct node_rename {
    struct node *parent;
    const char *name;
    struct node *new_parent;
    int new_parent_fd;
    const char *new_name;
    bool exchange;
    struct node *moved; /* set by node_rename_begin; NULL: not known */
    struct node *replaced;
};
void node_rename_begin(struct request *request, struct node_rename *rename);
void node_rename_end(struct request *request, const struct node_rename *rename, bool done);

/* Fill attributes and time-out as the mount's cache mode has them. */
void node_fill_attributes(const struct request *request, const struct statx *from,
                          struct fuse_attr *attributes);
