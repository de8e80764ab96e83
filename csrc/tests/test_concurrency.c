/* Many threads at work on the same files, handles and locks: every reply is one that some order of the
 * requests explains, and nothing is left behind. Under ThreadSanitizer this is the proof that they do not
 * race.
 */
#define _GNU_SOURCE 1
#include "check.h"
#include "twin.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#define WORKERS 4
#define ROUNDS 300

struct worker {
    struct twin *twin;
    unsigned number;
    pthread_t thread;
    struct loopback_thread guest;
    uint64_t nodeid;
    _Atomic uint64_t *shared_fh; /* of WORKERS, one each: others use it while its owner opens and closes */
};

static int32_t send_to(struct worker *worker, uint32_t opcode, const void *in, size_t size)
{
    return loopback_send(&worker->guest, opcode, worker->nodeid, in, size, NULL, NULL);
}

static int32_t write_block(struct worker *worker, uint64_t fh, uint64_t offset, uint8_t value)
{
    uint8_t block[4096];
    memset(block, value, sizeof(block));
    struct fuse_write_in in = {.fh = fh,
                               .offset = offset,
                               .size = sizeof(block),
                               .write_flags = value % 2 != 0 ? FUSE_WRITE_KILL_SUIDGID : 0};
    struct loopback_piece pieces[] = {{&in, sizeof(in)}, {block, sizeof(block)}};
    return loopback_call(&worker->guest, FUSE_WRITE, worker->nodeid, pieces, 2);
}

static void check_block(struct worker *worker, uint64_t fh, uint64_t offset, uint8_t value)
{
    struct fuse_read_in in = {.fh = fh, .offset = offset, .size = 4096};
    CHECK_EQUAL(send_to(worker, FUSE_READ, &in, sizeof(in)), 4096);
    for (size_t i = 0; i < 4096; i++)
        CHECK_EQUAL(worker->guest.reply[i], value);
}

/* What others do with a handle that may be closed at any moment: it works, or there is no such handle. */
static void use_anothers(struct worker *worker, unsigned round)
{
    uint64_t fh = atomic_load(&worker->shared_fh[(worker->number + 1 + round) % WORKERS]);
    struct fuse_read_in read = {.fh = fh, .size = 4096};
    int32_t result = send_to(worker, FUSE_READ, &read, sizeof(read));
    CHECK(result >= 0 || result == -EBADF);
    struct fuse_fsync_in sync = {.fh = fh};
    result = send_to(worker, FUSE_FSYNC, &sync, sizeof(sync));
    CHECK(result == 0 || result == -EBADF);
    struct fuse_lk_in lock = {.fh = fh, .owner = round % 3, .lk = {.end = 10, .type = F_RDLCK}};
    result = send_to(worker, FUSE_SETLK, &lock, sizeof(lock));
    CHECK(result == 0 || result == -EBADF || result == -EAGAIN);
    struct fuse_flush_in flush = {.fh = fh, .lock_owner = round % 3};
    result = send_to(worker, FUSE_FLUSH, &flush, sizeof(flush));
    CHECK(result == 0 || result == -EBADF);
    struct fuse_setattr_in times = {.valid = FATTR_MTIME | FATTR_FH, .fh = fh, .mtime = round};
    result = send_to(worker, FUSE_SETATTR, &times, sizeof(times));
    CHECK(result == (int32_t)sizeof(struct fuse_attr_out) || result == -EBADF);
}

/* Count under a lock that only one owner has at a time: no step is lost. */
static void count_up(struct worker *worker, uint64_t fh)
{
    struct fuse_lk_in lock = {
        .fh = fh, .owner = 100 + worker->number, .lk = {.start = 1 << 20, .end = 1 << 20, .type = F_WRLCK}};
    CHECK_EQUAL(send_to(worker, FUSE_SETLKW, &lock, sizeof(lock)), 0);
    struct fuse_read_in read = {.fh = fh, .offset = 1 << 20, .size = 8};
    uint64_t count = 0;
    int32_t size = send_to(worker, FUSE_READ, &read, sizeof(read));
    CHECK(size == 0 || size == 8);
    memcpy(&count, worker->guest.reply, (size_t)size);
    count++;
    struct fuse_write_in write = {.fh = fh, .offset = 1 << 20, .size = 8};
    struct loopback_piece pieces[] = {{&write, sizeof(write)}, {&count, 8}};
    CHECK_EQUAL(loopback_call(&worker->guest, FUSE_WRITE, worker->nodeid, pieces, 2), 8);
    lock.lk.type = F_UNLCK;
    CHECK_EQUAL(send_to(worker, FUSE_SETLK, &lock, sizeof(lock)), 0);
}

static void *work(void *context)
{
    struct worker *worker = context;
    loopback_attach(&worker->twin->loopback, &worker->guest);
    uint64_t place = worker->number * 4096;
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t fh;
        CHECK_EQUAL(loopback_open(&worker->guest, worker->nodeid, O_RDWR, &fh), 0);
        atomic_store(&worker->shared_fh[worker->number], fh);
        CHECK_EQUAL(write_block(worker, fh, place, (uint8_t)round), sizeof(struct fuse_write_out));
        use_anothers(worker, round);
        check_block(worker, fh, place, (uint8_t)round);
        count_up(worker, fh);
        CHECK_EQUAL(loopback_release(&worker->guest, worker->nodeid, fh), 0);
    }
    loopback_detach(&worker->guest);
    return NULL;
}

static void threads_share_files_handles_and_locks(void)
{
    static struct worker workers[WORKERS];
    static _Atomic uint64_t shared_fh[WORKERS];
    struct twin twin;
    struct vhostfs_passthrough_options options = loopback_options();
    options.flags |= VHOSTFS_PASSTHROUGH_POSIX_LOCKS | VHOSTFS_PASSTHROUGH_FLOCK;
    twin_create(&twin, &options, FUSE_INIT_POSIX_LOCKS);
    twin_file(&twin, "file", "", 0600);
    uint64_t nodeid = twin_node(&twin, "file");
    size_t before = loopback_open_descriptors();
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){.twin = &twin, .number = i, .nodeid = nodeid, .shared_fh = shared_fh};
        CHECK_EQUAL(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < WORKERS; i++)
        CHECK_EQUAL(pthread_join(workers[i].thread, NULL), 0);
    uint64_t fh = twin_open(&twin, "file", O_RDONLY);
    struct fuse_read_in read = {.fh = fh, .offset = 1 << 20, .size = 8};
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_READ, nodeid, &read, sizeof(read), NULL, NULL), 8);
    uint64_t count;
    memcpy(&count, twin.guest.reply, sizeof(count));
    CHECK_EQUAL(count, WORKERS * ROUNDS);
    for (uint64_t owner = 0; owner < 100 + WORKERS; owner++) {
        struct fuse_flush_in flush = {.fh = fh, .lock_owner = owner};
        CHECK_EQUAL(loopback_send(&twin.guest, FUSE_FLUSH, nodeid, &flush, sizeof(flush), NULL, NULL), 0);
    }
    twin_release(&twin, "file", fh);
    epoch_reclaim(&twin.loopback.session.epochs);
    CHECK(loopback_open_descriptors() <= before + 1); /* the node's own */
    twin_destroy(&twin);
}

int main(void)
{
    PROMISE(threads_share_files_handles_and_locks);
    return 0;
}
