/* POSIX and flock locks of the guest's, held on the host. */
#define _GNU_SOURCE 1
#include "check.h"
#include "twin.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define ALICE 0xa11ce
#define BOB 0xb0b

/* A share with locks, and one file of it, open. */
struct stage {
    struct twin twin;
    uint64_t nodeid;
    uint64_t fh;
    int host; /* the same file, open on the host */
};

static void stage_begin(struct stage *stage)
{
    struct vhostfs_passthrough_options options = loopback_options();
    options.flags |= VHOSTFS_PASSTHROUGH_POSIX_LOCKS | VHOSTFS_PASSTHROUGH_FLOCK;
    twin_create(&stage->twin, &options, FUSE_INIT_POSIX_LOCKS | FUSE_INIT_FLOCK_LOCKS);
    twin_file(&stage->twin, "file", "0123456789", 0600);
    stage->nodeid = twin_node(&stage->twin, "file");
    stage->fh = twin_open(&stage->twin, "file", O_RDWR);
    stage->host = open(twin_share(&stage->twin, "file"), O_RDWR | O_CLOEXEC);
    CHECK(stage->host >= 0);
}

static void stage_end(struct stage *stage)
{
    close(stage->host);
    twin_release(&stage->twin, "file", stage->fh);
    twin_destroy(&stage->twin);
}

static struct fuse_lk_in lock_of(const struct stage *stage, uint64_t owner, uint32_t type, uint64_t start,
                                 uint64_t end)
{
    return (struct fuse_lk_in){
        .fh = stage->fh, .owner = owner, .lk = {.start = start, .end = end, .type = type, .pid = 100}};
}

static int32_t lock_as(struct stage *stage, struct loopback_thread *guest, uint32_t opcode,
                       const struct fuse_lk_in *in)
{
    return loopback_send(guest, opcode, stage->nodeid, in, sizeof(*in), NULL, NULL);
}

static int32_t set_lock(struct stage *stage, uint64_t owner, uint32_t type, uint64_t start, uint64_t end)
{
    struct fuse_lk_in in = lock_of(stage, owner, type, start, end);
    return lock_as(stage, &stage->twin.guest, FUSE_SETLK, &in);
}

static struct fuse_file_lock get_lock(struct stage *stage, uint64_t owner, uint32_t type, uint64_t start,
                                      uint64_t end)
{
    struct fuse_lk_in in = lock_of(stage, owner, type, start, end);
    struct fuse_lk_out out;
    CHECK_EQUAL(lock_as(stage, &stage->twin.guest, FUSE_GETLK, &in), sizeof(out));
    memcpy(&out, stage->twin.guest.reply, sizeof(out));
    return out.lk;
}

static int32_t flush_as(struct stage *stage, uint64_t owner)
{
    struct fuse_flush_in in = {.fh = stage->fh, .lock_owner = owner};
    return loopback_send(&stage->twin.guest, FUSE_FLUSH, stage->nodeid, &in, sizeof(in), NULL, NULL);
}

/* 0, or -EAGAIN where somebody else's lock is in the way of one of the host's. */
static int host_lock(const struct stage *stage, short type, off_t start, off_t size)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = size};
    return twin_errno(fcntl(stage->host, F_OFD_SETLK, &lock));
}

static void owners_exclude_each_other(void)
{
    struct stage stage;
    stage_begin(&stage);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_WRLCK, 0, 9), 0);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_WRLCK, 5, 20), 0); /* her own is in no one's way */
    CHECK_EQUAL(set_lock(&stage, BOB, F_RDLCK, 20, 30), -EAGAIN);
    CHECK_EQUAL(set_lock(&stage, BOB, F_WRLCK, 21, INT64_MAX), 0);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_RDLCK, 0, 20), 0);
    CHECK_EQUAL(set_lock(&stage, BOB, F_RDLCK, 0, 20), 0);
    CHECK_EQUAL(set_lock(&stage, BOB, F_WRLCK, 0, 20), -EAGAIN);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_UNLCK, 0, INT64_MAX), 0);
    CHECK_EQUAL(set_lock(&stage, BOB, F_WRLCK, 0, 20), 0);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_UNLCK, 0, INT64_MAX), 0);
    CHECK(!stage.twin.guest.detached);
    stage_end(&stage);
}

