/* What the guest reads and writes. */
#define _GNU_SOURCE 1
#include "check.h"
#include "open_files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MEBIBYTE (1024 * 1024)

static void fill(uint8_t *bytes, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1103515245 + 12345;
        bytes[i] = (uint8_t)(seed >> 16);
    }
}

static void what_is_written_is_read_in_any_pieces(void)
{
    static uint8_t bytes[MEBIBYTE];
    const size_t sizes[] = {0, 1, 511, 4096, 4097, 65536, MEBIBYTE};
    const uint64_t offsets[] = {0, 1, 4095, 70000};
    const size_t pieces[] = {0, 4096, 1031};
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0600);
    struct open_pair pair = open_both(&twin, "file", O_RDWR);
    for (size_t i = 0; i < 3; i++) {
        twin.guest.piece = pieces[i];
        for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++) {
            for (size_t k = 0; k < sizeof(offsets) / sizeof(offsets[0]); k++) {
                fill(bytes, sizes[j], (unsigned)(i * 100 + j * 10 + k));
                CHECK_EQUAL(write_at(&twin, pair.nodeid, pair.fh, offsets[k], bytes, sizes[j]), sizes[j]);
                CHECK_EQUAL(pwrite(pair.fd, bytes, sizes[j], (off_t)offsets[k]), sizes[j]);
                CHECK_EQUAL(read_at(&twin, pair.nodeid, pair.fh, offsets[k], (uint32_t)sizes[j]), sizes[j]);
                CHECK_EQUAL(memcmp(twin.guest.reply, bytes, sizes[j]), 0);
            }
        }
        twin_agree(&twin, "file");
    }
    close_both(&twin, &pair);
    twin_destroy(&twin);
}

static void a_short_read_is_the_end_of_the_file(void)
{
    const size_t lengths[] = {0, 1, 4095, 4096, 8192, 10000};
    const uint64_t offsets[] = {0, 1, 4096, 8191, 8192, 9999, 10000, 100000, INT64_MAX};
    static uint8_t expected[65536];
    struct twin twin;
    twin_begin(&twin, 0);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        char name[16];
        snprintf(name, sizeof(name), "file%zu", i);
        twin_file(&twin, name, "", 0600);
        struct open_pair pair = open_both(&twin, name, O_RDWR);
        fill(expected, lengths[i], (unsigned)i);
        CHECK_EQUAL(write_at(&twin, pair.nodeid, pair.fh, 0, expected, lengths[i]), lengths[i]);
        CHECK_EQUAL(pwrite(pair.fd, expected, lengths[i], 0), lengths[i]);
        for (size_t k = 0; k < sizeof(offsets) / sizeof(offsets[0]); k++) {
            uint32_t size = offsets[k] == INT64_MAX ? 0 : 60000;
            ssize_t plain = pread(pair.fd, expected, size, (off_t)offsets[k]);
            CHECK_EQUAL(read_at(&twin, pair.nodeid, pair.fh, offsets[k], size), plain);
            CHECK_EQUAL(memcmp(twin.guest.reply, expected, (size_t)plain), 0);
        }
        close_both(&twin, &pair);
    }
    twin_destroy(&twin);
}

static bool on_tmpfs(struct twin *twin)
{
    struct statfs file_system;
    CHECK_EQUAL(statfs(twin->share, &file_system), 0);
    return file_system.f_type == 0x01021994;
}

static void only_reads_that_need_the_disk_leave_the_queue(void)
{
    static uint8_t bytes[256 * 1024];
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0600);
    struct open_pair pair = open_both(&twin, "file", O_RDWR);
    fill(bytes, sizeof(bytes), 1);
    CHECK_EQUAL(write_at(&twin, pair.nodeid, pair.fh, 0, bytes, sizeof(bytes)), sizeof(bytes));
    CHECK(!twin.guest.detached);
    CHECK_EQUAL(read_at(&twin, pair.nodeid, pair.fh, 0, sizeof(bytes)), sizeof(bytes));
    CHECK(!twin.guest.detached);
    if (!on_tmpfs(&twin)) {
        int fd = open(twin_share(&twin, "file"), O_RDONLY | O_CLOEXEC);
        CHECK_EQUAL(fsync(fd), 0);
        CHECK_EQUAL(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
        CHECK_EQUAL(read_at(&twin, pair.nodeid, pair.fh, 0, sizeof(bytes)), sizeof(bytes));
        CHECK(twin.guest.detached);
        CHECK_EQUAL(memcmp(twin.guest.reply, bytes, sizeof(bytes)), 0);
        /* Half of it cached: whole all the same. */
        CHECK_EQUAL(posix_fadvise(fd, sizeof(bytes) / 2, 0, POSIX_FADV_DONTNEED), 0);
        CHECK_EQUAL(read_at(&twin, pair.nodeid, pair.fh, 0, sizeof(bytes)), sizeof(bytes));
        CHECK_EQUAL(memcmp(twin.guest.reply, bytes, sizeof(bytes)), 0);
        close(fd);
    }
    close_both(&twin, &pair);
    twin_destroy(&twin);
}

