/* What the guest learns of files and changes about them: getattr, statx, setattr, statfs, access. */
#define _GNU_SOURCE 1
#include "check.h"
#include "twin.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SECOND 1000000000U

static int32_t setattr(struct twin *twin, uint64_t nodeid, const struct fuse_setattr_in *in)
{
    int32_t result = loopback_send(&twin->guest, FUSE_SETATTR, nodeid, in, sizeof(*in), NULL, NULL);
    if (result < 0)
        return result;
    CHECK_EQUAL(result, sizeof(struct fuse_attr_out));
    return 0;
}

static int32_t set_mode(struct twin *twin, const char *name, uint32_t mode)
{
    struct fuse_setattr_in in = {.valid = FATTR_MODE, .mode = mode};
    return setattr(twin, twin_node(twin, name), &in);
}

static int32_t set_size(struct twin *twin, const char *name, uint64_t size, uint32_t more)
{
    struct fuse_setattr_in in = {.valid = FATTR_SIZE | more, .size = size};
    return setattr(twin, twin_node(twin, name), &in);
}

static int32_t set_owner(struct twin *twin, const char *name, uint32_t valid, uint32_t uid, uint32_t gid)
{
    struct fuse_setattr_in in = {.valid = valid, .uid = uid, .gid = gid};
    return setattr(twin, twin_node(twin, name), &in);
}

static struct stat host_stat(struct twin *twin, const char *name)
{
    struct stat attributes;
    CHECK_EQUAL(lstat(twin_share(twin, name), &attributes), 0);
    return attributes;
}

static void check_attributes(const struct fuse_attr *attributes, const struct stat *expected)
{
    CHECK_EQUAL(attributes->ino, expected->st_ino);
    CHECK_EQUAL(attributes->size, expected->st_size);
    CHECK_EQUAL(attributes->blocks, expected->st_blocks);
    CHECK_EQUAL(attributes->atime, expected->st_atim.tv_sec);
    CHECK_EQUAL(attributes->mtime, expected->st_mtim.tv_sec);
    CHECK_EQUAL(attributes->ctime, expected->st_ctim.tv_sec);
    CHECK_EQUAL(attributes->mtimensec, expected->st_mtim.tv_nsec);
    CHECK_EQUAL(attributes->ctimensec, expected->st_ctim.tv_nsec);
    CHECK_EQUAL(attributes->mode, expected->st_mode);
    CHECK_EQUAL(attributes->nlink, expected->st_nlink);
    CHECK_EQUAL(attributes->uid, expected->st_uid);
    CHECK_EQUAL(attributes->gid, expected->st_gid);
}

static void every_kind_of_file(struct twin *twin)
{
    twin_file(twin, "file", "content", 0644);
    twin_directory(twin, "directory", 0750);
    CHECK_EQUAL(symlink("file", twin_share(twin, "link")), 0);
    CHECK_EQUAL(symlink("file", twin_plain(twin, "link")), 0);
    CHECK_EQUAL(mkfifo(twin_share(twin, "fifo"), 0600), 0);
    CHECK_EQUAL(mkfifo(twin_plain(twin, "fifo"), 0600), 0);
}

static void getattr_says_what_stat_says(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    every_kind_of_file(&twin);
    const char *names[] = {"file", "directory", "link", "fifo"};
    for (size_t i = 0; i < 4; i++) {
        struct fuse_attr attributes;
        struct stat expected = host_stat(&twin, names[i]);
        CHECK_EQUAL(loopback_getattr(&twin.guest, twin_node(&twin, names[i]), &attributes), 0);
        check_attributes(&attributes, &expected);
    }
    twin_destroy(&twin);
}

static int32_t getattr_with(struct twin *twin, uint64_t nodeid, uint64_t fh, struct fuse_attr_out *out)
{
    struct fuse_getattr_in in = {.getattr_flags = FUSE_GETATTR_FH, .fh = fh};
    int32_t result = loopback_send(&twin->guest, FUSE_GETATTR, nodeid, &in, sizeof(in), NULL, NULL);
    if (result == (int32_t)sizeof(*out))
        memcpy(out, twin->guest.reply, sizeof(*out));
    return result < 0 ? result : 0;
}