static void the_host_and_the_guest_exclude_each_other(void)
{
    struct stage stage;
    stage_begin(&stage);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_WRLCK, 2, 5), 0);
    CHECK_EQUAL(host_lock(&stage, F_RDLCK, 5, 1), -EAGAIN);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 6, 0), 0);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_RDLCK, 6, 6), -EAGAIN);
    struct fuse_file_lock found = get_lock(&stage, ALICE, F_RDLCK, 0, 100);
    CHECK_EQUAL(found.type, F_WRLCK);
    CHECK_EQUAL(found.start, 6);
    CHECK_EQUAL(found.end, INT64_MAX);
    CHECK_EQUAL(found.pid, 0);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_UNLCK, 3, 3), 0);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 3, 1), 0);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 2, 1), -EAGAIN);
    stage_end(&stage);
}

static void getlk_names_the_lock_in_the_way(void)
{
    struct stage stage;
    stage_begin(&stage);
    struct fuse_file_lock found = get_lock(&stage, BOB, F_WRLCK, 0, INT64_MAX);
    CHECK_EQUAL(found.type, F_UNLCK);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_RDLCK, 100, 199), 0);
    found = get_lock(&stage, BOB, F_WRLCK, 0, INT64_MAX);
    CHECK_EQUAL(found.type, F_RDLCK);
    CHECK_EQUAL(found.start, 100);
    CHECK_EQUAL(found.end, 199);
    CHECK_EQUAL(get_lock(&stage, BOB, F_RDLCK, 0, INT64_MAX).type, F_UNLCK);
    CHECK_EQUAL(get_lock(&stage, BOB, F_WRLCK, 200, 300).type, F_UNLCK);
    CHECK_EQUAL(get_lock(&stage, ALICE, F_WRLCK, 0, INT64_MAX).type, F_UNLCK); /* her own */
    stage_end(&stage);
}

static int32_t set_lock_as(struct stage *stage, uint64_t owner, uint32_t pid, uint32_t type, uint64_t start,
                           uint64_t end)
{
    struct fuse_lk_in in = lock_of(stage, owner, type, start, end);
    in.lk.pid = pid;
    return lock_as(stage, &stage->twin.guest, FUSE_SETLK, &in);
}

static void getlk_names_the_guests_process(void)
{
    struct stage stage;
    stage_begin(&stage);
    CHECK_EQUAL(set_lock_as(&stage, ALICE, 111, F_WRLCK, 10, 19), 0);
    CHECK_EQUAL(set_lock_as(&stage, BOB, 222, F_RDLCK, 30, 39), 0);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 50, 10), 0);
    CHECK_EQUAL(get_lock(&stage, 4711, F_WRLCK, 0, 20).pid, 111);
    CHECK_EQUAL(get_lock(&stage, BOB, F_RDLCK, 0, 20).pid, 111);
    CHECK_EQUAL(get_lock(&stage, ALICE, F_WRLCK, 0, 45).pid, 222);
    CHECK_EQUAL(get_lock(&stage, ALICE, F_WRLCK, 55, 55).pid, 0); /* the host's */
    CHECK_EQUAL(get_lock(&stage, ALICE, F_WRLCK, 10, 19).pid, 0); /* none */
    stage_end(&stage);
}

static void closing_any_descriptor_drops_the_owners_locks(void)
{
    struct stage stage;
    stage_begin(&stage);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_WRLCK, 0, 4), 0);
    CHECK_EQUAL(set_lock(&stage, BOB, F_WRLCK, 5, 9), 0);
    CHECK_EQUAL(flush_as(&stage, 4711), 0); /* has none */
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 0, 5), -EAGAIN);
    CHECK_EQUAL(flush_as(&stage, ALICE), 0);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 0, 5), 0);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 5, 5), -EAGAIN);
    struct fuse_release_in in = {.fh = stage.fh, .release_flags = FUSE_RELEASE_FLUSH, .lock_owner = BOB};
    CHECK_EQUAL(loopback_send(&stage.twin.guest, FUSE_RELEASE, stage.nodeid, &in, sizeof(in), NULL, NULL), 0);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 5, 5), 0);
    stage.fh = twin_open(&stage.twin, "file", O_RDWR);
    stage_end(&stage);
}

