/* What the guest does with open files: open, read, write, flush, release, fsync, fallocate, lseek,
 * copy_file_range, syncfs. */
#define _GNU_SOURCE 1
#include "check.h"
#include "twin.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MEBIBYTE (1024 * 1024)

static int32_t read_at(struct twin *twin, uint64_t nodeid, uint64_t fh, uint64_t offset, uint32_t size)
{
    struct fuse_read_in in = {.fh = fh, .offset = offset, .size = size};
    return loopback_send(&twin->guest, FUSE_READ, nodeid, &in, sizeof(in), NULL, NULL);
}

static int32_t write_with(struct twin *twin, uint64_t nodeid, const struct fuse_write_in *in,
                          const void *data, size_t size)
{
    struct loopback_piece pieces[] = {{in, sizeof(*in)}, {data, size}};
    int32_t result = loopback_call(&twin->guest, FUSE_WRITE, nodeid, pieces, 2);
    if (result < 0)
        return result;
    struct fuse_write_out out;
    CHECK_EQUAL(result, sizeof(out));
    memcpy(&out, twin->guest.reply, sizeof(out));
    return (int32_t)out.size;
}

static int32_t write_at(struct twin *twin, uint64_t nodeid, uint64_t fh, uint64_t offset, const void *data,
                        size_t size)
{
    struct fuse_write_in in = {.fh = fh, .offset = offset, .size = (uint32_t)size};
    return write_with(twin, nodeid, &in, data, size);
}

/* A file of both sides, open for the guest and for plain calls. */
struct open_pair {
    uint64_t nodeid;
    uint64_t fh;
    int fd;
};

static struct open_pair open_both(struct twin *twin, const char *name, uint32_t flags)
{
    struct open_pair pair = {.nodeid = twin_node(twin, name), .fh = twin_open(twin, name, flags)};
    pair.fd = open(twin_plain(twin, name), (int)flags | O_CLOEXEC);
    CHECK(pair.fd >= 0);
    return pair;
}

static void close_both(struct twin *twin, const struct open_pair *pair)
{
    CHECK_EQUAL(loopback_release(&twin->guest, pair->nodeid, pair->fh), 0);
    close(pair->fd);
}

static void fill(uint8_t *bytes, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1103515245 + 12345;
        bytes[i] = (uint8_t)(seed >> 16);
    }
}

static uint32_t file_mode(struct twin *twin, const char *name)
{
    struct stat attributes;
    CHECK_EQUAL(stat(twin_share(twin, name), &attributes), 0);
    return attributes.st_mode & 07777;
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

/* ---- open ---- */

static int32_t open_with(struct twin *twin, uint64_t nodeid, uint32_t flags, uint32_t open_flags,
                         struct fuse_open_out *out)
{
    struct fuse_open_in in = {.flags = flags, .open_flags = open_flags};
    int32_t result = loopback_send(&twin->guest, FUSE_OPEN, nodeid, &in, sizeof(in), NULL, NULL);
    if (result == (int32_t)sizeof(*out))
        memcpy(out, twin->guest.reply, sizeof(*out));
    return result < 0 ? result : 0;
}

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

/* ---- the other calls ---- */

static void what_is_closed_is_closed(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    uint64_t nodeid = twin_node(&twin, "file");
    uint64_t fh = twin_open(&twin, "file", O_RDWR);
    struct fuse_flush_in flush = {.fh = fh};
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_FLUSH, nodeid, &flush, sizeof(flush), NULL, NULL), 0);
    CHECK_EQUAL(loopback_release(&twin.guest, nodeid + 1, fh), -EBADF);
    CHECK_EQUAL(loopback_release(&twin.guest, nodeid, fh), 0);
    CHECK_EQUAL(loopback_release(&twin.guest, nodeid, fh), -EBADF);
    CHECK_EQUAL(read_at(&twin, nodeid, fh, 0, 1), -EBADF);
    CHECK_EQUAL(write_at(&twin, nodeid, fh, 0, "x", 1), -EBADF);
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_FLUSH, nodeid, &flush, sizeof(flush), NULL, NULL), -EBADF);
    struct fuse_fsync_in sync = {.fh = fh};
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_FSYNC, nodeid, &sync, sizeof(sync), NULL, NULL), -EBADF);
    struct fuse_fallocate_in allocate = {.fh = fh, .length = 1};
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_FALLOCATE, nodeid, &allocate, sizeof(allocate), NULL, NULL),
                -EBADF);
    struct fuse_lseek_in seek = {.fh = fh, .whence = SEEK_DATA};
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_LSEEK, nodeid, &seek, sizeof(seek), NULL, NULL), -EBADF);
    twin_agree(&twin, "file");
    twin_destroy(&twin);
}

