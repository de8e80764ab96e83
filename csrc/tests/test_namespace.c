/* Promises of names: what is made, moved and removed by the guest is so on the host, and the other way round.
 */
#define _GNU_SOURCE 1
#include "check.h"
#include "loopback.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static struct loopback loopback;
static struct loopback_thread guest;

static void begin_with(uint32_t flags, uint64_t budget, uint64_t negative, uint64_t init_flags)
{
    struct vhostfs_passthrough_options options = loopback_options();
    options.flags |= flags;
    options.descriptor_budget = budget;
    options.negative_nanoseconds = negative;
    loopback_create(&loopback, &options, init_flags);
    loopback_attach(&loopback, &guest);
}

static void begin(void)
{
    begin_with(0, 64, 0, 0);
}

static void end(void)
{
    loopback_detach(&guest);
    loopback_destroy(&loopback);
}

static struct stat host_stat(const char *path)
{
    struct stat attributes;
    CHECK_EQUAL(fstatat(loopback.root_fd, path, &attributes, AT_SYMLINK_NOFOLLOW), 0);
    return attributes;
}

static bool host_has(const char *path)
{
    struct stat attributes;
    return fstatat(loopback.root_fd, path, &attributes, AT_SYMLINK_NOFOLLOW) == 0;
}

static void host_file(const char *path)
{
    int fd = openat(loopback.root_fd, path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    close(fd);
}

/* ---- Lookups ---- */

static void a_missing_name_is_ENOENT(void)
{
    begin();
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "none", &entry), -ENOENT);
    end();
}

static void a_missing_name_is_a_cached_negative_where_asked_for(void)
{
    begin_with(0, 64, 1500000000, 0);
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "none", &entry), 0);
    CHECK_EQUAL(entry.nodeid, 0);
    CHECK_EQUAL(entry.entry_valid, 1);
    CHECK_EQUAL(entry.entry_valid_nsec, 500000000);
    end();
}

static void dots_lead_to_known_directories_and_never_outside(void)
{
    begin();
    struct fuse_entry_out a;
    struct fuse_entry_out b;
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "a", 0755, &a), 0);
    CHECK_EQUAL(loopback_mkdir(&guest, a.nodeid, "b", 0755, &b), 0);
    CHECK_EQUAL(loopback_lookup(&guest, b.nodeid, ".", &entry), 0);
    CHECK_EQUAL(entry.nodeid, b.nodeid);
    CHECK_EQUAL(entry.generation, b.generation);
    CHECK_EQUAL(loopback_lookup(&guest, b.nodeid, "..", &entry), 0);
    CHECK_EQUAL(entry.nodeid, a.nodeid);
    CHECK_EQUAL(loopback_lookup(&guest, a.nodeid, "..", &entry), 0);
    CHECK_EQUAL(entry.nodeid, 1);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "..", &entry), 0);
    CHECK_EQUAL(entry.nodeid, 1);
    CHECK_EQUAL(entry.attr.ino, host_stat(".").st_ino);
    end();
}

static void bad_names_are_refused_as_linux_does(void)
{
    begin();
    char long_name[300];
    memset(long_name, 'x', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = 0;
    struct fuse_entry_out entry;
    uint64_t fh;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "", &entry), -ENOENT);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "a/b", &entry), -EINVAL);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "/etc", &entry), -EINVAL);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "../x", &entry), -EINVAL);
    CHECK_EQUAL(loopback_lookup(&guest, 1, long_name, &entry), -ENAMETOOLONG);
    CHECK_EQUAL(loopback_mkdir(&guest, 1, ".", 0755, &entry), -EEXIST);
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "..", 0755, &entry), -EEXIST);
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "a/b", 0755, &entry), -EINVAL);
    CHECK_EQUAL(loopback_create_file(&guest, 1, "..", O_RDWR, 0644, &entry, &fh), -EISDIR);
    CHECK_EQUAL(loopback_create_file(&guest, 1, "../x", O_RDWR, 0644, &entry, &fh), -EINVAL);
    CHECK_EQUAL(loopback_unlink(&guest, 1, "."), -EISDIR);
    CHECK_EQUAL(loopback_unlink(&guest, 1, ".."), -EISDIR);
    CHECK_EQUAL(loopback_rmdir(&guest, 1, "."), -EINVAL);
    CHECK_EQUAL(loopback_rmdir(&guest, 1, ".."), -ENOTEMPTY);
    CHECK_EQUAL(loopback_rename(&guest, 1, ".", 1, "x", 0), -EBUSY);
    CHECK_EQUAL(loopback_rename(&guest, 1, "x", 1, "..", 0), -EBUSY);
    CHECK_EQUAL(loopback_rename(&guest, 1, "x", 1, "..", RENAME_NOREPLACE), -EEXIST);
    CHECK_EQUAL(loopback_send(&guest, FUSE_SYMLINK, 1, NULL, 0, "..", "t"), -EEXIST);
    CHECK_EQUAL(loopback_send(&guest, FUSE_LOOKUP, 1, "abc", 3, NULL, NULL), -EIO);
    end();
}