static void closing_an_open_file_drops_the_locks_that_came_by_it(void)
{
    struct stage stage;
    stage_begin(&stage);
    uint64_t first = stage.fh;
    stage.fh = twin_open(&stage.twin, "file", O_RDWR);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_WRLCK, 0, 9), 0);
    CHECK_EQUAL(set_lock(&stage, BOB, F_WRLCK, 10, 19), 0);
    uint64_t second = stage.fh;
    stage.fh = first;
    CHECK_EQUAL(set_lock(&stage, BOB, F_WRLCK, 20, 29), 0);
    twin_release(&stage.twin, "file", second);
    CHECK_EQUAL(set_lock(&stage, BOB, F_WRLCK, 0, 9), 0);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_WRLCK, 10, 19), -EAGAIN);
    stage_end(&stage);
}

static void locks_survive_the_name(void)
{
    struct stage stage;
    stage_begin(&stage);
    CHECK_EQUAL(unlink(twin_share(&stage.twin, "file")), 0);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_WRLCK, 0, 4), 0);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 0, 5), -EAGAIN);
    close(stage.host);
    CHECK_EQUAL(loopback_release(&stage.twin.guest, stage.nodeid, stage.fh), 0);
    twin_destroy(&stage.twin); /* with the session ends the lock, and its descriptor */
}

static void the_end_of_the_session_ends_all_locks(void)
{
    struct stage stage;
    stage_begin(&stage);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_WRLCK, 0, 4), 0);
    CHECK_EQUAL(set_lock(&stage, BOB, F_WRLCK, 5, 9), 0);
    session_end(&stage.twin.loopback.session);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 0, 0), 0);
    close(stage.host);
    twin_destroy(&stage.twin);
}

static void what_is_no_lock_is_refused(void)
{
    const struct fuse_file_lock wrong[] = {
        {.type = 3, .end = 1},
        {.type = UINT32_MAX, .end = 1},
        {.start = 2, .end = 1},
        {.start = 0, .end = 1ULL << 63},
        {.start = 1ULL << 63, .end = UINT64_MAX},
        {.start = UINT64_MAX, .end = UINT64_MAX},
    };
    const uint32_t opcodes[] = {FUSE_GETLK, FUSE_SETLK, FUSE_SETLKW};
    struct stage stage;
    stage_begin(&stage);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        for (size_t k = 0; k < 3; k++) {
            struct fuse_lk_in in = {.fh = stage.fh, .owner = ALICE, .lk = wrong[i]};
            CHECK_EQUAL(lock_as(&stage, &stage.twin.guest, opcodes[k], &in), -EINVAL);
        }
    }
    struct fuse_lk_in in = lock_of(&stage, ALICE, F_WRLCK, 0, 1);
    in.fh = 4711;
    for (size_t k = 0; k < 3; k++) {
        CHECK_EQUAL(lock_as(&stage, &stage.twin.guest, opcodes[k], &in), -EBADF);
        for (size_t size = 0; size < sizeof(in); size++)
            CHECK_EQUAL(loopback_send(&stage.twin.guest, opcodes[k], stage.nodeid, &in, size, NULL, NULL),
                        -EIO);
    }
    in = lock_of(&stage, ALICE, 9, 0, 1);
    in.lk_flags = FUSE_LK_FLOCK;
    CHECK_EQUAL(lock_as(&stage, &stage.twin.guest, FUSE_SETLK, &in), -EINVAL);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 0, 0), 0);
    stage_end(&stage);
}