static void reads_fit_the_room_for_the_reply(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    struct open_pair pair = open_both(&twin, "file", O_RDONLY);
    for (size_t room = 16; room <= 26; room++) {
        twin.guest.room = room;
        CHECK_EQUAL(read_at(&twin, pair.nodeid, pair.fh, 0, UINT32_MAX), room - 16);
    }
    twin.guest.room = 8;
    CHECK_EQUAL(read_at(&twin, pair.nodeid, pair.fh, 0, 100), 0);
    twin.guest.room = LOOPBACK_ROOM;
    CHECK_EQUAL(read_at(&twin, pair.nodeid, pair.fh, 0, UINT32_MAX), 10);
    close_both(&twin, &pair);
    twin_destroy(&twin);
}

static void offsets_that_no_file_has_are_refused_as_by_linux(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    struct open_pair pair = open_both(&twin, "file", O_RDWR);
    const uint64_t offsets[] = {1ULL << 63, UINT64_MAX,    UINT64_MAX - 5,
                                INT64_MAX,  INT64_MAX - 3, INT64_MAX - 4096};
    char bytes[16] = {0};
    signal(SIGXFSZ, SIG_IGN);
    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        ssize_t plain = pread(pair.fd, bytes, sizeof(bytes), (off_t)offsets[i]);
        CHECK_EQUAL(read_at(&twin, pair.nodeid, pair.fh, offsets[i], sizeof(bytes)),
                    plain < 0 ? -errno : plain);
        plain = pwrite(pair.fd, bytes, sizeof(bytes), (off_t)offsets[i]);
        CHECK_EQUAL(write_at(&twin, pair.nodeid, pair.fh, offsets[i], bytes, sizeof(bytes)),
                    plain < 0 ? -errno : plain);
    }
    close_both(&twin, &pair);
    twin_destroy(&twin);
}

static void a_write_needs_the_data_that_it_speaks_of(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    struct open_pair pair = open_both(&twin, "file", O_RDWR);
    const uint32_t sizes[] = {4, 100, MEBIBYTE, INT32_MAX, UINT32_MAX};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct fuse_write_in in = {.fh = pair.fh, .size = sizes[i]};
        CHECK_EQUAL(write_with(&twin, pair.nodeid, &in, "abc", 3), -EIO);
    }
    struct fuse_write_in in = {.fh = pair.fh, .size = 2};
    CHECK_EQUAL(write_with(&twin, pair.nodeid, &in, "abc", 3), 2);
    CHECK_EQUAL(pwrite(pair.fd, "ab", 2, 0), 2);
    twin.guest.room = 16;
    CHECK_EQUAL(write_with(&twin, pair.nodeid, &in, "zzz", 3), -EIO);
    twin.guest.room = LOOPBACK_ROOM;
    twin_agree(&twin, "file");
    close_both(&twin, &pair);
    twin_destroy(&twin);
}

static void appending_goes_to_the_end_and_write_back_where_it_says(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    struct open_pair pair = open_both(&twin, "file", O_WRONLY | O_APPEND);
    struct fuse_write_in in = {.fh = pair.fh, .size = 2, .flags = O_WRONLY | O_APPEND, .offset = 3};
    CHECK_EQUAL(write_with(&twin, pair.nodeid, &in, "ab", 2), 2);
    CHECK_EQUAL(pwrite(pair.fd, "ab", 2, 3), 2); /* Linux appends here too */
    twin_agree(&twin, "file");
    in.write_flags = FUSE_WRITE_CACHE;
    CHECK_EQUAL(write_with(&twin, pair.nodeid, &in, "cd", 2), 2);
    CHECK_EQUAL(fcntl(pair.fd, F_SETFL, 0), 0);
    CHECK_EQUAL(pwrite(pair.fd, "cd", 2, 3), 2);
    twin_agree(&twin, "file");
    close_both(&twin, &pair);
    twin_destroy(&twin);
}