/* ---- Creating ---- */

static void a_created_file_is_there_with_owner_and_mode(void)
{
    begin();
    struct fuse_entry_out entry;
    uint64_t fh;
    guest.uid = 1234;
    guest.gid = 2345;
    CHECK_EQUAL(loopback_create_file(&guest, 1, "f", O_RDWR | O_EXCL, 0640, &entry, &fh), 0);
    struct stat host = host_stat("f");
    CHECK_EQUAL(host.st_uid, 1234);
    CHECK_EQUAL(host.st_gid, 2345);
    CHECK_EQUAL(host.st_mode, S_IFREG | 0640);
    CHECK_EQUAL(entry.attr.ino, host.st_ino);
    CHECK_EQUAL(entry.attr.mode, host.st_mode);
    CHECK_EQUAL(entry.attr.uid, 1234);
    guest.uid = guest.gid = 0;
    struct fuse_entry_out directory;
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "d", 0755, &directory), 0);
    CHECK_EQUAL(host_stat("d").st_uid, 0);
    CHECK_EQUAL(loopback_create_file(&guest, 1, "f", O_RDWR | O_EXCL, 0640, &entry, &fh), -EEXIST);
    end();
}

static void creating_what_exists_opens_it(void)
{
    begin();
    host_file("f");
    struct fuse_entry_out entry;
    struct fuse_entry_out known;
    uint64_t fh;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "f", &known), 0);
    CHECK_EQUAL(loopback_create_file(&guest, 1, "f", O_RDWR, 0600, &entry, &fh), 0);
    CHECK_EQUAL(entry.nodeid, known.nodeid);
    CHECK_EQUAL(entry.attr.mode, S_IFREG | 0644);
    CHECK_EQUAL(loopback_release(&guest, entry.nodeid, fh), 0);
    CHECK_EQUAL(symlinkat("f", loopback.root_fd, "link"), 0);
    CHECK_EQUAL(mkfifoat(loopback.root_fd, "fifo", 0600), 0);
    CHECK_EQUAL(mkdirat(loopback.root_fd, "directory", 0700), 0);
    CHECK_EQUAL(loopback_create_file(&guest, 1, "directory", O_RDWR, 0600, &entry, &fh), -EISDIR);
    /* The guest's kernel looks such names up again. */
    CHECK_EQUAL(loopback_create_file(&guest, 1, "link", O_RDWR, 0600, &entry, &fh), -ESTALE);
    CHECK_EQUAL(loopback_create_file(&guest, 1, "fifo", O_WRONLY, 0600, &entry, &fh), -ESTALE);
    end();
}