static void an_open_file_answers_when_its_name_is_gone(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "content", 0644);
    uint64_t nodeid = twin_node(&twin, "file");
    uint64_t fh = twin_open(&twin, "file", O_RDONLY);
    CHECK_EQUAL(unlink(twin_share(&twin, "file")), 0);
    struct fuse_attr_out out;
    CHECK_EQUAL(getattr_with(&twin, nodeid, fh, &out), 0);
    CHECK_EQUAL(out.attr.size, 7);
    CHECK_EQUAL(out.attr.nlink, 0);
    CHECK_EQUAL(out.attr_valid, 1);
    CHECK_EQUAL(loopback_release(&twin.guest, nodeid, fh), 0);
    twin_destroy(&twin);
}

static void what_is_not_known_is_refused(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "content", 0644);
    twin_file(&twin, "other", "", 0644);
    uint64_t nodeid = twin_node(&twin, "file");
    uint64_t other = twin_open(&twin, "other", O_RDONLY);
    struct fuse_attr_out out;
    struct fuse_setattr_in in = {.valid = FATTR_MODE | FATTR_FH, .fh = other, .mode = 0};
    CHECK_EQUAL(getattr_with(&twin, nodeid, 12345678901, &out), -EBADF);
    CHECK_EQUAL(getattr_with(&twin, nodeid, other, &out), -EBADF);
    CHECK_EQUAL(setattr(&twin, nodeid, &in), -EBADF);
    CHECK_EQUAL(host_stat(&twin, "other").st_mode & 07777, 0644);
    CHECK_EQUAL(loopback_getattr(&twin.guest, 4711, &out.attr), -ESTALE);
    CHECK_EQUAL(loopback_getattr(&twin.guest, 0, &out.attr), -ESTALE);
    twin_release(&twin, "other", other);
    twin_destroy(&twin);
}

static void statx_tells_the_birth_time_too(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    every_kind_of_file(&twin);
    uint64_t fh = twin_open(&twin, "file", O_RDONLY);
    struct statx expected;
    CHECK_EQUAL(statx(AT_FDCWD, twin_share(&twin, "file"), 0, STATX_BASIC_STATS | STATX_BTIME, &expected), 0);
    for (uint32_t with_handle = 0; with_handle < 2; with_handle++) {
        struct fuse_statx_in in = {.getattr_flags = with_handle, .fh = fh, .sx_mask = STATX_ALL};
        struct fuse_statx_out out;
        CHECK_EQUAL(
            loopback_send(&twin.guest, FUSE_STATX, twin_node(&twin, "file"), &in, sizeof(in), NULL, NULL),
            sizeof(out));
        memcpy(&out, twin.guest.reply, sizeof(out));
        CHECK_EQUAL(out.attr_valid, 1);
        CHECK_EQUAL(out.stat.mask, expected.stx_mask & (STATX_BASIC_STATS | STATX_BTIME));
        CHECK_EQUAL(out.stat.btime.tv_sec, expected.stx_btime.tv_sec);
        CHECK_EQUAL(out.stat.btime.tv_nsec, expected.stx_btime.tv_nsec);
        CHECK_EQUAL(out.stat.mtime.tv_nsec, expected.stx_mtime.tv_nsec);
        CHECK_EQUAL(out.stat.ino, expected.stx_ino);
        CHECK_EQUAL(out.stat.mode, expected.stx_mode);
        CHECK_EQUAL(out.stat.size, 7);
        CHECK_EQUAL(out.stat.blocks, expected.stx_blocks);
        CHECK_EQUAL(out.stat.blksize, expected.stx_blksize);
        CHECK_EQUAL(out.stat.dev_major, expected.stx_dev_major);
        CHECK_EQUAL(out.stat.dev_minor, expected.stx_dev_minor);
    }
    twin_release(&twin, "file", fh);
    twin_destroy(&twin);
}

