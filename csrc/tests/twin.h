/* A share with a twin: the guest works in the one, plain system calls do the same in the other, and both must
 * agree on what comes of it. Both lie in one directory of the host, so on one file system.
 */
#pragma once
#include "loopback.h"
#include <sys/stat.h>

struct twin {
    struct loopback loopback;
    struct loopback_thread guest; /* the calling thread, as root */
    char directory[48];           /* holds both */
    char share[64];
    char plain[64];
    char path[2][160]; /* what twin_share and twin_plain answer */
};

void twin_create(struct twin *twin, const struct vhostfs_passthrough_options *options, uint64_t flags);
/* The same with the options that tests start from. */
void twin_begin(struct twin *twin, uint64_t flags);
void twin_destroy(struct twin *twin);

/* The path of a name in the share as the host sees it, or in its twin; good until the next call of the same. */
const char *twin_share(struct twin *twin, const char *name);
const char *twin_plain(struct twin *twin, const char *name);

/* Make the same file on both sides. */
void twin_file(struct twin *twin, const char *name, const char *content, mode_t mode);
void twin_directory(struct twin *twin, const char *name, mode_t mode);
/* The nodeid that the guest gets for a name. */
uint64_t twin_node(struct twin *twin, const char *name);
/* Open as the guest; it must succeed. */
uint64_t twin_open(struct twin *twin, const char *name, uint32_t flags);
void twin_release(struct twin *twin, const char *name, uint64_t fh);
/* Both sides have the same type, mode, owner, size and link count; and content, where it is a file. */
void twin_agree(struct twin *twin, const char *name);

/* The errno of a plain call as the guest gets it: negative, or 0. */
int twin_errno(long result);