static void creating_what_exists_is_no_way_past_permissions(void)
{
    begin();
    host_file("f"); /* made by the host, or by another guest, since this guest's kernel last asked */
    CHECK_EQUAL(fchmodat(loopback.root_fd, "f", 0600, 0), 0);
    struct stat before = host_stat("f");
    struct fuse_entry_out entry;
    uint64_t fh;
    guest.uid = 1000;
    guest.gid = 1000;
    /* The guest's kernel believes that the file is new and checks nothing; ESTALE makes it look and check. */
    CHECK_EQUAL(loopback_create_file(&guest, 1, "f", O_RDWR | O_TRUNC, 0600, &entry, &fh), -ESTALE);
    CHECK_EQUAL(loopback_create_file(&guest, 1, "f", O_RDWR | O_EXCL, 0600, &entry, &fh), -EEXIST);
    CHECK_EQUAL(host_stat("f").st_size, before.st_size);
    guest.uid = 0;
    guest.gid = 0;
    end();
}

static void the_umask_counts_where_the_guest_leaves_it_to_the_host(void)
{
    begin_with(0, 64, 0, FUSE_INIT_DONT_MASK);
    struct fuse_mkdir_in directory = {.mode = 0777, .umask = 027};
    CHECK(loopback_send(&guest, FUSE_MKDIR, 1, &directory, sizeof(directory), "d", NULL) > 0);
    CHECK_EQUAL(host_stat("d").st_mode, S_IFDIR | 0750);
    struct fuse_mknod_in node = {.mode = S_IFREG | 0666, .umask = 0};
    CHECK(loopback_send(&guest, FUSE_MKNOD, 1, &node, sizeof(node), "f", NULL) > 0);
    CHECK_EQUAL(host_stat("f").st_mode, S_IFREG | 0666);
    end();
    begin();
    CHECK(loopback_send(&guest, FUSE_MKDIR, 1, &directory, sizeof(directory), "d", NULL) > 0);
    CHECK_EQUAL(host_stat("d").st_mode, S_IFDIR | 0777);
    end();
}

static void every_type_can_be_made(void)
{
    begin();
    static const uint32_t types[] = {S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR};
    struct fuse_entry_out entry;
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        char name[2] = {(char)('a' + (int)i), 0};
        struct fuse_mknod_in in = {.mode = types[i] | 0600};
        int32_t result = loopback_send(&guest, FUSE_MKNOD, 1, &in, sizeof(in), name, NULL);
        if (result == -EPERM && types[i] == S_IFCHR) {
            printf("    character devices: not shown, this process may not make them\n");
            continue;
        }
        CHECK_EQUAL(result, sizeof(entry));
        memcpy(&entry, guest.reply, sizeof(entry));
        CHECK_EQUAL(entry.attr.mode, types[i] | 0600);
        CHECK_EQUAL(host_stat(name).st_mode, types[i] | 0600);
    }
    struct fuse_mknod_in directory = {.mode = S_IFDIR | 0700};
    CHECK_EQUAL(loopback_send(&guest, FUSE_MKNOD, 1, &directory, sizeof(directory), "x", NULL), -EPERM);
    end();
}

static void device_numbers_travel_both_ways(void)
{
    begin();
    /* Linux's new_encode_dev: minor's low byte, 12 bits of major, the rest of minor. */
    struct fuse_mknod_in in = {.mode = S_IFCHR | 0600, .rdev = 0x45U | 0x678U << 8 | 0x12300U << 12};
    int32_t result = loopback_send(&guest, FUSE_MKNOD, 1, &in, sizeof(in), "device", NULL);
    if (result == -EPERM) {
        printf("    not shown: this process may not make devices\n");
    } else {
        struct fuse_entry_out entry;
        CHECK_EQUAL(result, sizeof(entry));
        memcpy(&entry, guest.reply, sizeof(entry));
        CHECK_EQUAL(entry.attr.rdev, in.rdev);
        CHECK_EQUAL(major(host_stat("device").st_rdev), 0x678);
        CHECK_EQUAL(minor(host_stat("device").st_rdev), 0x12345);
    }
    end();
}