static void chmod_changes_the_mode_and_nothing_else(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    every_kind_of_file(&twin);
    const char *names[] = {"file", "directory", "fifo"};
    const uint32_t modes[] = {0, 0644, 04755, 02770, 01777, 07777, S_IFSOCK | 0600};
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < sizeof(modes) / sizeof(modes[0]); j++) {
            CHECK_EQUAL(set_mode(&twin, names[i], modes[j]),
                        twin_errno(chmod(twin_plain(&twin, names[i]), modes[j])));
            twin_agree(&twin, names[i]);
        }
    }
    CHECK_EQUAL(set_mode(&twin, "link", 0600), -EOPNOTSUPP);
    twin_agree(&twin, "link");
    twin_destroy(&twin);
}

static void chown_changes_owners_and_clears_what_linux_clears(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    every_kind_of_file(&twin);
    CHECK_EQUAL(set_mode(&twin, "file", 06755), 0);
    CHECK_EQUAL(chmod(twin_plain(&twin, "file"), 06755), 0);
    const char *names[] = {"file", "directory", "link", "fifo"};
    for (size_t i = 0; i < 4; i++) {
        CHECK_EQUAL(set_owner(&twin, names[i], FATTR_UID, 1000, 4), 0);
        CHECK_EQUAL(lchown(twin_plain(&twin, names[i]), 1000, (gid_t)-1), 0);
        twin_agree(&twin, names[i]);
        CHECK_EQUAL(set_owner(&twin, names[i], FATTR_GID, 5, 1000), 0);
        CHECK_EQUAL(lchown(twin_plain(&twin, names[i]), (uid_t)-1, 1000), 0);
        twin_agree(&twin, names[i]);
        CHECK_EQUAL(set_owner(&twin, names[i], FATTR_UID | FATTR_GID, 7, 8), 0);
        CHECK_EQUAL(lchown(twin_plain(&twin, names[i]), 7, 8), 0);
        twin_agree(&twin, names[i]);
    }
    CHECK_EQUAL(host_stat(&twin, "file").st_mode & 07777, 0755);
    CHECK_EQUAL(set_owner(&twin, "file", FATTR_UID, UINT32_MAX, 0), -EINVAL);
    CHECK_EQUAL(set_owner(&twin, "file", FATTR_GID, 0, UINT32_MAX), -EINVAL);
    twin_agree(&twin, "file");
    twin_destroy(&twin);
}

static void mode_stands_where_owner_and_mode_come_together(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0600);
    struct fuse_setattr_in in = {
        .valid = FATTR_MODE | FATTR_UID | FATTR_GID, .mode = 04711, .uid = 12, .gid = 13};
    CHECK_EQUAL(setattr(&twin, twin_node(&twin, "file"), &in), 0);
    struct stat attributes = host_stat(&twin, "file");
    CHECK_EQUAL(attributes.st_mode & 07777, 04711);
    CHECK_EQUAL(attributes.st_uid, 12);
    CHECK_EQUAL(attributes.st_gid, 13);
    struct fuse_attr_out out;
    memcpy(&out, twin.guest.reply, sizeof(out));
    check_attributes(&out.attr, &attributes);
    twin_destroy(&twin);
}

static void truncation_follows_linux(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    every_kind_of_file(&twin);
    const uint64_t sizes[] = {3, 0, 100000, 7, 1ULL << 40};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        CHECK_EQUAL(set_size(&twin, "file", sizes[i], 0), 0);
        CHECK_EQUAL(host_stat(&twin, "file").st_size, sizes[i]);
    }
    CHECK_EQUAL(set_size(&twin, "file", (uint64_t)-1, 0), -EINVAL);
    CHECK_EQUAL(set_size(&twin, "file", 1ULL << 63, 0), -EINVAL);
    CHECK_EQUAL(set_size(&twin, "file", INT64_MAX, 0),
                twin_errno(truncate(twin_plain(&twin, "file"), INT64_MAX)));
    CHECK_EQUAL(set_size(&twin, "directory", 0, 0), twin_errno(truncate(twin_plain(&twin, "directory"), 0)));
    CHECK_EQUAL(set_size(&twin, "fifo", 0, 0), twin_errno(truncate(twin_plain(&twin, "fifo"), 0)));
    CHECK_EQUAL(set_size(&twin, "link", 0, 0), -EINVAL);
    twin_destroy(&twin);
}

