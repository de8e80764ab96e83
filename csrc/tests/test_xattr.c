/* Extended attributes as the guest sees them. */
#define _GNU_SOURCE 1
#include "check.h"
#include "twin.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/xattr.h>
#include <stdlib.h>
#include <sys/xattr.h>
#include <unistd.h>

static int32_t set(struct twin *twin, uint64_t nodeid, const char *name, const void *value, size_t size,
                   uint32_t flags)
{
    struct fuse_setxattr_in in = {.size = (uint32_t)size, .flags = flags};
    struct loopback_piece pieces[] = {
        {&in, FUSE_COMPAT_SETXATTR_IN_SIZE}, {name, strlen(name) + 1}, {value, size}};
    return loopback_call(&twin->guest, FUSE_SETXATTR, nodeid, pieces, 3);
}

static int32_t get(struct twin *twin, uint64_t nodeid, const char *name, uint32_t size)
{
    struct fuse_getxattr_in in = {.size = size};
    return loopback_send(&twin->guest, FUSE_GETXATTR, nodeid, &in, sizeof(in), name, NULL);
}

static int32_t list(struct twin *twin, uint64_t nodeid, uint32_t size)
{
    struct fuse_getxattr_in in = {.size = size};
    return loopback_send(&twin->guest, FUSE_LISTXATTR, nodeid, &in, sizeof(in), NULL, NULL);
}

static int32_t remove_one(struct twin *twin, uint64_t nodeid, const char *name)
{
    return loopback_send(&twin->guest, FUSE_REMOVEXATTR, nodeid, NULL, 0, name, NULL);
}

/* The size that a query with size 0 answered. */
static uint32_t answered_size(const struct twin *twin)
{
    struct fuse_getxattr_out out;
    CHECK_EQUAL(twin->guest.reply_size, sizeof(out));
    memcpy(&out, twin->guest.reply, sizeof(out));
    return out.size;
}

static void a_value_comes_back(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0600);
    twin_directory(&twin, "directory", 0700);
    CHECK_EQUAL(symlink("file", twin_share(&twin, "link")), 0);
    const char *names[] = {"file", "directory", "link"};
    for (size_t i = 0; i < 3; i++) {
        uint64_t nodeid = twin_node(&twin, names[i]);
        CHECK_EQUAL(get(&twin, nodeid, "trusted.one", 100), -ENODATA);
        CHECK_EQUAL(set(&twin, nodeid, "trusted.one", "value", 5, 0), 0);
        CHECK_EQUAL(get(&twin, nodeid, "trusted.one", 0), 8);
        CHECK_EQUAL(answered_size(&twin), 5);
        CHECK_EQUAL(get(&twin, nodeid, "trusted.one", 100), 5);
        CHECK_EQUAL(memcmp(twin.guest.reply, "value", 5), 0);
        CHECK_EQUAL(get(&twin, nodeid, "trusted.one", 5), 5);
        CHECK_EQUAL(get(&twin, nodeid, "trusted.one", 4), -ERANGE);
        char value[8];
        CHECK_EQUAL(lgetxattr(twin_share(&twin, names[i]), "trusted.one", value, sizeof(value)), 5);
        CHECK_EQUAL(list(&twin, nodeid, 4096), sizeof("trusted.one"));
        CHECK_EQUAL(memcmp(twin.guest.reply, "trusted.one", sizeof("trusted.one")), 0);
        CHECK_EQUAL(list(&twin, nodeid, 0), 8);
        CHECK_EQUAL(answered_size(&twin), sizeof("trusted.one"));
        CHECK_EQUAL(list(&twin, nodeid, 3), -ERANGE);
        CHECK_EQUAL(remove_one(&twin, nodeid, "trusted.one"), 0);
        CHECK_EQUAL(remove_one(&twin, nodeid, "trusted.one"), -ENODATA);
        CHECK_EQUAL(list(&twin, nodeid, 4096), 0);
    }
    twin_destroy(&twin);
}

static void names_and_flags_are_judged_by_the_host(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0600);
    CHECK_EQUAL(symlink("file", twin_share(&twin, "link")), 0);
    CHECK_EQUAL(symlink("file", twin_plain(&twin, "link")), 0);
    uint64_t nodeid = twin_node(&twin, "file");
    char endless[300];
    memset(endless, 'x', sizeof(endless));
    memcpy(endless, "user.", 5);
    endless[sizeof(endless) - 1] = 0;
    const char *names[] = {"", "x", "user.", "nothing.known", "system.posix_acl", "trusted.two", endless};
    const uint32_t flags[] = {0, XATTR_CREATE, XATTR_REPLACE, XATTR_CREATE, 0xff};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        for (size_t k = 0; k < sizeof(flags) / sizeof(flags[0]); k++) {
            int plain = twin_errno(setxattr(twin_plain(&twin, "file"), names[i], "v", 1, (int)flags[k]));
            CHECK_EQUAL(set(&twin, nodeid, names[i], "v", 1, flags[k]), plain);
        }
        char value[8];
        ssize_t plain = getxattr(twin_plain(&twin, "file"), names[i], value, sizeof(value));
        CHECK_EQUAL(get(&twin, nodeid, names[i], sizeof(value)), plain < 0 ? -errno : plain);
        CHECK_EQUAL(remove_one(&twin, nodeid, names[i]),
                    twin_errno(removexattr(twin_plain(&twin, "file"), names[i])));
    }
    CHECK_EQUAL(set(&twin, twin_node(&twin, "link"), "user.one", "v", 1, 0),
                twin_errno(lsetxattr(twin_plain(&twin, "link"), "user.one", "v", 1, 0)));
    CHECK_EQUAL(get(&twin, 4711, "user.one", 10), -ESTALE);
    CHECK_EQUAL(list(&twin, 4711, 10), -ESTALE);
    twin_destroy(&twin);
}

