/* The border between Python, which decides, and C, which moves bytes. cffi reads this file as its
 * declarations.
 *
 * Conventions. Functions that can fail return 0 or a negative errno. Descriptors passed in stay the caller's
 * unless a line says "takes fd"; then the core owns it from the call on, also when the call fails. Every
 * function but vhostfs_queue_stop, vhostfs_device_reset, vhostfs_device_disconnect, vhostfs_device_detach_fuse and
 * vhostfs_device_destroy returns at once; those five wait until requests under way are answered. Calls for one device are made by
 * one thread at a time; different devices may be driven from different threads.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* ---- What the data plane has to tell ---- */

#define VHOSTFS_EVENT_TEXT_SIZE 200

enum vhostfs_event_kind {
    VHOSTFS_EVENT_NONE = 0,
    VHOSTFS_EVENT_QUEUE_BROKEN = 1, /* that ring is stopped, its error descriptor was signalled */
    VHOSTFS_EVENT_MEMORY_GONE = 2,  /* guest memory vanished (SIGBUS): the connection is to be ended */
    VHOSTFS_EVENT_SESSION = 3,      /* a FUSE session began (INIT) or ended (DESTROY); text says which */
    VHOSTFS_EVENT_WARNING = 4,      /* one sentence for the operator */
    VHOSTFS_EVENT_UNMOUNTED =
        5, /* /dev/fuse: there is no connection any more; the device is to be detached */
};

struct vhostfs_event {
    uint32_t kind;
    int32_t queue; /* ring index, or -1 */
    int32_t error; /* positive errno, or 0 */
    char text[200];
};

/* ---- A device: memory, rings, one FUSE session ---- */

typedef struct vhostfs_device vhostfs_device;

struct vhostfs_device_options {
    uint32_t queues;           /* rings served: one for high priority, then the request queues; 2..65535 */
    uint32_t pool_threads;     /* most threads for requests that sleep; at least 1 */
    uint64_t poll_nanoseconds; /* how long an idle queue thread polls before it sleeps; 0: never */
    int32_t io_uring;          /* 0: never use it; else where the host has it and allows it */
};

/* INIT is answered in C from these; which flags to take is Python's table (vhostfs.fuse_abi.negotiation). */
struct vhostfs_session_options {
    uint64_t init_flags; /* taken where the guest offers them; the bits of fuse.h FUSE_INIT flags and flags2
                            << 32 */
    uint32_t max_write;  /* bytes */
    uint32_t max_readahead; /* bytes; the smaller of this and the guest's is answered */
    uint16_t max_pages;
    uint16_t max_background;
    uint16_t congestion_threshold;
    uint16_t reserved;
};

int vhostfs_device_create(const struct vhostfs_device_options *options,
                          const struct vhostfs_session_options *session, vhostfs_device **device);
/* Waits as vhostfs_device_disconnect does, then frees everything, mounts too. */
void vhostfs_device_destroy(vhostfs_device *device);

/* The front-end is gone, or a new one comes: stop all rings, end the session, forget memory, log and
 * features. */
void vhostfs_device_disconnect(vhostfs_device *device);
/* RESET_DEVICE: stop and disable all rings, which begin at base 0 again, end the session; guest memory stays.
 */
void vhostfs_device_reset(vhostfs_device *device);
/* SET_FEATURES: the virtio feature bits that the front-end acknowledged (EVENT_IDX, INDIRECT, PACKED,
 * LOG_ALL). */
int vhostfs_device_set_features(vhostfs_device *device, uint64_t features);

/* Events wait in a bounded queue (oldest kept; a WARNING says how many were dropped). The eventfd is readable
 * while there are any; it stays the core's. vhostfs_device_next_event fills kind NONE when there is none. */
int vhostfs_device_event_fd(const vhostfs_device *device);
void vhostfs_device_next_event(vhostfs_device *device, struct vhostfs_event *event);

/* ---- Guest memory (vhost-user: SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG, SET_LOG_BASE) ---- */

struct vhostfs_region {
    uint64_t guest_address; /* guest physical */
    uint64_t size;          /* bytes */
    uint64_t user_address;  /* the front-end's own, in which ring addresses are given */
    uint64_t offset;        /* into the descriptor's file */
    int32_t fd;             /* stays the caller's */
    uint32_t reserved;
};

/* Regions may be changed while rings run. EEXIST: overlaps a region; EINVAL: size 0, wraps, or beyond the end
 * of its file; ENOENT: no such; ENOSPC: more than 1,024. After an error all is as it was. */
