/* Several guests' worth of arbitrary requests at a time, on one share, while sessions end and begin: every reply is whole, nothing
 * is left behind, and nothing races (ThreadSanitizer). The requests are the same in each run; their order is not.
 */
#define _GNU_SOURCE 1
#include "check.h"
#include "wild_guest.h"

#include <pthread.h>

#define THREADS 3
#define REQUESTS 40000
#define REQUESTS_A_SESSION 5000
#define REQUESTS_A_MOUNT 250
#define BYTES_A_REQUEST 64

static struct loopback loopback;
static uint16_t coming_and_going; /* the mount that does; 0: none */

/* What one thread was told, for the others to use. */
static _Atomic uint64_t told_nodeids[THREADS][WILD_KNOWN];
static _Atomic uint64_t told_fhs[THREADS][WILD_KNOWN];
static _Atomic uint64_t told_fh_nodeids[THREADS][WILD_KNOWN];

struct worker {
    struct wild_guest guest;
    unsigned number;
    uint64_t random;
    pthread_t thread;
};

/* xorshift64*: the next of a sequence that is the same in each run. */
static uint32_t next_number(struct worker *worker)
{
    worker->random ^= worker->random >> 12;
    worker->random ^= worker->random << 25;
    worker->random ^= worker->random >> 27;
    return (uint32_t)(worker->random * 0x2545f4914f6cdd1dULL >> 32);
}

static uint8_t next_byte(struct worker *worker)
{
    uint32_t number = next_number(worker);
    uint8_t byte = (uint8_t)number;
    return number >> 8 & 3 ? byte & 3 : byte; /* small numbers get further */
}

static void choose(struct worker *worker, uint8_t bytes[BYTES_A_REQUEST])
{
    /* Most requests are of those that guests send most, and ask for nothing odd in size or caller; what takes nodes and handles
     * away comes seldom. */
    static const uint8_t usual[] = {
        FUSE_CREATE, FUSE_CREATE,      FUSE_LOOKUP, FUSE_OPEN,    FUSE_OPENDIR, FUSE_READ,
        FUSE_WRITE,  FUSE_WRITE,       FUSE_RMDIR,  FUSE_RENAME2, FUSE_UNLINK,  FUSE_SETATTR,
        FUSE_SETLK,  FUSE_READDIRPLUS, FUSE_SETLKW, FUSE_FLUSH,   FUSE_LINK,    FUSE_COPY_FILE_RANGE,
        FUSE_IOCTL,  FUSE_UNLINK,      FUSE_STATX,  FUSE_LSEEK,   FUSE_RMDIR,   FUSE_RMDIR};
    for (size_t i = 0; i < BYTES_A_REQUEST; i++)
        bytes[i] = next_byte(worker);
    bytes[0] = (uint8_t)(next_number(worker) % FUSE_OPCODES);
    if (next_number(worker) % 8 != 0)
        bytes[0] = usual[next_number(worker) % sizeof(usual)];
    if (next_number(worker) % 8 != 0)
        bytes[1] &= 3 << 3;
    bytes[2] = next_number(worker) % 8 != 0 ? bytes[2] % WILD_KNOWN : bytes[2];
}

static void share_what_was_told(struct worker *worker, unsigned round)
{
    unsigned place = 1 + round % (WILD_KNOWN - 1); /* the first nodeid stays the root's */
    unsigned other = (worker->number + 1) % THREADS;
    struct wild_guest *guest = &worker->guest;
    atomic_store(&told_nodeids[worker->number][place], guest->nodeids[place]);
    atomic_store(&told_fhs[worker->number][place], guest->handles[0][place].fh);
    atomic_store(&told_fh_nodeids[worker->number][place], guest->handles[0][place].nodeid);
    uint64_t nodeid = atomic_load(&told_nodeids[other][place]);
    if (round % 3 == 0 && nodeid != 0) {
        guest->nodeids[place] = nodeid;
        guest->handles[0][place].fh = atomic_load(&told_fhs[other][place]);
        guest->handles[0][place].nodeid = atomic_load(&told_fh_nodeids[other][place]);
    }
}

/* As a guest's kernel that was reset: whatever the others do, a new session begins. */
static void begin_anew(struct worker *worker)
{
    struct fuse_init_in in = {.major = FUSE_KERNEL_VERSION,
                              .minor = FUSE_KERNEL_MINOR_VERSION,
                              .flags = UINT32_MAX,
                              .flags2 = UINT32_MAX};
    worker->guest.thread.room = LOOPBACK_ROOM;
    worker->guest.thread.piece = 0;
    CHECK_EQUAL(loopback_send(&worker->guest.thread, FUSE_INIT, 0, &in, sizeof(in), NULL, NULL),
                sizeof(struct fuse_init_out));
}

static void mount_anew(void)
{
    CHECK_EQUAL(session_unmount(&loopback.session, coming_and_going), 0);
    coming_and_going = wild_loopback_mount(&loopback, "/a/b");
}

static void *work(void *context)
{
    struct worker *worker = context;
    wild_guest_begin(&worker->guest, &loopback);
    for (unsigned round = 1; round <= REQUESTS; round++) {
        uint8_t bytes[BYTES_A_REQUEST];
        choose(worker, bytes);
        struct wild_choices choices = {bytes, sizeof(bytes)};
        wild_guest_request(&worker->guest, &choices);
        share_what_was_told(worker, round);
        if (worker->number == 0 && round % REQUESTS_A_SESSION == 0)
            begin_anew(worker);
        if (worker->number == 0 && coming_and_going != 0 && round % REQUESTS_A_MOUNT == 0)
            mount_anew();
    }
    wild_guest_end(&worker->guest);
    return NULL;
}

static void run_wild(uint8_t how)
{
    static struct worker workers[THREADS];
    size_t before = loopback_open_descriptors();
    wild_loopback_create(&loopback, how);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].number = i;
        workers[i].random = i + 1;
        CHECK_EQUAL(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        CHECK_EQUAL(pthread_join(workers[i].thread, NULL), 0);
    loopback_destroy(&loopback);
    CHECK_EQUAL(loopback_open_descriptors(), before);
}

static void arbitrary_requests_of_many_threads_do_no_harm(void)
{
    run_wild(VHOSTFS_CACHE_AUTO | 4);
}

static void nor_do_they_where_mounts_come_and_go(void)
{
    coming_and_going = 2;
    run_wild(VHOSTFS_CACHE_AUTO | 4 | 8);
}

int main(void)
{
    if (!check_runs_as_root())
        return 0;
    PROMISE(arbitrary_requests_of_many_threads_do_no_harm);
    PROMISE(nor_do_they_where_mounts_come_and_go);
    return 0;
}