static void where_locks_are_the_guests_own_the_host_has_none(void)
{
    struct stage stage;
    twin_begin(&stage.twin, 0);
    twin_file(&stage.twin, "file", "", 0600);
    stage.nodeid = twin_node(&stage.twin, "file");
    stage.fh = twin_open(&stage.twin, "file", O_RDWR);
    for (uint32_t flags = 0; flags < 2; flags++) {
        struct fuse_lk_in in = lock_of(&stage, ALICE, F_WRLCK, 0, 1);
        in.lk_flags = flags;
        CHECK_EQUAL(lock_as(&stage, &stage.twin.guest, FUSE_GETLK, &in), -EOPNOTSUPP);
        CHECK_EQUAL(lock_as(&stage, &stage.twin.guest, FUSE_SETLK, &in), -EOPNOTSUPP);
        CHECK_EQUAL(lock_as(&stage, &stage.twin.guest, FUSE_SETLKW, &in), -EOPNOTSUPP);
    }
    twin_release(&stage.twin, "file", stage.fh);
    twin_destroy(&stage.twin);
}

static void descriptors_that_run_out_are_locks_that_run_out(void)
{
    struct stage stage;
    stage_begin(&stage);
    size_t open_before = loopback_open_descriptors();
    struct rlimit before;
    CHECK_EQUAL(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct rlimit few = {.rlim_cur = open_before + 10, .rlim_max = before.rlim_max};
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &few), 0);
    uint64_t owners = 0;
    int32_t result;
    while ((result = set_lock(&stage, owners, F_RDLCK, 0, 0)) == 0)
        owners++;
    CHECK_EQUAL(result, -ENFILE);
    CHECK(owners >= 5);
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &before), 0);
    CHECK(loopback_open_descriptors() <= open_before + owners); /* nodes gave theirs up first */
    for (uint64_t owner = 0; owner < owners; owner++)
        CHECK_EQUAL(flush_as(&stage, owner), 0);
    CHECK(loopback_open_descriptors() <= open_before);
    stage_end(&stage);
}

/* ---- Waiting ---- */

/* A second thread of the guest's that waits for a lock. */
struct waiter {
    struct stage *stage;
    struct fuse_lk_in in;
    pthread_t thread;
    struct loopback_thread guest;
    _Atomic bool attached;
    _Atomic bool done;
    int32_t result;
};

static void *wait_for_lock(void *context)
{
    struct waiter *waiter = context;
    loopback_attach(&waiter->stage->twin.loopback, &waiter->guest);
    atomic_store(&waiter->attached, true);
    waiter->result = lock_as(waiter->stage, &waiter->guest, FUSE_SETLKW, &waiter->in);
    loopback_detach(&waiter->guest);
    atomic_store(&waiter->done, true);
    return NULL;
}

static void interrupt(int signal_number)
{
    (void)signal_number;
}

static void pause_shortly(void)
{
    struct timespec time = {.tv_nsec = 1000000};
    nanosleep(&time, NULL);
}

/* Until the kernel lists a lock that waits for another on the file ("->" in /proc/locks). */
static void await_waiter(const struct stage *stage)
{
    struct stat attributes;
    CHECK_EQUAL(fstat(stage->host, &attributes), 0);
    char inode[32];
    snprintf(inode, sizeof(inode), ":%lu ", (unsigned long)attributes.st_ino);
    for (int tries = 0; tries < 10000; tries++) {
        FILE *locks = fopen("/proc/locks", "r");
        CHECK(locks != NULL);
        char line[256];
        bool found = false;
        while (fgets(line, sizeof(line), locks) != NULL)
            found = found || (strstr(line, "->") != NULL && strstr(line, inode) != NULL);
        fclose(locks);
        if (found)
            return;
        pause_shortly();
    }
    bool waiter_within_ten_seconds = false;
    CHECK(waiter_within_ten_seconds);
}

static void waiter_begin(struct waiter *waiter, struct stage *stage, struct fuse_lk_in in)
{
    struct sigaction action = {.sa_handler = interrupt};
    CHECK_EQUAL(sigaction(SIGUSR1, &action, NULL), 0);
    *waiter = (struct waiter){.stage = stage, .in = in};
    CHECK_EQUAL(pthread_create(&waiter->thread, NULL, wait_for_lock, waiter), 0);
    while (!atomic_load(&waiter->attached))
        pause_shortly();
    await_waiter(stage);
    CHECK(!atomic_load(&waiter->done));
}