int vhostfs_memory_add(vhostfs_device *device, const struct vhostfs_region *region);
int vhostfs_memory_remove(vhostfs_device *device,
                          const struct vhostfs_region *region); /* fd, offset ignored */
int vhostfs_memory_replace(vhostfs_device *device, const struct vhostfs_region *regions, uint32_t count);
/* Dirty log; fd -1 drops it. Pages that the device writes are marked while LOG_ALL is acknowledged. */
int vhostfs_memory_log(vhostfs_device *device, int fd, uint64_t size, uint64_t offset);

/* ---- Rings. index < queues, else EINVAL; EBUSY: size and base are not set while the ring runs ---- */

int vhostfs_queue_set_size(vhostfs_device *device, uint32_t index, uint32_t size);
/* User addresses (VHOST_USER_SET_VRING_ADDR). EFAULT where they lie in no region. log: flags bit 0 and
 * address. */
int vhostfs_queue_set_addresses(vhostfs_device *device, uint32_t index, uint32_t flags, uint64_t descriptors,
                                uint64_t used, uint64_t available, uint64_t log);
int vhostfs_queue_set_base(vhostfs_device *device, uint32_t index, uint32_t base); /* protocol-encoded, 1.7 */
int vhostfs_queue_set_kick(vhostfs_device *device, uint32_t index,
                           int fd); /* takes fd; -1: the ring is polled */
int vhostfs_queue_set_call(vhostfs_device *device, uint32_t index,
                           int fd); /* takes fd; -1: never signalled */
int vhostfs_queue_set_error(vhostfs_device *device, uint32_t index, int fd); /* takes fd; -1: none */
/* A ring runs while it is started (by its kick descriptor) and enabled; it is scanned once when that begins.
 */
int vhostfs_queue_set_enabled(vhostfs_device *device, uint32_t index, int enabled);
/* GET_VRING_BASE: stop, answer what was taken, return the base. Blocking locks are cancelled with EINTR at
 * once, other calls that sleep on the host after two seconds, if they can be; a WARNING says so where one
 * cannot. */
int vhostfs_queue_stop(vhostfs_device *device, uint32_t index, uint32_t *base);

/* ---- /dev/fuse: the other source of requests ---- */

/* Serve the connection of a descriptor that a file system of this host was mounted with, by 0 to 64 threads, each
 * with a clone of it where the kernel gives one. fd stays the caller's, but the connection lasts as long as any
 * of them. Once in a device's life (-EBUSY), and instead of rings. */
int vhostfs_device_attach_fuse(vhostfs_device *device, int fd, uint32_t threads);
/* No longer: what is under way is answered, as for vhostfs_queue_stop, and the session ends. Harmless when
 * repeated. */
void vhostfs_device_detach_fuse(vhostfs_device *device);
/* Threads of 0: nobody reads but who calls vhostfs_handoff_pump, by one descriptor, which is readable while requests
 * wait; the core's. -1: that is not so. For devices all of whose mounts are handed over: nothing else may sleep there. */
int vhostfs_device_fuse_fd(const vhostfs_device *device);
struct vhostfs_segment;
/* Have the kernel told something (enum fuse_notify_code) with a payload of these pieces, which are copied, after
 * this has returned. From any thread, once a /dev/fuse is attached. -ENOSYS: none is; -ENOBUFS: too much waits to be
 * told. */
int vhostfs_device_notify(vhostfs_device *device, int32_t code, const struct vhostfs_segment *payload,
                          uint32_t count);

/* ---- The native file system: a directory of the host ---- */

enum vhostfs_cache_mode {
    VHOSTFS_CACHE_NEVER = 0,
    VHOSTFS_CACHE_METADATA = 1,
    VHOSTFS_CACHE_AUTO = 2,
    VHOSTFS_CACHE_ALWAYS = 3,
};

enum vhostfs_passthrough_flags {
    VHOSTFS_PASSTHROUGH_READ_ONLY = 1,           /* changes answer EROFS */
    VHOSTFS_PASSTHROUGH_XATTR = 2,               /* else xattr calls answer ENOSYS */
    VHOSTFS_PASSTHROUGH_POSIX_LOCKS = 4,         /* fcntl locks reach the host; else the guest keeps them */
    VHOSTFS_PASSTHROUGH_FLOCK = 8,               /* likewise flock */
    VHOSTFS_PASSTHROUGH_DIRECT_IO = 16,          /* the guest's O_DIRECT reaches the host's file */
    VHOSTFS_PASSTHROUGH_ANNOUNCE_SUBMOUNTS = 32, /* mount points carry FUSE_ATTR_SUBMOUNT where negotiated */
    VHOSTFS_PASSTHROUGH_WRITEBACK = 64,          /* writeback was asked for; acted on when negotiated */
    VHOSTFS_PASSTHROUGH_ALLOW_MMAP = 128,        /* with cache never: DIRECT_IO_ALLOW_MMAP is negotiated */
};

