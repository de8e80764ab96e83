/* One guest that gets to know files of a share, and a host that changes them, for tests of the node table. */
#pragma once
#include "loopback.h"

extern struct loopback loopback;
extern struct loopback_thread guest;

/* Mount an empty share, with so many descriptors for nodes; the calling thread is the guest's. */
void begin(uint64_t budget);
/* The same with more flags of the mount (VHOSTFS_PASSTHROUGH_...) and of INIT. */
void begin_with(uint64_t budget, uint32_t flags, uint64_t init_flags);
void end(void);

/* What the host does, by paths relative to the share. */
void host_file(const char *path);
void host_directory(const char *path);
void host_rename(const char *from, const char *to);

/* A lookup that must succeed. */
struct fuse_entry_out look_up(uint64_t parent, const char *name);
/* GETATTR: 0 or a negative errno. */
int ask(uint64_t nodeid);