static int32_t waiter_end(struct waiter *waiter)
{
    CHECK_EQUAL(pthread_join(waiter->thread, NULL), 0);
    CHECK(waiter->guest.detached);
    return waiter->result;
}

static void a_lock_is_waited_for_on_the_pool(void)
{
    struct stage stage;
    struct waiter waiter;
    stage_begin(&stage);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_WRLCK, 0, 4), 0);
    waiter_begin(&waiter, &stage, lock_of(&stage, BOB, F_WRLCK, 4, 8));
    pthread_kill(waiter.thread, SIGUSR1); /* a signal that does not mean it */
    CHECK_EQUAL(set_lock(&stage, ALICE, F_UNLCK, 0, 3), 0);
    CHECK(!atomic_load(&waiter.done));
    CHECK_EQUAL(set_lock(&stage, ALICE, F_UNLCK, 4, 4), 0);
    CHECK_EQUAL(waiter_end(&waiter), 0);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_RDLCK, 8, 8), -EAGAIN);
    stage_end(&stage);
}

static void a_wait_is_cancelled_with_its_ring(void)
{
    struct stage stage;
    struct waiter waiter;
    stage_begin(&stage);
    for (uint32_t flags = 0; flags < 2; flags++) {
        if (flags == 0)
            CHECK_EQUAL(set_lock(&stage, ALICE, F_WRLCK, 0, 4), 0);
        else
            CHECK_EQUAL(flock(stage.host, LOCK_EX), 0);
        struct fuse_lk_in in = lock_of(&stage, BOB, F_WRLCK, 0, INT64_MAX);
        in.lk_flags = flags;
        waiter_begin(&waiter, &stage, in);
        atomic_store(&waiter.guest.cancelled, true);
        while (!atomic_load(&waiter.done)) {
            pthread_kill(waiter.thread, SIGUSR1);
            pause_shortly();
        }
        CHECK_EQUAL(waiter_end(&waiter), -EINTR);
    }
    CHECK_EQUAL(set_lock(&stage, ALICE, F_UNLCK, 0, INT64_MAX), 0);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 0, 0), 0); /* nothing was left behind */
    stage_end(&stage);
}

static void who_waits_has_the_lock_although_the_owner_closed_meanwhile(void)
{
    struct stage stage;
    struct waiter waiter;
    stage_begin(&stage);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_WRLCK, 0, 4), 0);
    CHECK_EQUAL(set_lock(&stage, BOB, F_WRLCK, 10, 14), 0);
    waiter_begin(&waiter, &stage, lock_of(&stage, BOB, F_WRLCK, 0, 4));
    CHECK_EQUAL(flush_as(&stage, BOB), 0);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_WRLCK, 10, 14), 0); /* what he had is free */
    CHECK_EQUAL(flush_as(&stage, ALICE), 0);
    CHECK_EQUAL(waiter_end(&waiter), 0);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_RDLCK, 4, 4), -EAGAIN);
    CHECK_EQUAL(flush_as(&stage, BOB), 0);
    CHECK_EQUAL(set_lock(&stage, ALICE, F_RDLCK, 4, 4), 0);
    stage_end(&stage);
}

static void a_wait_outlives_its_session_without_harm(void)
{
    struct stage stage;
    struct waiter waiter;
    stage_begin(&stage);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 0, 0), 0);
    waiter_begin(&waiter, &stage, lock_of(&stage, BOB, F_WRLCK, 0, 4));
    session_end(&stage.twin.loopback.session);
    CHECK_EQUAL(host_lock(&stage, F_UNLCK, 0, 0), 0);
    CHECK_EQUAL(waiter_end(&waiter), 0);
    CHECK_EQUAL(host_lock(&stage, F_WRLCK, 0, 0), 0); /* the lock went with the last who used it */
    close(stage.host);
    twin_destroy(&stage.twin);
}

/* ---- flock ---- */

static int32_t flock_with(struct stage *stage, uint64_t fh, uint32_t type)
{
    struct fuse_lk_in in = lock_of(stage, ALICE, type, 0, INT64_MAX);
    in.fh = fh;
    in.lk_flags = FUSE_LK_FLOCK;
    return lock_as(stage, &stage->twin.guest, FUSE_SETLK, &in);
}