static void with_writeback_the_guest_knows_where_the_end_is(void)
{
    struct twin twin;
    twin_begin(&twin, FUSE_INIT_WRITEBACK_CACHE);
    twin_file(&twin, "file", "0123456789", 0600);
    struct open_pair pair = open_both(&twin, "file", O_WRONLY | O_APPEND);
    struct fuse_write_in in = {.fh = pair.fh, .size = 2, .flags = O_WRONLY | O_APPEND, .offset = 3};
    CHECK_EQUAL(write_with(&twin, pair.nodeid, &in, "ab", 2), 2);
    CHECK_EQUAL(read_at(&twin, pair.nodeid, pair.fh, 0, 100), 10); /* it completes pages with what it reads */
    CHECK_EQUAL(memcmp(twin.guest.reply, "012ab56789", 10), 0);
    close_both(&twin, &pair);
    twin_destroy(&twin);
}

static void directions_are_kept_apart(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    struct open_pair readable = open_both(&twin, "file", O_RDONLY);
    struct open_pair writable = open_both(&twin, "file", O_WRONLY);
    CHECK_EQUAL(write_at(&twin, readable.nodeid, readable.fh, 0, "x", 1), -EBADF);
    CHECK_EQUAL(read_at(&twin, writable.nodeid, writable.fh, 0, 1), -EBADF);
    twin_agree(&twin, "file");
    close_both(&twin, &readable);
    close_both(&twin, &writable);
    twin_destroy(&twin);
}

static void writes_kill_privileges_where_the_guest_says_so(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 06755);
    struct open_pair pair = open_both(&twin, "file", O_RDWR);
    CHECK_EQUAL(write_at(&twin, pair.nodeid, pair.fh, 0, "x", 1), 1);
    CHECK_EQUAL(file_mode(&twin, "file"), 06755);
    struct fuse_write_in in = {.fh = pair.fh, .size = 1, .write_flags = FUSE_WRITE_KILL_SUIDGID};
    CHECK_EQUAL(write_with(&twin, pair.nodeid, &in, "y", 1), 1);
    CHECK_EQUAL(file_mode(&twin, "file"), 0755);
    CHECK_EQUAL(chmod(twin_share(&twin, "file"), 06755), 0);
    in.fh = 4711; /* a failure on the way leaves nothing behind */
    CHECK_EQUAL(write_with(&twin, pair.nodeid, &in, "y", 1), -EBADF);
    CHECK_EQUAL(write_at(&twin, pair.nodeid, pair.fh, 0, "x", 1), 1);
    CHECK_EQUAL(file_mode(&twin, "file"), 06755);
    close_both(&twin, &pair);
    twin_destroy(&twin);
}

/* Capabilities of a file, as the kernel stores them: version 2, CAP_NET_RAW permitted. */
static const uint8_t net_raw[] = {0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};

static void changes_of_any_kind_take_capabilities_away(void)
{
    struct twin twin;
    twin_begin(&twin, FUSE_INIT_HANDLE_KILLPRIV_V2);
    twin_file(&twin, "file", "0123456789", 0755);
    struct open_pair pair = open_both(&twin, "file", O_RDWR);
    const char *path = twin_share(&twin, "file");
    const struct fuse_setattr_in changes[] = {{.valid = FATTR_SIZE, .size = 5},
                                              {.valid = FATTR_UID, .uid = 1000}};
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQUAL(setxattr(path, "security.capability", net_raw, sizeof(net_raw), 0), 0);
        if (i == 0)
            CHECK_EQUAL(write_at(&twin, pair.nodeid, pair.fh, 0, "x", 1), 1);
        else
            CHECK(loopback_send(&twin.guest, FUSE_SETATTR, pair.nodeid, &changes[i - 1], sizeof(changes[0]),
                                NULL, NULL) > 0);
        CHECK_EQUAL(twin_errno(getxattr(path, "security.capability", NULL, 0)), -ENODATA);
    }
    close_both(&twin, &pair);
    twin_destroy(&twin);
}

