/* A tree of mounts: which names lead from one file system into another, and the directories on the way.
 *
 * Waypoints are the components of the mounts' paths. A waypoint is where a mount is rooted; or a directory of the
 * file system above it, known by the nodeid that was last given out for it; or, where that file system has no such
 * name, a directory of the pseudo file system (pseudo.h). The pseudo file system also provides "/" where no mount
 * is there.
 *
 * A request is looked at before it is dispatched and when it is answered (request_finish, which the answers of
 * all mounts pass). Only those that name something in a waypoint cost more than a look at a filter of nodeids:
 * they take the tree's lock. What a guest changes in a reply meanwhile misleads that guest alone.
 *
 * Between mounts, links, renames and copies are EXDEV. The names of waypoints can be neither made nor removed:
 * EEXIST, EBUSY. An operation that a mount does not know is never answered ENOSYS where Linux would then stop to
 * ask for it on the other mounts.
 */
#pragma once
#include "session.h"

/* All components of all paths, "/" included. */
#define TREE_WAYPOINTS 1024
#define TREE_FILTER_WORDS 8
/* How long a guest may trust that a mount is where it is. */
#define TREE_ENTRY_SECONDS 1
#define TREE_NO_MOUNT UINT16_MAX

struct waypoint {
    struct waypoint *parent; /* NULL: the root */
    uint64_t index;          /* of its nodeid as a pseudo directory; never used again */
    uint64_t nodeid;         /* as a directory of the file system above; 0: not known */
    uint64_t lookups;        /* of that nodeid, not yet forgotten */
    uint16_t mount;          /* rooted here, or TREE_NO_MOUNT */
    size_t length;
    char name[];
};

struct mount_tree {
    struct filesystem pseudo; /* first: a request's file system is the tree, then */
    struct session *session;
    struct fuse_attr attributes;                /* of any pseudo directory, but its number */
    _Atomic uint64_t filter[TREE_FILTER_WORDS]; /* a bit for each nodeid that names may lead on from */
    pthread_mutex_t lock;                       /* of all below */
    uint64_t next_index;
    uint32_t count;
    struct waypoint *waypoints[TREE_WAYPOINTS]; /* by index, parents before children; the first is the root */
};

/* A tree of the root alone, which mount 0 is, if has_root. NULL: no memory. */
struct mount_tree *mount_tree_create(struct session *session, bool has_root);
void mount_tree_destroy(struct mount_tree *tree);
/* Let a mount begin at an absolute path, without "." and "..". 0, -EINVAL, -ENAMETOOLONG, -EBUSY: there is one,
 * -ENOSPC, -ENOMEM. */
int mount_tree_add(struct mount_tree *tree, const char *path, uint16_t mount);
/* 0; or -EBUSY where others lie below it. One that is at no path is no error. */
int mount_tree_remove(struct mount_tree *tree, uint16_t mount);
/* The session has ended: the guest knows no nodes any more. */
void mount_tree_end(struct mount_tree *tree);

/* Before a request is dispatched: it may come to be about another node. True: it is answered, by *result. */
bool mount_tree_route(struct mount_tree *tree, struct request *request, int32_t *result);
/* A BATCH_FORGET is being told to the mounts. */
void mount_tree_forget(struct mount_tree *tree, struct request *request);
/* What an answer becomes; for those that route has marked, and for ENOSYS. Not under any lock. */
int32_t mount_tree_settle(struct request *request, int32_t result);

/* ---- For pseudo.c and mount_tree_answers.c ---- */

/* Make it another request, whose arguments stay where they are. */
void mount_tree_rewrite(struct request *request, uint32_t opcode, uint64_t nodeid, const void *arguments,
                        size_t size);
/* The guest was told of the directory, once more, that a waypoint is in the file system above it. */
void mount_tree_note(struct mount_tree *tree, uint64_t index, uint64_t nodeid);

/* The others are called under the lock. */
/* The waypoint of a number, or NULL. */
struct waypoint *mount_tree_waypoint(const struct mount_tree *tree, uint64_t index);
/* The waypoint that a nodeid is, in any of its ways. NULL: none. */
struct waypoint *mount_tree_find(const struct mount_tree *tree, uint64_t nodeid);
struct waypoint *mount_tree_child(const struct mount_tree *tree, const struct waypoint *parent,
                                  const char *name);
/* The nodeid of a waypoint as a pseudo directory. */
uint64_t mount_tree_pseudo_nodeid(const struct mount_tree *tree, const struct waypoint *waypoint);