static void symbolic_links_are_read_as_made(void)
{
    begin();
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_send(&guest, FUSE_SYMLINK, 1, NULL, 0, "link", "../over/there"), sizeof(entry));
    memcpy(&entry, guest.reply, sizeof(entry));
    CHECK_EQUAL(entry.attr.mode & S_IFMT, S_IFLNK);
    CHECK_EQUAL(loopback_send(&guest, FUSE_READLINK, entry.nodeid, NULL, 0, NULL, NULL), 13);
    CHECK(memcmp(guest.reply, "../over/there", 13) == 0);
    /* Also once its name is gone. */
    CHECK_EQUAL(loopback_unlink(&guest, 1, "link"), 0);
    CHECK_EQUAL(loopback_send(&guest, FUSE_READLINK, entry.nodeid, NULL, 0, NULL, NULL), 13);
    CHECK_EQUAL(loopback_send(&guest, FUSE_READLINK, 1, NULL, 0, NULL, NULL), -EINVAL);
    end();
}

static int32_t link_to(uint64_t nodeid, uint64_t parent, const char *name)
{
    struct fuse_link_in in = {.oldnodeid = nodeid};
    return loopback_send(&guest, FUSE_LINK, parent, &in, sizeof(in), name, NULL);
}

static void a_hard_link_is_the_same_node(void)
{
    begin();
    struct fuse_entry_out file;
    struct fuse_entry_out entry;
    uint64_t fh;
    CHECK_EQUAL(loopback_create_file(&guest, 1, "a", O_RDWR, 0600, &file, &fh), 0);
    CHECK_EQUAL(link_to(file.nodeid, 1, "b"), sizeof(entry));
    memcpy(&entry, guest.reply, sizeof(entry));
    CHECK_EQUAL(entry.nodeid, file.nodeid);
    CHECK_EQUAL(entry.attr.nlink, 2);
    CHECK_EQUAL(link_to(file.nodeid, 1, "b"), -EEXIST);
    CHECK_EQUAL(link_to(1, 1, "c"), -EPERM);
    CHECK_EQUAL(link_to(77, 1, "c"), -ESTALE);
    /* Either name may go: the node stays reachable. */
    struct fuse_attr attributes;
    CHECK_EQUAL(loopback_unlink(&guest, 1, "b"), 0);
    CHECK_EQUAL(loopback_getattr(&guest, file.nodeid, &attributes), 0);
    CHECK_EQUAL(attributes.nlink, 1);
    end();
}

static void a_symbolic_link_can_be_linked(void)
{
    begin();
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_send(&guest, FUSE_SYMLINK, 1, NULL, 0, "s", "nowhere"), sizeof(entry));
    memcpy(&entry, guest.reply, sizeof(entry));
    CHECK_EQUAL(link_to(entry.nodeid, 1, "t"), sizeof(entry));
    CHECK_EQUAL(host_stat("t").st_mode & S_IFMT, S_IFLNK);
    CHECK_EQUAL(host_stat("t").st_ino, host_stat("s").st_ino);
    end();
}

static void a_nameless_file_can_be_linked_in(void)
{
    begin();
    struct fuse_create_in in = {.flags = O_RDWR, .mode = S_IFREG | 0600};
    struct fuse_entry_out entry;
    struct fuse_open_out opened;
    CHECK_EQUAL(loopback_send(&guest, FUSE_TMPFILE, 1, &in, sizeof(in), "/", NULL),
                sizeof(entry) + sizeof(opened));
    memcpy(&entry, guest.reply, sizeof(entry));
    memcpy(&opened, guest.reply + sizeof(entry), sizeof(opened));
    CHECK_EQUAL(entry.attr.nlink, 0);
    CHECK_EQUAL(entry.attr.mode, S_IFREG | 0600);
    CHECK_EQUAL(loopback_release(&guest, entry.nodeid, opened.fh), 0);
    struct fuse_attr attributes;
    CHECK_EQUAL(loopback_getattr(&guest, entry.nodeid, &attributes), 0);
    CHECK_EQUAL(link_to(entry.nodeid, 1, "named"), sizeof(entry));
    CHECK_EQUAL(host_stat("named").st_ino, entry.attr.ino);
    end();
}

/* ---- Removing ---- */