static void synchronous_writes_wait_on_the_pool(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0600);
    const uint32_t flags[] = {O_SYNC, O_DSYNC};
    for (size_t i = 0; i < 2; i++) {
        struct open_pair pair = open_both(&twin, "file", O_RDWR | flags[i]);
        CHECK_EQUAL(write_at(&twin, pair.nodeid, pair.fh, 0, "abc", 3), 3);
        CHECK(twin.guest.detached);
        close_both(&twin, &pair);
        pair = open_both(&twin, "file", O_RDWR); /* and one such write of a file that is not */
        struct fuse_write_in in = {.fh = pair.fh, .size = 3, .flags = O_RDWR | flags[i]};
        CHECK_EQUAL(write_with(&twin, pair.nodeid, &in, "def", 3), 3);
        CHECK(twin.guest.detached);
        CHECK_EQUAL(read_at(&twin, pair.nodeid, pair.fh, 0, 10), 3);
        CHECK_EQUAL(memcmp(twin.guest.reply, "def", 3), 0);
        close_both(&twin, &pair);
    }
    twin_destroy(&twin);
}

static void direct_io_reaches_the_host_where_it_is_allowed(void)
{
    for (uint32_t allowed = 0; allowed < 2; allowed++) {
        struct twin twin;
        struct vhostfs_passthrough_options options = loopback_options();
        options.flags |= allowed != 0 ? VHOSTFS_PASSTHROUGH_DIRECT_IO : 0;
        twin_create(&twin, &options, 0);
        twin_file(&twin, "file", "0123456789", 0600);
        uint64_t nodeid = twin_node(&twin, "file");
        uint64_t fh = twin_open(&twin, "file", O_RDWR | O_DIRECT);
        CHECK_EQUAL(write_at(&twin, nodeid, fh, 3, "abc", 3) == 3 ? 1 : 0,
                    allowed == 0 || on_tmpfs(&twin) ? 1 : 0);
        CHECK_EQUAL(twin.guest.detached, allowed);
        int32_t result =
            read_at(&twin, nodeid, fh, 0, 4096); /* at 16 bytes past a page: not as O_DIRECT wants it */
        CHECK(result == 10 || result == -EINVAL);
        CHECK_EQUAL(twin.guest.detached, allowed);
        twin_release(&twin, "file", fh);
        twin_destroy(&twin);
    }
}

static void memory_that_is_gone_is_an_input_output_error(void)
{
    static uint8_t bytes[65536];
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0600);
    struct open_pair pair = open_both(&twin, "file", O_RDWR);
    CHECK_EQUAL(write_at(&twin, pair.nodeid, pair.fh, 0, bytes, sizeof(bytes)), sizeof(bytes));
    uint8_t *gone = (uint8_t *)(((uintptr_t)twin.guest.answer + 8191) & ~(uintptr_t)4095);
    CHECK_EQUAL(mprotect(gone, 16384, PROT_NONE), 0);
    struct fuse_read_in in = {.fh = pair.fh, .size = sizeof(bytes)};
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_READ, pair.nodeid, &in, sizeof(in), NULL, NULL), -EIO);
    CHECK_EQUAL(mprotect(gone, 16384, PROT_READ | PROT_WRITE), 0);
    CHECK_EQUAL(read_at(&twin, pair.nodeid, pair.fh, 0, sizeof(bytes)), sizeof(bytes));
    close_both(&twin, &pair);
    twin_destroy(&twin);
}

int main(void)
{
    if (!check_runs_as_root())
        return 0;
    PROMISE(what_is_written_is_read_in_any_pieces);
    PROMISE(a_short_read_is_the_end_of_the_file);
    PROMISE(only_reads_that_need_the_disk_leave_the_queue);
    PROMISE(reads_fit_the_room_for_the_reply);
    PROMISE(offsets_that_no_file_has_are_refused_as_by_linux);
    PROMISE(a_write_needs_the_data_that_it_speaks_of);
    PROMISE(appending_goes_to_the_end_and_write_back_where_it_says);
    PROMISE(with_writeback_the_guest_knows_where_the_end_is);
    PROMISE(directions_are_kept_apart);
    PROMISE(writes_kill_privileges_where_the_guest_says_so);
    PROMISE(changes_of_any_kind_take_capabilities_away);
    PROMISE(synchronous_writes_wait_on_the_pool);
    PROMISE(direct_io_reaches_the_host_where_it_is_allowed);
    PROMISE(memory_that_is_gone_is_an_input_output_error);
    return 0;
}