static void flock_belongs_to_the_open_file(void)
{
    struct stage stage;
    stage_begin(&stage);
    uint64_t other = twin_open(&stage.twin, "file", O_RDONLY);
    CHECK_EQUAL(flock_with(&stage, stage.fh, F_WRLCK), 0);
    CHECK_EQUAL(flock_with(&stage, stage.fh, F_WRLCK), 0);
    CHECK_EQUAL(flock_with(&stage, other, F_RDLCK), -EAGAIN);
    CHECK_EQUAL(twin_errno(flock(stage.host, LOCK_SH | LOCK_NB)), -EAGAIN);
    CHECK_EQUAL(flock_with(&stage, stage.fh, F_RDLCK), 0);
    CHECK_EQUAL(flock_with(&stage, other, F_RDLCK), 0);
    CHECK_EQUAL(flock_with(&stage, stage.fh, F_UNLCK), 0);
    CHECK_EQUAL(flock_with(&stage, other, F_WRLCK), 0);
    struct fuse_release_in in = {.fh = other, .release_flags = FUSE_RELEASE_FLOCK_UNLOCK};
    CHECK_EQUAL(loopback_send(&stage.twin.guest, FUSE_RELEASE, stage.nodeid, &in, sizeof(in), NULL, NULL), 0);
    CHECK_EQUAL(flock(stage.host, LOCK_EX | LOCK_NB), 0);
    stage_end(&stage);
}

static void flock_and_posix_locks_do_not_meet(void)
{
    struct stage stage;
    stage_begin(&stage);
    CHECK_EQUAL(flock_with(&stage, stage.fh, F_WRLCK), 0);
    CHECK_EQUAL(set_lock(&stage, BOB, F_WRLCK, 0, INT64_MAX), 0);
    CHECK_EQUAL(flush_as(&stage, BOB), 0);
    CHECK_EQUAL(twin_errno(flock(stage.host, LOCK_SH | LOCK_NB)), -EAGAIN);
    stage_end(&stage);
}

static void flock_is_waited_for_on_the_pool(void)
{
    struct stage stage;
    struct waiter waiter;
    stage_begin(&stage);
    CHECK_EQUAL(flock(stage.host, LOCK_EX), 0);
    struct fuse_lk_in in = lock_of(&stage, ALICE, F_RDLCK, 0, INT64_MAX);
    in.lk_flags = FUSE_LK_FLOCK;
    waiter_begin(&waiter, &stage, in);
    CHECK_EQUAL(flock(stage.host, LOCK_UN), 0);
    CHECK_EQUAL(waiter_end(&waiter), 0);
    CHECK_EQUAL(twin_errno(flock(stage.host, LOCK_EX | LOCK_NB)), -EAGAIN);
    stage_end(&stage);
}

int main(void)
{
    PROMISE(owners_exclude_each_other);
    PROMISE(the_host_and_the_guest_exclude_each_other);
    PROMISE(getlk_names_the_lock_in_the_way);
    PROMISE(getlk_names_the_guests_process);
    PROMISE(closing_any_descriptor_drops_the_owners_locks);
    PROMISE(closing_an_open_file_drops_the_locks_that_came_by_it);
    PROMISE(locks_survive_the_name);
    PROMISE(the_end_of_the_session_ends_all_locks);
    PROMISE(what_is_no_lock_is_refused);
    PROMISE(where_locks_are_the_guests_own_the_host_has_none);
    PROMISE(descriptors_that_run_out_are_locks_that_run_out);
    PROMISE(a_lock_is_waited_for_on_the_pool);
    PROMISE(a_wait_is_cancelled_with_its_ring);
    PROMISE(who_waits_has_the_lock_although_the_owner_closed_meanwhile);
    PROMISE(a_wait_outlives_its_session_without_harm);
    PROMISE(flock_belongs_to_the_open_file);
    PROMISE(flock_and_posix_locks_do_not_meet);
    PROMISE(flock_is_waited_for_on_the_pool);
    return 0;
}