static void an_unlinked_file_lives_on_for_who_knows_it(void)
{
    begin();
    host_file("f");
    struct fuse_entry_out entry;
    struct fuse_attr attributes;
    uint64_t fh;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "f", &entry), 0);
    CHECK_EQUAL(loopback_unlink(&guest, 1, "f"), 0);
    CHECK(!host_has("f"));
    CHECK_EQUAL(loopback_getattr(&guest, entry.nodeid, &attributes), 0);
    CHECK_EQUAL(attributes.nlink, 0);
    CHECK_EQUAL(attributes.ino, entry.attr.ino);
    CHECK_EQUAL(loopback_open(&guest, entry.nodeid, O_RDWR, &fh), 0);
    CHECK_EQUAL(loopback_release(&guest, entry.nodeid, fh), 0);
    CHECK_EQUAL(loopback_unlink(&guest, 1, "f"), -ENOENT);
    end();
}

static void a_removed_directory_lives_on_for_who_knows_it(void)
{
    begin();
    struct fuse_entry_out entry;
    struct fuse_attr attributes;
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "d", 0755, &entry), 0);
    CHECK_EQUAL(loopback_unlink(&guest, 1, "d"), -EISDIR);
    CHECK_EQUAL(loopback_rmdir(&guest, 1, "d"), 0);
    CHECK_EQUAL(loopback_rmdir(&guest, 1, "d"), -ENOENT);
    CHECK_EQUAL(loopback_getattr(&guest, entry.nodeid, &attributes), 0);
    CHECK_EQUAL(loopback_mkdir(&guest, entry.nodeid, "x", 0755, &entry), -ENOENT);
    host_file("f");
    CHECK_EQUAL(loopback_rmdir(&guest, 1, "f"), -ENOTDIR);
    end();
}

static void a_directory_with_entries_is_not_removed(void)
{
    begin();
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "d", 0755, &entry), 0);
    host_file("d/f");
    CHECK_EQUAL(loopback_rmdir(&guest, 1, "d"), -ENOTEMPTY);
    CHECK_EQUAL(loopback_lookup(&guest, entry.nodeid, "f", &entry), 0);
    end();
}

/* ---- Moving ---- */

static void a_renamed_file_is_the_same_node(void)
{
    begin();
    host_file("f");
    struct fuse_entry_out directory;
    struct fuse_entry_out file;
    struct fuse_entry_out entry;
    struct fuse_attr attributes;
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "d", 0755, &directory), 0);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "f", &file), 0);
    CHECK_EQUAL(loopback_rename(&guest, 1, "f", directory.nodeid, "g", 0), 0);
    CHECK_EQUAL(loopback_getattr(&guest, file.nodeid, &attributes), 0);
    CHECK_EQUAL(loopback_lookup(&guest, directory.nodeid, "g", &entry), 0);
    CHECK_EQUAL(entry.nodeid, file.nodeid);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "f", &entry), -ENOENT);
    /* Below a directory that moved, too. */
    CHECK_EQUAL(loopback_rename(&guest, 1, "d", 1, "e", 0), 0);
    CHECK_EQUAL(loopback_getattr(&guest, file.nodeid, &attributes), 0);
    end();
}

static void a_file_that_was_renamed_over_lives_on(void)
{
    begin();
    host_file("a");
    host_file("b");
    struct fuse_entry_out a;
    struct fuse_entry_out b;
    struct fuse_entry_out entry;
    struct fuse_attr attributes;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "a", &a), 0);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "b", &b), 0);
    CHECK_EQUAL(loopback_rename(&guest, 1, "a", 1, "b", RENAME_NOREPLACE), -EEXIST);
    CHECK_EQUAL(loopback_rename(&guest, 1, "a", 1, "b", 0), 0);
    CHECK_EQUAL(loopback_getattr(&guest, b.nodeid, &attributes), 0);
    CHECK_EQUAL(attributes.nlink, 0);
    CHECK_EQUAL(loopback_getattr(&guest, a.nodeid, &attributes), 0);
    CHECK_EQUAL(attributes.nlink, 1);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "b", &entry), 0);
    CHECK_EQUAL(entry.nodeid, a.nodeid);
    end();
}