static void values_have_the_size_that_linux_allows(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0600);
    uint64_t nodeid = twin_node(&twin, "file");
    uint8_t *value = calloc(1, 65537);
    CHECK(value != NULL);
    const size_t sizes[] = {0, 1, 1000, 65536};
    for (size_t i = 0; i < 4; i++) {
        int plain = twin_errno(setxattr(twin_plain(&twin, "file"), "trusted.big", value, sizes[i], 0));
        CHECK_EQUAL(set(&twin, nodeid, "trusted.big", value, sizes[i], 0), plain);
        if (plain == 0)
            CHECK_EQUAL(get(&twin, nodeid, "trusted.big", UINT32_MAX), sizes[i]);
    }
    CHECK_EQUAL(set(&twin, nodeid, "trusted.big", value, 65537, 0), -E2BIG);
    struct fuse_setxattr_in in = {.size = 100};
    struct loopback_piece pieces[] = {{&in, FUSE_COMPAT_SETXATTR_IN_SIZE}, {"trusted.big", 12}, {value, 99}};
    CHECK_EQUAL(loopback_call(&twin.guest, FUSE_SETXATTR, nodeid, pieces, 3), -EIO);
    for (size_t size = 0; size < 12; size++) {
        pieces[1].size = size;
        CHECK_EQUAL(loopback_call(&twin.guest, FUSE_SETXATTR, nodeid, pieces, 2), -EIO);
        CHECK_EQUAL(loopback_call(&twin.guest, FUSE_REMOVEXATTR, nodeid, pieces + 1, 1), -EIO);
        CHECK_EQUAL(loopback_call(&twin.guest, FUSE_GETXATTR, nodeid, pieces, 2), -EIO);
    }
    CHECK_EQUAL(loopback_call(&twin.guest, FUSE_LISTXATTR, nodeid, pieces, 0), -EIO);
    free(value);
    twin_destroy(&twin);
}

static void without_the_option_there_are_none(void)
{
    struct twin twin;
    struct vhostfs_passthrough_options options = loopback_options();
    options.flags &= ~(uint32_t)VHOSTFS_PASSTHROUGH_XATTR;
    twin_create(&twin, &options, 0);
    CHECK_EQUAL(set(&twin, FUSE_ROOT_ID, "trusted.one", "v", 1, 0), -ENOSYS);
    CHECK_EQUAL(get(&twin, FUSE_ROOT_ID, "trusted.one", 10), -ENOSYS);
    CHECK_EQUAL(list(&twin, FUSE_ROOT_ID, 10), -ENOSYS);
    CHECK_EQUAL(remove_one(&twin, FUSE_ROOT_ID, "trusted.one"), -ENOSYS);
    twin_destroy(&twin);
}

static void a_read_only_share_keeps_them(void)
{
    struct twin twin;
    struct vhostfs_passthrough_options options = loopback_options();
    options.flags |= VHOSTFS_PASSTHROUGH_READ_ONLY;
    twin_create(&twin, &options, 0);
    CHECK_EQUAL(setxattr(twin.share, "trusted.one", "v", 1, 0), 0);
    CHECK_EQUAL(set(&twin, FUSE_ROOT_ID, "trusted.one", "w", 1, 0), -EROFS);
    CHECK_EQUAL(remove_one(&twin, FUSE_ROOT_ID, "trusted.one"), -EROFS);
    CHECK_EQUAL(get(&twin, FUSE_ROOT_ID, "trusted.one", 10), 1);
    CHECK_EQUAL(twin.guest.reply[0], 'v');
    twin_destroy(&twin);
}

/* An access ACL as the kernel stores it: owner rw-, user 1000 r--, group r--, mask r--, other ---. */
static const uint8_t acl[] = {2, 0,    0,    0,    1,    0,    6,  0, 0xff, 0xff, 0xff, 0xff, 2,    0,   4,
                              0, 0xe8, 3,    0,    0,    4,    0,  4, 0,    0xff, 0xff, 0xff, 0xff, 16,  0,
                              4, 0,    0xff, 0xff, 0xff, 0xff, 32, 0, 0,    0,    0xff, 0xff, 0xff, 0xff};