struct vhostfs_passthrough_options {
    int32_t root_fd;                /* the shared directory, any descriptor of it; duplicated */
    int32_t proc_self_fd;           /* an O_PATH descriptor of /proc/self/fd; duplicated */
    uint32_t cache;                 /* enum vhostfs_cache_mode */
    uint32_t flags;                 /* enum vhostfs_passthrough_flags */
    uint64_t entry_nanoseconds;     /* how long the guest may trust a name */
    uint64_t attribute_nanoseconds; /* how long it may trust attributes */
    uint64_t negative_nanoseconds;  /* how long it may trust that a name is missing; 0: plain ENOENT */
    uint64_t descriptor_budget;     /* most descriptors kept for nodes; at least 16 */
};

/* Mount a directory as mount number `mount` (0 holds the root). While rings run only where the device is a tree that
 * was given proc_self_fd, else EBUSY. */
int vhostfs_device_mount_passthrough(vhostfs_device *device, uint16_t mount,
                                     const struct vhostfs_passthrough_options *options);

/* ---- Limits: how much a mount, or several of any devices together, may ask for ---- */

typedef struct vhostfs_rate_limit vhostfs_rate_limit;

/* 0: no bound, for a rate; at most 1e12 a second. Bursts are what may come at once after a pause: 10 ms' worth at
 * least, an hour's at most. */
struct vhostfs_rate_limit_options {
    uint64_t requests; /* a second */
    uint64_t requests_burst;
    uint64_t bytes; /* of READ and WRITE, as asked for, a second */
    uint64_t bytes_burst;
};

int vhostfs_rate_limit_create(const struct vhostfs_rate_limit_options *options, vhostfs_rate_limit **limit);
/* Let go of a limit that _create gave; mounts that have it keep it. */
void vhostfs_rate_limit_put(vhostfs_rate_limit *limit);
/* Take a request with so many bytes of data, from any thread. 0; or nothing was taken, and nanoseconds to wait
 * before asking again. */
uint64_t vhostfs_rate_limit_take(vhostfs_rate_limit *limit, uint64_t bytes);
/* Have the requests for a mount keep to a limit from now on; up to four of them, all of which they keep to. What is beyond waits in its ring, and what lies behind it there waits too; of /dev/fuse,
 * each thread waits that reads such a request. INIT, DESTROY, FORGET and
 * INTERRUPT never wait. ENOENT: there is no such mount; ENOSPC: it has four limits. */
int vhostfs_device_limit_mount(vhostfs_device *device, uint16_t mount, vhostfs_rate_limit *limit);

/* ---- A file system in Python: its requests handed over, and the answers ---- */

typedef struct vhostfs_handoff vhostfs_handoff;

enum vhostfs_handoff_kind {
    VHOSTFS_HANDOFF_REQUEST = 0,
    VHOSTFS_HANDOFF_BEGIN = 1,  /* a session begins; any other ends. token: INIT flags; room: minor version */
    VHOSTFS_HANDOFF_END = 2,    /* it has ended. token: the DESTROY to answer when all is done, or 0 */
    VHOSTFS_HANDOFF_CANCEL = 3, /* nobody waits any more for the request `token` */
};

/* Begins each record of a batch; `size` bytes of the FUSE request follow, padded to a multiple of 8. */
struct vhostfs_handoff_record {
    uint64_t token; /* names the request until it is answered; 0: it gets no answer */
    uint32_t kind;  /* enum vhostfs_handoff_kind */
    uint32_t size;
    uint64_t room; /* bytes of payload that fit into the answer */
    uint64_t data; /* bytes of a WRITE's data, which stay in guest memory */
};

struct vhostfs_segment {
    uint8_t *start;
    uint64_t size;
};

/* Mount what Python answers: the opcodes whose bits are set, others answer ENOSYS. The handoff is the device's,
 * until vhostfs_device_destroy, also when it was unmounted. All of these but _take, _pump, _flush and _close may be called from any thread. */