static void truncation_by_an_open_file_needs_no_name(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 0600);
    uint64_t nodeid = twin_node(&twin, "file");
    uint64_t readable = twin_open(&twin, "file", O_RDONLY);
    uint64_t writable = twin_open(&twin, "file", O_RDWR);
    CHECK_EQUAL(unlink(twin_share(&twin, "file")), 0);
    struct fuse_setattr_in in = {.valid = FATTR_SIZE | FATTR_FH, .fh = writable, .size = 4};
    CHECK_EQUAL(setattr(&twin, nodeid, &in), 0);
    struct fuse_attr_out out;
    CHECK_EQUAL(getattr_with(&twin, nodeid, readable, &out), 0);
    CHECK_EQUAL(out.attr.size, 4);
    in.fh = readable;
    CHECK_EQUAL(setattr(&twin, nodeid, &in), -EINVAL); /* as ftruncate says of a descriptor for reading */
    CHECK_EQUAL(loopback_release(&twin.guest, nodeid, readable), 0);
    CHECK_EQUAL(loopback_release(&twin.guest, nodeid, writable), 0);
    twin_destroy(&twin);
}

static void truncation_kills_privileges_where_the_guest_says_so(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "0123456789", 06755);
    CHECK_EQUAL(set_size(&twin, "file", 5, 0), 0);
    CHECK_EQUAL(host_stat(&twin, "file").st_mode & 07777, 06755);
    CHECK_EQUAL(set_size(&twin, "file", 3, FATTR_KILL_SUIDGID), 0);
    CHECK_EQUAL(host_stat(&twin, "file").st_mode & 07777, 0755);
    CHECK_EQUAL(set_mode(&twin, "file", 06755), 0);
    CHECK_EQUAL(set_size(&twin, "file", 1, 0), 0); /* the daemon has its own way again */
    CHECK_EQUAL(host_stat(&twin, "file").st_mode & 07777, 06755);
    twin_destroy(&twin);
}

static struct fuse_setattr_in times_of(uint32_t valid, int64_t atime, uint32_t ansec, int64_t mtime,
                                       uint32_t mnsec)
{
    return (struct fuse_setattr_in){.valid = valid,
                                    .atime = (uint64_t)atime,
                                    .atimensec = ansec,
                                    .mtime = (uint64_t)mtime,
                                    .mtimensec = mnsec};
}

static void times_are_set_as_asked(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    every_kind_of_file(&twin);
    const char *names[] = {"file", "directory", "link", "fifo"};
    for (size_t i = 0; i < 4; i++) {
        uint64_t nodeid = twin_node(&twin, names[i]);
        struct fuse_setattr_in in = times_of(FATTR_ATIME | FATTR_MTIME, 1000, 5, -1000, 6);
        CHECK_EQUAL(setattr(&twin, nodeid, &in), 0);
        struct stat attributes = host_stat(&twin, names[i]);
        CHECK_EQUAL(attributes.st_atim.tv_sec, 1000);
        CHECK_EQUAL(attributes.st_mtim.tv_sec, -1000);
        CHECK_EQUAL(attributes.st_mtim.tv_nsec, 6);
        in = times_of(FATTR_ATIME, 2000, 7, 3000, 8);
        CHECK_EQUAL(setattr(&twin, nodeid, &in), 0);
        attributes = host_stat(&twin, names[i]);
        CHECK_EQUAL(attributes.st_atim.tv_sec, 2000);
        CHECK_EQUAL(attributes.st_mtim.tv_sec, -1000);
        in = times_of(FATTR_MTIME | FATTR_MTIME_NOW, 0, 0, 0, UINT32_MAX);
        CHECK_EQUAL(setattr(&twin, nodeid, &in), 0);
        attributes = host_stat(&twin, names[i]);
        CHECK_EQUAL(attributes.st_atim.tv_sec, 2000);
        CHECK_EQUAL(attributes.st_mtim.tv_sec, attributes.st_ctim.tv_sec);
    }
    CHECK_EQUAL(host_stat(&twin, "file").st_size, 7);
    twin_destroy(&twin);
}