static void acls_need_to_be_negotiated(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0640);
    uint64_t nodeid = twin_node(&twin, "file");
    CHECK_EQUAL(setxattr(twin_share(&twin, "file"), XATTR_NAME_POSIX_ACL_ACCESS, acl, sizeof(acl), 0), 0);
    CHECK_EQUAL(setxattr(twin_share(&twin, "file"), "trusted.one", "v", 1, 0), 0);
    const char *names[] = {XATTR_NAME_POSIX_ACL_ACCESS, XATTR_NAME_POSIX_ACL_DEFAULT};
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQUAL(set(&twin, nodeid, names[i], acl, sizeof(acl), 0), -EOPNOTSUPP);
        CHECK_EQUAL(get(&twin, nodeid, names[i], 100), -EOPNOTSUPP);
        CHECK_EQUAL(remove_one(&twin, nodeid, names[i]), -EOPNOTSUPP);
    }
    CHECK_EQUAL(list(&twin, nodeid, 4096), sizeof("trusted.one"));
    CHECK_EQUAL(memcmp(twin.guest.reply, "trusted.one", sizeof("trusted.one")), 0);
    CHECK_EQUAL(list(&twin, nodeid, 0), 8);
    CHECK_EQUAL(answered_size(&twin), sizeof("trusted.one"));
    CHECK_EQUAL(list(&twin, nodeid, sizeof("trusted.one")), sizeof("trusted.one"));
    twin_destroy(&twin);
}

static void acls_are_kept_by_the_host(void)
{
    struct twin twin;
    twin_begin(&twin, FUSE_INIT_POSIX_ACL);
    twin_file(&twin, "file", "", 0640);
    uint64_t nodeid = twin_node(&twin, "file");
    CHECK_EQUAL(set(&twin, nodeid, XATTR_NAME_POSIX_ACL_ACCESS, acl, sizeof(acl), 0), 0);
    CHECK_EQUAL(get(&twin, nodeid, XATTR_NAME_POSIX_ACL_ACCESS, 1000), sizeof(acl));
    CHECK_EQUAL(memcmp(twin.guest.reply, acl, sizeof(acl)), 0);
    CHECK_EQUAL(list(&twin, nodeid, 1000), sizeof(XATTR_NAME_POSIX_ACL_ACCESS));
    CHECK_EQUAL(remove_one(&twin, nodeid, XATTR_NAME_POSIX_ACL_ACCESS), 0);
    twin_destroy(&twin);
}

static int32_t set_acl_extended(struct twin *twin, uint64_t nodeid, uint32_t more)
{
    struct fuse_setxattr_in in = {.size = sizeof(acl), .setxattr_flags = more};
    struct loopback_piece pieces[] = {{&in, sizeof(in)},
                                      {XATTR_NAME_POSIX_ACL_ACCESS, sizeof(XATTR_NAME_POSIX_ACL_ACCESS)},
                                      {acl, sizeof(acl)}};
    return loopback_call(&twin->guest, FUSE_SETXATTR, nodeid, pieces, 3);
}

static void an_acl_set_by_a_stranger_to_the_group_clears_set_group_id(void)
{
    struct twin twin;
    twin_begin(&twin, FUSE_INIT_POSIX_ACL | FUSE_INIT_SETXATTR_EXT);
    twin_file(&twin, "file", "", 0600);
    struct stat attributes;
    uint64_t nodeid = twin_node(&twin, "file");
    const gid_t groups[] = {0, 500};
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQUAL(chown(twin_share(&twin, "file"), 1000, groups[i]), 0);
        CHECK_EQUAL(chmod(twin_share(&twin, "file"), 02750), 0);
        twin.guest.uid = twin.guest.gid = 1000;
        CHECK_EQUAL(set_acl_extended(&twin, nodeid, 0), 0);
        CHECK_EQUAL(stat(twin_share(&twin, "file"), &attributes), 0);
        CHECK_EQUAL(attributes.st_mode & S_ISGID, S_ISGID);
        CHECK_EQUAL(set_acl_extended(&twin, nodeid, FUSE_SETXATTR_ACL_KILL_SGID), 0);
        CHECK_EQUAL(stat(twin_share(&twin, "file"), &attributes), 0);
        CHECK_EQUAL(attributes.st_mode & S_ISGID, 0);
    }
    twin_destroy(&twin);
}

int main(void)
{
    if (!check_runs_as_root())
        return 0;
    PROMISE(a_value_comes_back);
    PROMISE(names_and_flags_are_judged_by_the_host);
    PROMISE(values_have_the_size_that_linux_allows);
    PROMISE(without_the_option_there_are_none);
    PROMISE(a_read_only_share_keeps_them);
    PROMISE(acls_need_to_be_negotiated);
    PROMISE(acls_are_kept_by_the_host);
    PROMISE(an_acl_set_by_a_stranger_to_the_group_clears_set_group_id);
    return 0;
}