int vhostfs_device_mount_handoff(vhostfs_device *device, uint16_t mount, uint64_t opcodes,
                                 vhostfs_handoff **handoff);
/* Readable while there is something to take; the core's, which closes it in _close: -1 from then on. */
int vhostfs_handoff_fd(const vhostfs_handoff *handoff);
/* Fill a buffer (8-byte aligned, of 128 KiB at least) with up to `most` records. Bytes used; 0: there are none. */
int64_t vhostfs_handoff_take(vhostfs_handoff *handoff, uint8_t *buffer, size_t size, uint32_t most);
/* Flush, read what waits at the device's /dev/fuse, or sleep for it, and take: at most `most` requests, and so many
 * milliseconds. The sleep is by an epoll descriptor, to which vhostfs_device_fuse_fd was added with its number as data, and
 * ends with whatever else that tells of. As vhostfs_handoff_take; or a negative errno where there is no connection any more. */
int64_t vhostfs_handoff_pump(vhostfs_handoff *handoff, vhostfs_device *device, uint8_t *buffer, size_t size,
                             uint32_t most, int epoll_fd, int milliseconds);
/* Answer a request with a payload (NULL: what was stored in its place), or with an errno where error > 0.
 * ESTALE: no such request waits. A payload that does not fit is answered EIO. Seen by the guest after _flush. */
int vhostfs_handoff_answer(vhostfs_handoff *handoff, uint64_t token, int error, const uint8_t *payload,
                           size_t size);
void vhostfs_handoff_flush(vhostfs_handoff *handoff);
/* Nobody will take or answer: what waits and what comes is answered EIO. */
void vhostfs_handoff_close(vhostfs_handoff *handoff);

/* Guest memory of a request that waits for its answer; ESTALE where it does not. Segments: how many there are, of
 * which the first `count` are stored; of the payload's first `size` bytes, or of the data (`written` != 0). */
int vhostfs_handoff_segments(vhostfs_handoff *handoff, uint64_t token, int written, uint64_t size,
                             struct vhostfs_segment *segments, uint32_t count);
/* Copy into the payload's place, or out of the data. Bytes copied: fewer where there are no more. */
int64_t vhostfs_handoff_store(vhostfs_handoff *handoff, uint64_t token, uint64_t offset, const uint8_t *from,
                              uint64_t size);
int64_t vhostfs_handoff_load(vhostfs_handoff *handoff, uint64_t token, uint64_t offset, uint8_t *to,
                             uint64_t size);
/* preadv into the payload's place from `position` on; pwritev of the data from `position` on. Bytes moved. */
int64_t vhostfs_handoff_read(vhostfs_handoff *handoff, uint64_t token, uint64_t position, uint64_t size,
                             int fd, uint64_t offset);
int64_t vhostfs_handoff_write(vhostfs_handoff *handoff, uint64_t token, uint64_t position, int fd,
                              uint64_t offset);

/* ---- A tree of mounts ---- */

/* These, and mounting under a number, may be called while rings run, by one thread at a time that need not be the
 * one which makes the device's other calls. */

/* Let mounts lie at paths: once (EBUSY). Mount 0, if there is one by now, is at "/"; else, before rings run, "/" is a
 * read-only directory that holds nothing but the way to mounts, as are other directories on the way where the mount
 * above has none. proc_self_fd: as for mounting directories, where that may be done later; -1: never. */
int vhostfs_device_plant(vhostfs_device *device, int proc_self_fd);
/* A number for the next mount, which none had since the guest's session began; ENOSPC after 254 of them. */
int vhostfs_device_free_mount(vhostfs_device *device);
/* Let the guest find a mount at an absolute path, other than "/". A guest that trusts what the mount above said of
 * the name finds the new one when that time is over. EINVAL: no absolute path, or no tree; EBUSY: another mount is
 * there, or the mount elsewhere; ENOENT: no such mount; ENAMETOOLONG; ENOSPC: the paths have more than 1,023
 * components. */
int vhostfs_device_attach(vhostfs_device *device, const char *path, uint16_t mount);
/* Take a mount away at once, as umount -l does: what the guest has of it is stale, requests under way are answered,
 * and it is freed when they are. EBUSY: others lie below it, or it is mount 0; ENOENT: no such mount. */
int vhostfs_device_unmount(vhostfs_device *device, uint16_t mount);

/* ---- The process ---- */

/* Install the SIGBUS handler that turns vanished guest memory into VHOSTFS_EVENT_MEMORY_GONE. Idempotent. */
int vhostfs_core_initialise(void);
