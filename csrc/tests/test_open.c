/* How the guest opens files: which, with what flags, and what waits for a lease of the host's. */
#define _GNU_SOURCE 1
#include "check.h"
#include "open_files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

static void only_regular_files_are_opened(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    CHECK_EQUAL(mkdir(twin_share(&twin, "directory"), 0700), 0);
    CHECK_EQUAL(symlink("/etc/passwd", twin_share(&twin, "link")), 0);
    CHECK_EQUAL(mkfifo(twin_share(&twin, "fifo"), 0600), 0);
    CHECK_EQUAL(mknod(twin_share(&twin, "null"), S_IFCHR | 0666, (1 << 8) | 3), 0);
    struct fuse_open_out out;
    CHECK_EQUAL(open_with(&twin, twin_node(&twin, "directory"), O_RDONLY, 0, &out), -EISDIR);
    CHECK_EQUAL(open_with(&twin, twin_node(&twin, "link"), O_RDONLY, 0, &out), -ELOOP);
    CHECK_EQUAL(open_with(&twin, twin_node(&twin, "link"), O_PATH | O_NOFOLLOW, 0, &out), -ELOOP);
    CHECK_EQUAL(open_with(&twin, twin_node(&twin, "fifo"), O_RDONLY, 0, &out), -ENXIO);
    CHECK_EQUAL(open_with(&twin, twin_node(&twin, "null"), O_RDWR, 0, &out), -ENXIO);
    CHECK_EQUAL(open_with(&twin, 4711, O_RDONLY, 0, &out), -ESTALE);
    twin_destroy(&twin);
}

static void flags_that_are_the_guests_own_do_not_reach_the_host(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    uint64_t nodeid = twin_node(&twin, "file");
    struct fuse_open_out out;
    CHECK_EQUAL(open_with(&twin, nodeid, O_ACCMODE, 0, &out), -EINVAL);
    const uint32_t flags[] = {O_CREAT | O_EXCL, O_NOCTTY,  O_PATH,    O_DIRECTORY,
                              O_NONBLOCK,       O_NOATIME, O_TMPFILE, 1U << 31};
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        CHECK_EQUAL(open_with(&twin, nodeid, O_RDWR | flags[i], 0, &out), 0);
        CHECK_EQUAL(read_at(&twin, nodeid, out.fh, 0, 100), 10);
        CHECK_EQUAL(write_at(&twin, nodeid, out.fh, 0, "0", 1), 1);
        CHECK_EQUAL(loopback_release(&twin.guest, nodeid, out.fh), 0);
    }
    twin_agree(&twin, "file");
    twin_destroy(&twin);
}

static void opening_can_truncate_and_kill_privileges(void)
{
    struct twin twin;
    twin_begin(&twin, FUSE_INIT_ATOMIC_O_TRUNC);
    twin_file(&twin, "file", "0123456789", 06755);
    uint64_t nodeid = twin_node(&twin, "file");
    struct fuse_open_out out;
    CHECK_EQUAL(open_with(&twin, nodeid, O_WRONLY | O_TRUNC, 0, &out), 0);
    CHECK_EQUAL(loopback_release(&twin.guest, nodeid, out.fh), 0);
    CHECK_EQUAL(truncate(twin_plain(&twin, "file"), 0), 0);
    twin_agree(&twin, "file");
    CHECK_EQUAL(open_with(&twin, nodeid, O_WRONLY | O_TRUNC, FUSE_OPEN_KILL_SUIDGID, &out), 0);
    CHECK_EQUAL(loopback_release(&twin.guest, nodeid, out.fh), 0);
    CHECK_EQUAL(file_mode(&twin, "file"), 0755);
    twin_destroy(&twin);
}

