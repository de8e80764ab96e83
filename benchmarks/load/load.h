/* The border between the benchmark's Python, which sets up, and its C, which asks. cffi reads this file as
 * its declarations; the C files include it. */
#pragma once
#include <stdint.h>

/* ---- A guest: memory that the daemon maps too, and rings in it
 * -------------------------------------------------- */

typedef struct guest guest;

struct guest_ring {
    void *descriptors; /* the three areas of a split ring, mapped here */
    void *available;
    void *used;
    int32_t kick_fd; /* eventfds; the call descriptor is made blocking */
    int32_t call_fd;
    uint32_t size; /* a power of two */
};

/* Pages are handed to requests in an order shuffled by seed, as a guest that has run for a while has them.
 * Ring 0 is the one for FORGET; the others are request queues. NULL: no memory. */
guest *guest_create(uint8_t *memory, uint64_t guest_address, uint64_t size, const struct guest_ring *rings,
                    uint32_t ring_count, uint64_t seed);
void guest_destroy(guest *guest);

/* Send one request over ring 1 while no workload runs, and wait for its reply. Returns the bytes behind the
 * reply's header, or the negative errno that it carries; -EPROTO for a reply that breaks the rules. */
int32_t guest_call(guest *guest, uint32_t opcode, uint64_t nodeid, const void *arguments, uint32_t size,
                   void *reply, uint32_t reply_size);

/* ---- What is asked
 * ------------------------------------------------------------------------------------------------ */

enum step {
    STEP_GETATTR = 1,     /* of a known file, whose size is checked */
    STEP_LOOKUP = 2,      /* of a known file, whose nodeid is checked */
    STEP_LOOKUP_NONE = 3, /* of a name that is not there */
    STEP_LOOKUP_COLD = 4, /* of a file that the daemon was told to forget */
    STEP_OPEN = 5,
    STEP_FLUSH = 6, /* left out where the daemon said that it need not be sent */
    STEP_RELEASE = 7,
    STEP_CREATE = 8,
    STEP_UNLINK = 9,     /* of what STEP_CREATE made, which is then forgotten */
    STEP_WRITE_NEW = 10, /* one page into what STEP_CREATE made */
    STEP_OPENDIR = 11,
    STEP_READDIRPLUS = 12, /* until the end; the entries are counted */
    STEP_RELEASEDIR = 13,
    STEP_READ = 14,  /* block bytes of the file of data, whose content is checked */
    STEP_WRITE = 15, /* block bytes, which guest_verify looks for afterwards */
    STEP_CHMOD = 16,
    STEP_STATFS = 17,
    STEP_GETXATTR = 18,
    STEP_FSYNC = 19,
    STEP_UNKNOWN = 20,    /* a request that every daemon answers with ENOSYS: BMAP */
    STEP_READ_SMALL = 21, /* the first bytes of a known file that was opened */
    STEP_UTIME = 22,      /* on what STEP_CREATE made */
};

struct workload {
    uint32_t steps[24]; /* a cycle; enum step */
    uint32_t step_count;
    uint32_t background[8]; /* another cycle, which one slot of the first queue repeats; not counted */
    uint32_t background_count;
    uint32_t depth;  /* requests under way on each queue, the background's among them */
    uint32_t queues; /* rings 1 to queues */
    uint32_t block;  /* bytes of STEP_READ and STEP_WRITE: at most 1 MiB */
    uint32_t random; /* blocks in random order, instead of each slot going forward */
};

/* What the share holds, by the nodeids that this daemon gave. */
struct material {
    uint64_t directory;    /* holds `files` files named file-00000 on, of 100 bytes and their number more */
    const uint64_t *files; /* their nodeids */
    uint32_t file_count;
    uint32_t xattr_size;     /* of user.benchmark on each file */
    uint64_t cold_directory; /* likewise, none of them known */
    uint64_t new_directory;  /* empty */
    uint64_t read_file;
    uint64_t read_handle;
    uint64_t write_file;
    uint64_t write_handle;
    uint64_t background_file;
    uint64_t background_handle;
    uint64_t data_size; /* bytes of the files of data */
};

struct outcome {
    uint64_t cycles;
    uint64_t requests; /* of the cycles; those of the background do not count */
    uint64_t nanoseconds;
    uint64_t calls;
    uint64_t kicks;
    uint64_t median; /* nanoseconds from making a request available to seeing its reply */
    uint64_t percentile_99;
    uint64_t worst;
    char wrong[240]; /* the first reply that was not as it should be; empty: none */
};

/* Run a workload until the time is over and every cycle has ended. 0, or a negative errno. */
int guest_run(guest *guest, const struct workload *workload, const struct material *material,
              uint64_t nanoseconds, struct outcome *outcome);

/* Whether the file of data, as the host sees it, holds what was written since this was asked last. 0, or -EIO. */
int guest_verify(guest *guest, int32_t fd);

/* Fill a page with what STEP_READ expects at a page of the file. */
void fill_page(uint8_t *page, uint64_t number);

/* ---- The bare cost: the system calls alone
 * ------------------------------------------------------------------------ */

struct bare_share {
    int32_t directory; /* as in struct material, but open */
    int32_t new_directory;
    int32_t read_file;
    int32_t write_file;
    uint64_t data_size;
    uint32_t file_count;
};

/* CPU nanoseconds a cycle of the system calls that a cycle of these steps cannot do without; -errno where one
 * fails. */
int64_t bare_run(const struct bare_share *share, const struct workload *workload, uint64_t nanoseconds);

/* ---- What programs call, on a file system that is mounted on this host ---- */

enum call {
    CALL_GETATTR = 1,     /* statx of an open file, which may not be answered from the kernel's cache */
    CALL_LOOKUP_NONE = 2, /* of a name that is not there */
    CALL_READ = 3,        /* block bytes of the file of data, in random places; the content is checked */
    CALL_WRITE = 4,       /* block bytes; each page holds its number, at its begin and its end */
    CALL_READDIR = 5,     /* a directory: opened, listed, closed; the entries are counted */
};

struct calls {
    int32_t directory; /* of `entries` files; open, as the next ones */
    int32_t file;      /* of 100 bytes */
    int32_t read_file;
    int32_t write_file;
    uint64_t data_size; /* bytes of the files of data */
    uint32_t entries;
    uint32_t call;
    uint32_t block;   /* at most 1 MiB */
    uint32_t threads; /* 1 to 32, which call at once */
    uint64_t nanoseconds;
};

struct called {
    uint64_t calls;
    uint64_t nanoseconds;
    char wrong[240]; /* the first result that was not as it should be; empty: none */
};

/* Call until the time is over. 0, or a negative errno. */
int calls_run(const struct calls *calls, struct called *called);

/* ---- A file, read and written
 * ------------------------------------------------------------------------------------------------ */

/* Read or write pieces of `block` bytes of an open file of `size`, one behind the other or anywhere, for a
 * while. Bytes a second of the calling thread's time on a processor; or a negative errno. */
double file_rate(int32_t fd, int32_t writes, int32_t random, uint32_t block, uint64_t size,
                 int64_t nanoseconds);
