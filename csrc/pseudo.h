/* The pseudo file system: the directories of a tree of mounts that no mounted file system provides.
 *
 * Read-only, owned by root, mode 0555, without contents but the waypoints below. Nothing is counted: a directory
 * is known as long as its waypoint is there. Listings name each entry by its waypoint's index, so that they go on
 * where they were, whatever is mounted or removed meanwhile.
 */
#pragma once
#include "mount_tree.h"

/* Fill in what the session has to know of it. */
void pseudo_init(struct mount_tree *tree);
/* The entry of a waypoint as a pseudo directory. Under the tree's lock. */
void pseudo_fill_entry(const struct mount_tree *tree, const struct waypoint *waypoint,
                       struct fuse_entry_out *entry);
