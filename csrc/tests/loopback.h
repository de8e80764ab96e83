/* A guest without rings: requests go from bytes through session_dispatch into a passthrough mount, replies
 * come back as bytes.
 *
 * A loopback owns a session with one mount of an empty temporary directory (in $VHOSTFS_TEST_DIRECTORY, else
 * /dev/shm). Each thread that calls has a loopback_thread of its own. An operation that says
 * REQUEST_WOULD_SLEEP is detached and run again as the pool would, on the calling thread. Every reply is
 * checked: length, unique, and nothing stored beyond.
 */
#pragma once
#include "../epoch.h"
#include "../memory.h"
#include "../passthrough.h"
#include "../session.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOOPBACK_ROOM (1024 * 1024 + 4096) /* bytes that a reply may have, header included */

struct loopback {
    struct session session;
    struct passthrough *share;
    struct memory_table *memory; /* of no regions: requests lie in the process's own */
    int root_fd;   /* O_PATH of the shared directory: what "the host" does goes by openat and its like on this
                    */
    char root[64]; /* the same, absolute */
    int proc_self_fd;   /* O_PATH of /proc/self/fd */
    size_t descriptors; /* that were open before */
};

struct loopback_thread {
    struct loopback *loopback;
    struct epoch_reader reader;
    uint64_t unique;
    /* Of the requests that follow; the test may change them. */
    uint32_t uid;
    uint32_t gid;
    uint16_t extension_size; /* of the arguments' end, in units of 8 bytes (total_extlen) */
    size_t room;             /* LOOPBACK_ROOM or less */
    size_t piece;            /* bytes a vector, both ways; 0: header and the rest */
    bool detached;           /* the last request was answered as on the pool */
    size_t reply_size;       /* payload bytes of the last reply */
    const uint8_t *reply;    /* payload of the last reply */
    _Atomic bool cancelled;
    uint8_t *sent;   /* "guest memory" of the request */
    uint8_t *answer; /* and of the reply */
    uint8_t *arguments;
};

/* The options that loopback_create starts from: cache auto with one second, xattr, a budget of 1,024
 * descriptors. */
struct vhostfs_passthrough_options loopback_options(void);
/* Create the temporary directory, mount it and send INIT with these flags offered (all are taken). */
void loopback_create(struct loopback *loopback, const struct vhostfs_passthrough_options *options,
                     uint64_t flags);
/* The same with a directory of the host that exists and stays; NULL: a temporary one. Without options nothing is
 * mounted, and the session has a tree of mounts. */
void loopback_create_at(struct loopback *loopback, const char *directory,
                        const struct vhostfs_passthrough_options *options, uint64_t flags);
/* Mount another directory, whose descriptor stays the caller's. */
struct passthrough *loopback_mount(struct loopback *loopback, uint16_t mount, int root_fd,
                                   const struct vhostfs_passthrough_options *options);
/* End the session, check that no descriptor is left open, and remove the directory. */
void loopback_destroy(struct loopback *loopback);

/* Make the calling thread one that runs operations, as root with LOOPBACK_ROOM. Its working directory
 * changes. */
void loopback_attach(struct loopback *loopback, struct loopback_thread *thread);
void loopback_detach(struct loopback_thread *thread);

/* Send a request of these pieces one after the other, each copied. The payload's size, or a negative errno;
 * for a request without reply 0. */
struct loopback_piece {
    const void *bytes;
    size_t size;
};
int32_t loopback_call(struct loopback_thread *thread, uint32_t opcode, uint64_t nodeid,
                      const struct loopback_piece *pieces, size_t count);
/* The same for a structure, up to two names (NULL: none) and data. */
int32_t loopback_send(struct loopback_thread *thread, uint32_t opcode, uint64_t nodeid, const void *structure,
                      size_t size, const char *name, const char *second_name);

/* Descriptors that the process has open. */
size_t loopback_open_descriptors(void);

/* Everyday requests. 0 or a negative errno, results where pointers are given. */
int loopback_lookup(struct loopback_thread *thread, uint64_t parent, const char *name,
                    struct fuse_entry_out *entry);
int loopback_getattr(struct loopback_thread *thread, uint64_t nodeid, struct fuse_attr *attributes);
int loopback_create_file(struct loopback_thread *thread, uint64_t parent, const char *name, uint32_t flags,
                         uint32_t mode, struct fuse_entry_out *entry, uint64_t *fh);
int loopback_mkdir(struct loopback_thread *thread, uint64_t parent, const char *name, uint32_t mode,
                   struct fuse_entry_out *entry);
int loopback_unlink(struct loopback_thread *thread, uint64_t parent, const char *name);
int loopback_rmdir(struct loopback_thread *thread, uint64_t parent, const char *name);
int loopback_rename(struct loopback_thread *thread, uint64_t parent, const char *name, uint64_t new_parent,
                    const char *new_name, uint32_t flags);
int loopback_open(struct loopback_thread *thread, uint64_t nodeid, uint32_t flags, uint64_t *fh);
int loopback_release(struct loopback_thread *thread, uint64_t nodeid, uint64_t fh);
int loopback_opendir(struct loopback_thread *thread, uint64_t nodeid, uint64_t *fh);
int loopback_releasedir(struct loopback_thread *thread, uint64_t nodeid, uint64_t fh);
void loopback_forget(struct loopback_thread *thread, uint64_t nodeid, uint64_t lookups);