static void nanoseconds_beyond_a_second_are_refused(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0600);
    const uint32_t wrong[] = {SECOND, UTIME_NOW, UTIME_OMIT, UINT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        struct fuse_setattr_in in = times_of(FATTR_ATIME, 1, wrong[i], 0, 0);
        CHECK_EQUAL(setattr(&twin, twin_node(&twin, "file"), &in), -EINVAL);
        in = times_of(FATTR_MTIME, 0, 0, 1, wrong[i]);
        CHECK_EQUAL(setattr(&twin, twin_node(&twin, "file"), &in), -EINVAL);
    }
    twin_destroy(&twin);
}

static void nothing_asked_changes_nothing(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "1234", 0600);
    struct stat before = host_stat(&twin, "file");
    struct fuse_setattr_in in = {
        .valid = FATTR_CTIME | FATTR_LOCKOWNER, .ctime = 99, .mode = 0777, .size = 0};
    CHECK_EQUAL(setattr(&twin, twin_node(&twin, "file"), &in), 0);
    struct stat after = host_stat(&twin, "file");
    CHECK_EQUAL(memcmp(&before, &after, sizeof(before)), 0);
    twin_destroy(&twin);
}

static void a_read_only_share_takes_no_change(void)
{
    struct twin twin;
    struct vhostfs_passthrough_options options = loopback_options();
    options.flags |= VHOSTFS_PASSTHROUGH_READ_ONLY;
    twin_create(&twin, &options, 0);
    twin_file(&twin, "file", "1234", 0600);
    CHECK_EQUAL(set_mode(&twin, "file", 0777), -EROFS);
    CHECK_EQUAL(set_size(&twin, "file", 0, 0), -EROFS);
    CHECK_EQUAL(set_owner(&twin, "file", FATTR_UID, 1, 1), -EROFS);
    struct fuse_access_in in = {.mask = W_OK};
    CHECK_EQUAL(
        loopback_send(&twin.guest, FUSE_ACCESS, twin_node(&twin, "file"), &in, sizeof(in), NULL, NULL),
        -EROFS);
    twin_agree(&twin, "file");
    twin_destroy(&twin);
}

static void statfs_says_what_the_host_says(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    every_kind_of_file(&twin);
    struct statfs expected;
    CHECK_EQUAL(statfs(twin.share, &expected), 0);
    const char *names[] = {"file", "directory", "link", "fifo"};
    for (size_t i = 0; i < 4; i++) {
        struct fuse_kstatfs out;
        CHECK_EQUAL(loopback_send(&twin.guest, FUSE_STATFS, twin_node(&twin, names[i]), NULL, 0, NULL, NULL),
                    sizeof(out));
        memcpy(&out, twin.guest.reply, sizeof(out));
        CHECK_EQUAL(out.blocks, expected.f_blocks);
        CHECK_EQUAL(out.files, expected.f_files);
        CHECK_EQUAL(out.bsize, expected.f_bsize);
        CHECK_EQUAL(out.frsize, expected.f_frsize);
        CHECK_EQUAL(out.namelen, expected.f_namelen);
    }
    CHECK_EQUAL(loopback_send(&twin.guest, FUSE_STATFS, 999, NULL, 0, NULL, NULL), -ESTALE);
    twin_destroy(&twin);
}

static int32_t may(struct twin *twin, const char *name, uint32_t uid, uint32_t gid, uint32_t mask)
{
    struct fuse_access_in in = {.mask = mask};
    uint64_t nodeid = twin_node(twin, name);
    twin->guest.uid = uid;
    twin->guest.gid = gid;
    int32_t result = loopback_send(&twin->guest, FUSE_ACCESS, nodeid, &in, sizeof(in), NULL, NULL);
    twin->guest.uid = twin->guest.gid = 0;
    return result;
}

