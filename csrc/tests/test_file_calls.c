/* What else the guest does with open files: flush, release, fsync, fallocate, lseek, copy_file_range, syncfs. */
#define _GNU_SOURCE 1
#include "check.h"
#include "open_files.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define MEBIBYTE (1024 * 1024)

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