static void exchanged_names_keep_their_nodes(void)
{
    begin();
    host_file("a");
    host_file("b");
    struct fuse_entry_out a;
    struct fuse_entry_out b;
    struct fuse_entry_out entry;
    struct fuse_attr attributes;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "a", &a), 0);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "b", &b), 0);
    CHECK_EQUAL(loopback_rename(&guest, 1, "a", 1, "b", RENAME_EXCHANGE), 0);
    CHECK_EQUAL(loopback_getattr(&guest, a.nodeid, &attributes), 0);
    CHECK_EQUAL(attributes.ino, a.attr.ino);
    CHECK_EQUAL(loopback_getattr(&guest, b.nodeid, &attributes), 0);
    CHECK_EQUAL(attributes.ino, b.attr.ino);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "b", &entry), 0);
    CHECK_EQUAL(entry.nodeid, a.nodeid);
    CHECK_EQUAL(loopback_rename(&guest, 1, "a", 1, "none", RENAME_EXCHANGE), -ENOENT);
    CHECK_EQUAL(loopback_rename(&guest, 1, "a", 1, "b", RENAME_EXCHANGE | RENAME_NOREPLACE), -EINVAL);
    CHECK_EQUAL(loopback_rename(&guest, 1, "a", 1, "b", 1U << 20), -EINVAL);
    end();
}

static void a_whiteout_stays_where_the_file_was(void)
{
    begin();
    host_file("a");
    struct fuse_entry_out a;
    struct fuse_attr attributes;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "a", &a), 0);
    int result = loopback_rename(&guest, 1, "a", 1, "b", RENAME_WHITEOUT);
    if (result == -EPERM || result == -EINVAL) {
        printf("    not shown: this process or file system makes no whiteouts (%s)\n", strerror(-result));
    } else {
        CHECK_EQUAL(result, 0);
        CHECK_EQUAL(host_stat("a").st_mode & S_IFMT, S_IFCHR);
        CHECK_EQUAL(loopback_getattr(&guest, a.nodeid, &attributes), 0);
        CHECK_EQUAL(attributes.mode & S_IFMT, S_IFREG);
    }
    end();
}

static void a_directory_does_not_move_below_itself(void)
{
    begin();
    struct fuse_entry_out a;
    struct fuse_entry_out b;
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "a", 0755, &a), 0);
    CHECK_EQUAL(loopback_mkdir(&guest, a.nodeid, "b", 0755, &b), 0);
    CHECK_EQUAL(loopback_rename(&guest, 1, "a", b.nodeid, "c", 0), -EINVAL);
    CHECK_EQUAL(loopback_rename(&guest, a.nodeid, "b", 1, "a", 0), -ENOTEMPTY);
    CHECK_EQUAL(loopback_rename(&guest, a.nodeid, "b", make_nodeid(3, 1), "a", 0), -EXDEV);
    end();
}

/* ---- Read-only, and replies that do not fit ---- */

static void a_read_only_share_refuses_every_change(void)
{
    begin_with(VHOSTFS_PASSTHROUGH_READ_ONLY, 64, 0, 0);
    host_file("f");
    struct fuse_entry_out entry;
    struct fuse_mknod_in node = {.mode = S_IFREG | 0600};
    struct fuse_create_in create = {.flags = O_RDWR, .mode = S_IFREG | 0600};
    uint64_t fh;
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "d", 0755, &entry), -EROFS);
    CHECK_EQUAL(loopback_unlink(&guest, 1, "f"), -EROFS);
    CHECK_EQUAL(loopback_rmdir(&guest, 1, "f"), -EROFS);
    CHECK_EQUAL(loopback_rename(&guest, 1, "f", 1, "g", 0), -EROFS);
    CHECK_EQUAL(loopback_send(&guest, FUSE_MKNOD, 1, &node, sizeof(node), "n", NULL), -EROFS);
    CHECK_EQUAL(loopback_send(&guest, FUSE_SYMLINK, 1, NULL, 0, "s", "t"), -EROFS);
    CHECK_EQUAL(link_to(1, 1, "l"), -EROFS);
    CHECK_EQUAL(loopback_send(&guest, FUSE_TMPFILE, 1, &create, sizeof(create), "/", NULL), -EROFS);
    CHECK_EQUAL(loopback_create_file(&guest, 1, "n", O_RDWR, 0600, &entry, &fh), -EROFS);
    CHECK_EQUAL(loopback_create_file(&guest, 1, "f", O_RDWR, 0600, &entry, &fh), -EROFS);
    CHECK_EQUAL(loopback_create_file(&guest, 1, "f", O_RDONLY, 0600, &entry, &fh), 0);
    CHECK(host_has("f") && !host_has("n"));
    end();
}