static void on_a_network_file_system_flush_asks_for_errors_on_the_pool(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    twin.loopback.share->local = false;
    struct fuse_open_out out;
    CHECK_EQUAL(open_with(&twin, twin_node(&twin, "file"), O_RDWR, 0, &out), 0);
    CHECK_EQUAL(out.open_flags & FOPEN_NOFLUSH, 0);
    struct fuse_flush_in flush = {.fh = out.fh};
    size_t before = loopback_open_descriptors();
    CHECK_EQUAL(
        loopback_send(&twin.guest, FUSE_FLUSH, twin_node(&twin, "file"), &flush, sizeof(flush), NULL, NULL),
        0);
    CHECK(twin.guest.detached);
    CHECK_EQUAL(loopback_open_descriptors(), before);
    CHECK_EQUAL(read_at(&twin, twin_node(&twin, "file"), out.fh, 0, 100), 10);
    twin_release(&twin, "file", out.fh);
    twin_destroy(&twin);
}

static void a_handle_that_could_not_be_told_is_not_made(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0600);
    uint64_t nodeid = twin_node(&twin, "file");
    uint64_t fh = twin_open(&twin, "file", O_RDONLY);
    size_t before = loopback_open_descriptors();
    struct fuse_open_out out;
    for (size_t room = 0; room < 16 + sizeof(out); room++) {
        twin.guest.room = room;
        CHECK_EQUAL(open_with(&twin, nodeid, O_RDONLY, 0, &out), -EIO);
    }
    twin.guest.room = LOOPBACK_ROOM;
    CHECK_EQUAL(loopback_open_descriptors(), before);
    CHECK_EQUAL(loopback_release(&twin.guest, nodeid, fh), 0);
    twin_destroy(&twin);
}

static void a_directory_handle_is_no_file_handle(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    uint64_t fh;
    CHECK_EQUAL(loopback_opendir(&twin.guest, FUSE_ROOT_ID, &fh), 0);
    CHECK_EQUAL(read_at(&twin, FUSE_ROOT_ID, fh, 0, 100), -EBADF);
    CHECK_EQUAL(loopback_release(&twin.guest, FUSE_ROOT_ID, fh), -EBADF);
    CHECK_EQUAL(loopback_releasedir(&twin.guest, FUSE_ROOT_ID, fh), 0);
    twin_destroy(&twin);
}

static void syncing_leaves_the_queue(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    uint64_t nodeid = twin_node(&twin, "file");
    uint64_t fh = twin_open(&twin, "file", O_RDWR);
    for (uint32_t data_only = 0; data_only < 2; data_only++) {
        struct fuse_fsync_in in = {.fh = fh, .fsync_flags = data_only};
        CHECK_EQUAL(loopback_send(&twin.guest, FUSE_FSYNC, nodeid, &in, sizeof(in), NULL, NULL), 0);
        CHECK(twin.guest.detached);
    }
    struct fuse_syncfs_in in = {0};
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_SYNCFS, FUSE_ROOT_ID, &in, sizeof(in), NULL, NULL), 0);
    CHECK(twin.guest.detached);
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_SYNCFS, 4711, &in, sizeof(in), NULL, NULL), -ESTALE);
    twin_release(&twin, "file", fh);
    twin_destroy(&twin);
}

