/* FUSE over io_uring (Documentation/filesystems/fuse/fuse-io-uring.rst): requests of /dev/fuse by rings, where the kernel
 * has it enabled (fuse.enable_uring).
 *
 * Each processor has a queue, which a thread of ours serves by an io_uring of its own: the kernel puts a request into one
 * of the queue's entries, and the command that commits the answer fetches the next request, so that what is read and
 * written at /dev/fuse by two system calls takes one, or less where requests come together. A request that is detached
 * keeps its entry until it is answered, and whoever has the answer leaves the commit to the ring's thread.
 *
 * INIT, FORGET, INTERRUPT and notifications go over /dev/fuse as ever, and all goes there where anything of this fails.
 */
#pragma once
#include "fuse_device.h"

struct fuse_rings;

/* Most processors whose queues are served, and threads that serve them. */
#define FUSE_RING_QUEUES_MAX 4096U
#define FUSE_RING_THREADS_MAX 64U

/* INIT is about to be answered, by the reader that has it: make the rings, where the kernel offers to use them; or see to it
 * that the offer is not taken. */
void fuse_rings_prepare(struct fuse_reader *reader, const struct request *init);
/* INIT was answered: the kernel waits with all requests until it has the entries, if the offer was taken. */
void fuse_rings_begin(struct fuse_rings *rings);
/* See to it that the request ends which is interrupted, if it waits for a lock; waits for it to be where it can be ended.
 * False: the file systems are to be told, or it did not come by a ring. */
bool fuse_rings_interrupt(struct fuse_rings *rings, uint64_t unique);
/* The sources of requests: each as a reader of /dev/fuse is, but that it reads none there. NULL: no more. */
struct fuse_reader *fuse_rings_source(struct fuse_rings *rings, uint32_t index);
/* The device is stopping: nobody need wait for fuse_rings_begin any more. */
void fuse_rings_end(struct fuse_rings *rings);
/* When all sources have ended. */
void fuse_rings_free(struct fuse_rings *rings);

/* How many processors a list as "0-3,8" (/sys/devices/system/cpu/possible) names; 0 where it cannot be made out. */
uint32_t fuse_rings_count_processors(const char *list);