static void truncation_by_a_user_kills_privileges_where_the_guest_cannot_say_so(void)
{
    for (uint64_t can_say = 0; can_say < 2; can_say++) {
        struct twin twin;
        twin_begin(&twin, FUSE_INIT_ATOMIC_O_TRUNC | (can_say != 0 ? FUSE_INIT_HANDLE_KILLPRIV_V2 : 0));
        twin_file(&twin, "file", "0123456789", 06755);
        uint64_t nodeid = twin_node(&twin, "file");
        struct fuse_open_out out;
        CHECK_EQUAL(open_with(&twin, nodeid, O_WRONLY | O_TRUNC, 0, &out), 0); /* root may keep them */
        CHECK_EQUAL(loopback_release(&twin.guest, nodeid, out.fh), 0);
        CHECK_EQUAL(file_mode(&twin, "file"), 06755);
        twin.guest.uid = twin.guest.gid = 1000;
        CHECK_EQUAL(open_with(&twin, nodeid, O_WRONLY, 0, &out), 0);
        CHECK_EQUAL(loopback_release(&twin.guest, nodeid, out.fh), 0);
        CHECK_EQUAL(file_mode(&twin, "file"), 06755);
        CHECK_EQUAL(open_with(&twin, nodeid, O_WRONLY | O_TRUNC, 0, &out), 0);
        CHECK_EQUAL(loopback_release(&twin.guest, nodeid, out.fh), 0);
        CHECK_EQUAL(file_mode(&twin, "file"), can_say != 0 ? 06755 : 0755);
        twin_destroy(&twin);
    }
}

static void the_cache_mode_decides_what_an_open_file_may_cache(void)
{
    const struct {
        uint32_t cache;
        uint64_t flags;
        uint32_t expected;
    } cases[] = {
        {VHOSTFS_CACHE_NEVER, 0, FOPEN_DIRECT_IO | FOPEN_NOFLUSH},
        {VHOSTFS_CACHE_METADATA, 0, FOPEN_DIRECT_IO | FOPEN_NOFLUSH},
        {VHOSTFS_CACHE_AUTO, 0, FOPEN_NOFLUSH},
        {VHOSTFS_CACHE_ALWAYS, 0, FOPEN_KEEP_CACHE | FOPEN_NOFLUSH},
        {VHOSTFS_CACHE_AUTO, FUSE_INIT_POSIX_LOCKS, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct twin twin;
        struct vhostfs_passthrough_options options = loopback_options();
        options.cache = cases[i].cache;
        twin_create(&twin, &options, cases[i].flags);
        twin_file(&twin, "file", "", 0600);
        struct fuse_open_out out;
        CHECK_EQUAL(open_with(&twin, twin_node(&twin, "file"), O_RDWR, 0, &out), 0);
        CHECK_EQUAL(out.open_flags, cases[i].expected);
        CHECK_EQUAL(out.backing_id, 0);
        twin_release(&twin, "file", out.fh);
        twin_destroy(&twin);
    }
}

static void a_read_only_share_is_only_read(void)
{
    struct twin twin;
    struct vhostfs_passthrough_options options = loopback_options();
    options.flags |= VHOSTFS_PASSTHROUGH_READ_ONLY;
    twin_create(&twin, &options, FUSE_INIT_ATOMIC_O_TRUNC);
    twin_file(&twin, "file", "0123456789", 0600);
    uint64_t nodeid = twin_node(&twin, "file");
    struct fuse_open_out out;
    CHECK_EQUAL(open_with(&twin, nodeid, O_WRONLY, 0, &out), -EROFS);
    CHECK_EQUAL(open_with(&twin, nodeid, O_RDWR, 0, &out), -EROFS);
    CHECK_EQUAL(open_with(&twin, nodeid, O_RDONLY | O_TRUNC, 0, &out), -EROFS);
    CHECK_EQUAL(open_with(&twin, nodeid, O_RDONLY, 0, &out), 0);
    CHECK_EQUAL(read_at(&twin, nodeid, out.fh, 0, 100), 10);
    CHECK_EQUAL(write_at(&twin, nodeid, out.fh, 0, "x", 1), -EBADF);
    struct fuse_fallocate_in allocate = {.fh = out.fh, .length = 1};
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_FALLOCATE, nodeid, &allocate, sizeof(allocate), NULL, NULL),
                -EROFS);
    struct fuse_copy_file_range_in copy = {.fh_in = out.fh, .fh_out = out.fh, .nodeid_out = nodeid, .len = 1};
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_COPY_FILE_RANGE, nodeid, &copy, sizeof(copy), NULL, NULL),
                -EROFS);
    twin_agree(&twin, "file");
    twin_release(&twin, "file", out.fh);
    twin_destroy(&twin);
}