static void nothing_is_made_that_cannot_be_answered(void)
{
    begin();
    struct fuse_entry_out entry;
    host_file("before"); /* when it is looked up, a descriptor of the mount is kept, for file handles */
    CHECK_EQUAL(loopback_lookup(&guest, 1, "before", &entry), 0);
    size_t descriptors = loopback_open_descriptors();
    struct fuse_mkdir_in directory = {.mode = 0700};
    struct fuse_create_in create = {.flags = O_RDWR, .mode = S_IFREG | 0600};
    guest.room = sizeof(struct fuse_out_header) + sizeof(entry) - 1;
    CHECK_EQUAL(loopback_send(&guest, FUSE_MKDIR, 1, &directory, sizeof(directory), "d", NULL), -EIO);
    CHECK_EQUAL(loopback_send(&guest, FUSE_SYMLINK, 1, NULL, 0, "s", "t"), -EIO);
    guest.room = sizeof(struct fuse_out_header) + sizeof(entry) + sizeof(struct fuse_open_out) - 1;
    CHECK_EQUAL(loopback_send(&guest, FUSE_CREATE, 1, &create, sizeof(create), "f", NULL), -EIO);
    guest.room = 0;
    CHECK_EQUAL(loopback_send(&guest, FUSE_CREATE, 1, &create, sizeof(create), "f", NULL), -EIO);
    CHECK(!host_has("d") && !host_has("s") && !host_has("f"));
    host_file("known");
    guest.room = sizeof(struct fuse_out_header) + 1;
    CHECK_EQUAL(loopback_send(&guest, FUSE_LOOKUP, 1, NULL, 0, "known", NULL), -EIO);
    guest.room = LOOPBACK_ROOM;
    CHECK_EQUAL(loopback_getattr(&guest, 3, &entry.attr), -ESTALE);
    CHECK_EQUAL(loopback_open_descriptors(), descriptors);
    end();
}

int main(void)
{
    if (!check_runs_as_root())
        return 0;
    PROMISE(a_missing_name_is_ENOENT);
    PROMISE(a_missing_name_is_a_cached_negative_where_asked_for);
    PROMISE(dots_lead_to_known_directories_and_never_outside);
    PROMISE(bad_names_are_refused_as_linux_does);
    PROMISE(a_created_file_is_there_with_owner_and_mode);
    PROMISE(creating_what_exists_opens_it);
    PROMISE(creating_what_exists_is_no_way_past_permissions);
    PROMISE(the_umask_counts_where_the_guest_leaves_it_to_the_host);
    PROMISE(every_type_can_be_made);
    PROMISE(device_numbers_travel_both_ways);
    PROMISE(symbolic_links_are_read_as_made);
    PROMISE(a_hard_link_is_the_same_node);
    PROMISE(a_symbolic_link_can_be_linked);
    PROMISE(a_nameless_file_can_be_linked_in);
    PROMISE(an_unlinked_file_lives_on_for_who_knows_it);
    PROMISE(a_removed_directory_lives_on_for_who_knows_it);
    PROMISE(a_directory_with_entries_is_not_removed);
    PROMISE(a_renamed_file_is_the_same_node);
    PROMISE(a_file_that_was_renamed_over_lives_on);
    PROMISE(exchanged_names_keep_their_nodes);
    PROMISE(a_whiteout_stays_where_the_file_was);
    PROMISE(a_directory_does_not_move_below_itself);
    PROMISE(a_read_only_share_refuses_every_change);
    PROMISE(nothing_is_made_that_cannot_be_answered);
    return 0;
}