static void fallocate_follows_linux(void)
{
    const struct {
        uint32_t mode;
        uint64_t offset;
        uint64_t length;
    } cases[] = {
        {0, 0, 100000},
        {FALLOC_FL_KEEP_SIZE, 200000, 4096},
        {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2, 5000},
        {FALLOC_FL_PUNCH_HOLE, 2, 5},
        {FALLOC_FL_ZERO_RANGE, 1, 3},
        {FALLOC_FL_COLLAPSE_RANGE, 0, 4096},
        {0, 0, 0},
        {0, 1ULL << 63, 1},
        {0, 0, UINT64_MAX},
        {0, INT64_MAX, INT64_MAX},
        {0xffffff00, 0, 1},
    };
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    struct open_pair pair = open_both(&twin, "file", O_RDWR);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fuse_fallocate_in in = {
            .fh = pair.fh, .mode = cases[i].mode, .offset = cases[i].offset, .length = cases[i].length};
        int plain = fallocate(pair.fd, (int)in.mode, (off_t)in.offset, (off_t)in.length);
        CHECK_EQUAL(loopback_send(&twin.guest, FUSE_FALLOCATE, pair.nodeid, &in, sizeof(in), NULL, NULL),
                    twin_errno(plain));
        twin_agree(&twin, "file");
    }
    close_both(&twin, &pair);
    pair = open_both(&twin, "file", O_RDONLY);
    struct fuse_fallocate_in in = {.fh = pair.fh, .length = 1};
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_FALLOCATE, pair.nodeid, &in, sizeof(in), NULL, NULL), -EBADF);
    close_both(&twin, &pair);
    twin_destroy(&twin);
}

static void holes_are_found(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    struct open_pair pair = open_both(&twin, "file", O_RDWR);
    CHECK_EQUAL(write_at(&twin, pair.nodeid, pair.fh, MEBIBYTE, "x", 1), 1);
    CHECK_EQUAL(pwrite(pair.fd, "x", 1, MEBIBYTE), 1);
    const uint64_t offsets[] = {0,         5,          100000,    MEBIBYTE, MEBIBYTE + 1, MEBIBYTE + 2,
                                INT64_MAX, 1ULL << 63, UINT64_MAX};
    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        for (uint32_t whence = SEEK_DATA; whence <= SEEK_HOLE; whence++) {
            struct fuse_lseek_in in = {.fh = pair.fh, .offset = offsets[i], .whence = whence};
            struct fuse_lseek_out out;
            off_t plain = lseek(pair.fd, (off_t)offsets[i], (int)whence);
            int32_t result = loopback_send(&twin.guest, FUSE_LSEEK, pair.nodeid, &in, sizeof(in), NULL, NULL);
            CHECK_EQUAL(result, plain < 0 ? -errno : (int32_t)sizeof(out));
            if (plain < 0)
                continue;
            memcpy(&out, twin.guest.reply, sizeof(out));
            CHECK_EQUAL(out.offset, plain);
        }
    }
    const uint32_t others[] = {SEEK_SET, SEEK_CUR, SEEK_END, 5, UINT32_MAX};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        struct fuse_lseek_in in = {.fh = pair.fh, .whence = others[i]};
        CHECK_EQUAL(loopback_send(&twin.guest, FUSE_LSEEK, pair.nodeid, &in, sizeof(in), NULL, NULL),
                    -EINVAL);
    }
    close_both(&twin, &pair);
    twin_destroy(&twin);
}

/* The bytes copied, or a negative errno. */
static int64_t copy_with(struct twin *twin, uint32_t opcode, uint64_t nodeid,
                         const struct fuse_copy_file_range_in *in)
{
    uint64_t copied = 0;
    int32_t result = loopback_send(&twin->guest, opcode, nodeid, in, sizeof(*in), NULL, NULL);
    if (result < 0)
        return result;
    CHECK_EQUAL(result, 8);
    memcpy(&copied, twin->guest.reply, sizeof(copied));
    return (int64_t)copied;
}