static void access_is_the_callers(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0640);
    CHECK_EQUAL(chown(twin_share(&twin, "file"), 1000, 1001), 0);
    CHECK_EQUAL(may(&twin, "file", 1000, 1, R_OK | W_OK), 0);
    CHECK_EQUAL(may(&twin, "file", 1000, 1, X_OK), -EACCES);
    CHECK_EQUAL(may(&twin, "file", 2000, 1001, R_OK), 0);
    CHECK_EQUAL(may(&twin, "file", 2000, 1001, W_OK), -EACCES);
    CHECK_EQUAL(may(&twin, "file", 2000, 2000, R_OK), -EACCES);
    CHECK_EQUAL(may(&twin, "file", 2000, 2000, F_OK), 0);
    CHECK_EQUAL(may(&twin, "file", 0, 0, R_OK | W_OK), 0);
    CHECK_EQUAL(may(&twin, "file", 0, 0, X_OK), -EACCES);
    twin_destroy(&twin);
}

static void short_requests_and_small_rooms_fail_alone(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "1234", 0600);
    uint64_t nodeid = twin_node(&twin, "file");
    struct {
        uint32_t opcode;
        size_t size;
    } cases[] = {{FUSE_GETATTR, sizeof(struct fuse_getattr_in)},
                 {FUSE_SETATTR, sizeof(struct fuse_setattr_in)},
                 {FUSE_STATX, sizeof(struct fuse_statx_in)},
                 {FUSE_ACCESS, sizeof(struct fuse_access_in)}};
    uint8_t zeros[sizeof(struct fuse_setattr_in)] = {0};
    for (size_t i = 0; i < 4; i++) {
        for (size_t size = 0; size < cases[i].size; size++)
            CHECK_EQUAL(loopback_send(&twin.guest, cases[i].opcode, nodeid, zeros, size, NULL, NULL), -EIO);
        CHECK(loopback_send(&twin.guest, cases[i].opcode, nodeid, zeros, cases[i].size, NULL, NULL) >= 0);
    }
    for (size_t room = sizeof(struct fuse_out_header); room < 16 + sizeof(struct fuse_attr_out); room += 7) {
        twin.guest.room = room;
        CHECK_EQUAL(loopback_send(&twin.guest, FUSE_GETATTR, nodeid, zeros, sizeof(struct fuse_getattr_in),
                                  NULL, NULL),
                    -EIO);
    }
    twin.guest.room = LOOPBACK_ROOM;
    twin_agree(&twin, "file");
    twin_destroy(&twin);
}

/* As on a kernel that does not know these calls. */
static void refuse_new_calls(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 452 /* fchmodat2 */, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_utimensat, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[3])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AT_EMPTY_PATH, 1, 2),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(filter) / sizeof(filter[0]), .filter = filter};
    CHECK_EQUAL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_EQUAL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

int main(void)
{
    if (!check_runs_as_root())
        return 0;
    PROMISE(getattr_says_what_stat_says);
    PROMISE(an_open_file_answers_when_its_name_is_gone);
    PROMISE(what_is_not_known_is_refused);
    PROMISE(statx_tells_the_birth_time_too);
    PROMISE(chmod_changes_the_mode_and_nothing_else);
    PROMISE(chown_changes_owners_and_clears_what_linux_clears);
    PROMISE(mode_stands_where_owner_and_mode_come_together);
    PROMISE(truncation_follows_linux);
    PROMISE(truncation_by_an_open_file_needs_no_name);
    PROMISE(truncation_kills_privileges_where_the_guest_says_so);
    PROMISE(times_are_set_as_asked);
    PROMISE(nanoseconds_beyond_a_second_are_refused);
    PROMISE(nothing_asked_changes_nothing);
    PROMISE(a_read_only_share_takes_no_change);
    PROMISE(statfs_says_what_the_host_says);
    PROMISE(access_is_the_callers);
    PROMISE(short_requests_and_small_rooms_fail_alone);
    refuse_new_calls();
    PROMISE(chmod_changes_the_mode_and_nothing_else);
    PROMISE(times_are_set_as_asked);
    return 0;
}