static void give_lease_up(int signal_number, siginfo_t *info, void *context)
{
    (void)signal_number;
    (void)context;
    int saved = errno;
    (void)fcntl(info->si_fd, F_SETLEASE, F_UNLCK);
    errno = saved;
}

/* A host's program that has the file to itself, until somebody else wants it. */
static int take_lease(struct twin *twin, const char *name)
{
    struct sigaction action = {.sa_sigaction = give_lease_up, .sa_flags = SA_SIGINFO | SA_RESTART};
    CHECK_EQUAL(sigaction(SIGRTMIN, &action, NULL), 0);
    int fd = open(twin_share(twin, name), O_RDWR | O_CLOEXEC);
    CHECK_EQUAL(fcntl(fd, F_SETSIG, SIGRTMIN), 0);
    CHECK_EQUAL(fcntl(fd, F_SETLEASE, F_WRLCK), 0);
    return fd;
}

static void a_lease_of_the_hosts_is_waited_for_on_the_pool(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    int fd = take_lease(&twin, "file");
    uint64_t fh;
    CHECK_EQUAL(loopback_open(&twin.guest, twin_node(&twin, "file"), O_RDWR, &fh), 0);
    CHECK(twin.guest.detached);
    CHECK_EQUAL(fcntl(fd, F_GETLEASE), F_UNLCK);
    close(fd);
    twin_release(&twin, "file", fh);
    twin_destroy(&twin);
}

static void truncation_waits_for_a_lease_on_the_pool(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    uint64_t nodeid = twin_node(&twin, "file");
    int fd = take_lease(&twin, "file");
    struct fuse_setattr_in in = {.valid = FATTR_SIZE, .size = 4};
    CHECK(loopback_send(&twin.guest, FUSE_SETATTR, nodeid, &in, sizeof(in), NULL, NULL) > 0);
    CHECK(twin.guest.detached);
    CHECK_EQUAL(fcntl(fd, F_GETLEASE), F_UNLCK);
    close(fd);
    CHECK_EQUAL(truncate(twin_plain(&twin, "file"), 4), 0);
    twin_agree(&twin, "file");
    twin_destroy(&twin);
}

static void creating_what_is_leased_is_left_to_open(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    int fd = take_lease(&twin, "file");
    struct fuse_entry_out entry;
    uint64_t fh;
    /* The guest's kernel looks the name up again and sends OPEN. */
    CHECK_EQUAL(loopback_create_file(&twin.guest, 1, "file", O_RDWR, 0600, &entry, &fh), -ESTALE);
    close(fd);
    twin_agree(&twin, "file");
    twin_destroy(&twin);
}

int main(void)
{
    if (!check_runs_as_root())
        return 0;
    PROMISE(only_regular_files_are_opened);
    PROMISE(flags_that_are_the_guests_own_do_not_reach_the_host);
    PROMISE(opening_can_truncate_and_kill_privileges);
    PROMISE(truncation_by_a_user_kills_privileges_where_the_guest_cannot_say_so);
    PROMISE(the_cache_mode_decides_what_an_open_file_may_cache);
    PROMISE(a_read_only_share_is_only_read);
    PROMISE(a_lease_of_the_hosts_is_waited_for_on_the_pool);
    PROMISE(truncation_waits_for_a_lease_on_the_pool);
    PROMISE(creating_what_is_leased_is_left_to_open);
    return 0;
}