static void ranges_are_copied_on_the_host(void)
{
    const uint32_t opcodes[] = {FUSE_COPY_FILE_RANGE, FUSE_COPY_FILE_RANGE_64};
    for (size_t i = 0; i < 2; i++) {
        struct twin twin;
        twin_begin(&twin, 0);
        twin_file(&twin, "from", "0123456789", 0600);
        twin_file(&twin, "to", "abcdefghij", 0600);
        struct open_pair from = open_both(&twin, "from", O_RDONLY);
        struct open_pair to = open_both(&twin, "to", O_RDWR);
        const struct fuse_copy_file_range_in cases[] = {
            {.off_in = 2, .off_out = 5, .len = 3},
            {.off_in = 5, .off_out = 20, .len = 1000},
            {.off_in = 10, .len = 5},
            {.len = 0},
            {.len = UINT64_MAX, .off_out = 1},
            {.len = 5, .flags = 1},
            {.off_in = 1ULL << 63, .len = 1},
            {.off_out = UINT64_MAX, .len = 1},
        };
        for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
            struct fuse_copy_file_range_in in = cases[k];
            in.fh_in = from.fh;
            in.fh_out = to.fh;
            in.nodeid_out = to.nodeid;
            off_t off_in = (off_t)in.off_in;
            off_t off_out = (off_t)in.off_out;
            size_t size = in.len > INT64_MAX ? INT64_MAX : in.len;
            ssize_t plain = copy_file_range(from.fd, &off_in, to.fd, &off_out, size, (unsigned)in.flags);
            CHECK_EQUAL(copy_with(&twin, opcodes[i], from.nodeid, &in), plain < 0 ? -errno : plain);
            twin_agree(&twin, "to");
        }
        struct fuse_copy_file_range_in in = {
            .fh_in = to.fh, .fh_out = from.fh, .nodeid_out = from.nodeid, .len = 1};
        CHECK_EQUAL(copy_with(&twin, opcodes[i], to.nodeid, &in), -EBADF);
        in = (struct fuse_copy_file_range_in){
            .fh_in = from.fh, .fh_out = to.fh, .nodeid_out = from.nodeid, .len = 1};
        CHECK_EQUAL(copy_with(&twin, opcodes[i], from.nodeid, &in), -EBADF);
        in.nodeid_out = make_nodeid(3, 1);
        CHECK_EQUAL(copy_with(&twin, opcodes[i], from.nodeid, &in), -EXDEV);
        in = (struct fuse_copy_file_range_in){
            .fh_in = to.fh, .fh_out = to.fh, .nodeid_out = to.nodeid, .len = 4};
        CHECK_EQUAL(copy_with(&twin, opcodes[i], to.nodeid, &in), -EINVAL); /* onto itself */
        twin_agree(&twin, "to");
        twin_agree(&twin, "from");
        close_both(&twin, &from);
        close_both(&twin, &to);
        twin_destroy(&twin);
    }
}

static void requests_that_are_too_short_fail_alone(void)
{
    const struct {
        uint32_t opcode;
        size_t size;
    } cases[] = {
        {FUSE_OPEN, sizeof(struct fuse_open_in)},
        {FUSE_READ, sizeof(struct fuse_read_in)},
        {FUSE_WRITE, sizeof(struct fuse_write_in)},
        {FUSE_FLUSH, sizeof(struct fuse_flush_in)},
        {FUSE_RELEASE, sizeof(struct fuse_release_in)},
        {FUSE_FSYNC, sizeof(struct fuse_fsync_in)},
        {FUSE_FALLOCATE, sizeof(struct fuse_fallocate_in)},
        {FUSE_LSEEK, sizeof(struct fuse_lseek_in)},
        {FUSE_COPY_FILE_RANGE, sizeof(struct fuse_copy_file_range_in)},
        {FUSE_COPY_FILE_RANGE_64, sizeof(struct fuse_copy_file_range_in)},
        {FUSE_SYNCFS, sizeof(struct fuse_syncfs_in)},
    };
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    uint64_t nodeid = twin_node(&twin, "file");
    uint64_t fh = twin_open(&twin, "file", O_RDWR);
    uint8_t bytes[64];
    memset(bytes, 0xff, sizeof(bytes));
    memcpy(bytes, &fh, sizeof(fh));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t size = 0; size < cases[i].size; size++)
            CHECK_EQUAL(loopback_send(&twin.guest, cases[i].opcode, nodeid, bytes, size, NULL, NULL), -EIO);
    }
    twin_agree(&twin, "file");
    twin_release(&twin, "file", fh);
    twin_destroy(&twin);
}

/* What the guest's kernel leaves to the host (HANDLE_KILLPRIV_V2), without a flag that would say so. */
static void allocating_and_copying_kill_a_users_privileges(void)
{
    struct twin twin;
    twin_begin(&twin, FUSE_INIT_HANDLE_KILLPRIV_V2);
    twin_file(&twin, "from", "0123456789", 0600);
    twin_file(&twin, "to", "abcdefghij", 0600);
    struct open_pair from = open_both(&twin, "from", O_RDONLY);
    struct open_pair to = open_both(&twin, "to", O_RDWR);
    for (uint32_t uid = 0; uid <= 1000; uid += 1000) {
        twin.guest.uid = twin.guest.gid = uid;
        CHECK_EQUAL(chmod(twin_share(&twin, "to"), 06755), 0);
        CHECK_EQUAL(chmod(twin_plain(&twin, "to"), 06755), 0);
        struct fuse_fallocate_in allocate = {.fh = to.fh, .length = 100 + uid};
        CHECK_EQUAL(
            loopback_send(&twin.guest, FUSE_FALLOCATE, to.nodeid, &allocate, sizeof(allocate), NULL, NULL),
            0);
        bool dropped = uid != 0 && credentials_drop_fsetid();
        CHECK_EQUAL(fallocate(to.fd, 0, 0, 100 + uid), 0);
        if (dropped)
            credentials_regain_fsetid();
        twin_agree(&twin, "to");
        CHECK_EQUAL(chmod(twin_share(&twin, "to"), 06755), 0);
        CHECK_EQUAL(chmod(twin_plain(&twin, "to"), 06755), 0);
        struct fuse_copy_file_range_in copy = {
            .fh_in = from.fh, .fh_out = to.fh, .nodeid_out = to.nodeid, .len = 5};
        CHECK_EQUAL(copy_with(&twin, FUSE_COPY_FILE_RANGE, from.nodeid, &copy), 5);
        dropped = uid != 0 && credentials_drop_fsetid();
        off_t zero[2] = {0, 0};
        CHECK_EQUAL(copy_file_range(from.fd, &zero[0], to.fd, &zero[1], 5, 0), 5);
        if (dropped)
            credentials_regain_fsetid();
        twin_agree(&twin, "to");
    }
    close_both(&twin, &to);
    close_both(&twin, &from);
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
    PROMISE(only_regular_files_are_opened);
    PROMISE(flags_that_are_the_guests_own_do_not_reach_the_host);
    PROMISE(opening_can_truncate_and_kill_privileges);
    PROMISE(truncation_by_a_user_kills_privileges_where_the_guest_cannot_say_so);
    PROMISE(the_cache_mode_decides_what_an_open_file_may_cache);
    PROMISE(a_read_only_share_is_only_read);
    PROMISE(a_lease_of_the_hosts_is_waited_for_on_the_pool);
    PROMISE(truncation_waits_for_a_lease_on_the_pool);
    PROMISE(creating_what_is_leased_is_left_to_open);
    PROMISE(what_is_closed_is_closed);
    PROMISE(on_a_network_file_system_flush_asks_for_errors_on_the_pool);
    PROMISE(a_handle_that_could_not_be_told_is_not_made);
    PROMISE(a_directory_handle_is_no_file_handle);
    PROMISE(syncing_leaves_the_queue);
    PROMISE(fallocate_follows_linux);
    PROMISE(holes_are_found);
    PROMISE(ranges_are_copied_on_the_host);
    PROMISE(allocating_and_copying_kill_a_users_privileges);
    PROMISE(requests_that_are_too_short_fail_alone);
    return 0;
}
