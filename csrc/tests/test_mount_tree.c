/* Trees of native mounts: what the guest finds at which path, what keeps mounts apart, and how they come and go. */
#define _GNU_SOURCE 1
#include "../mount_tree.h"
#include "check.h"
#include "loopback.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHARES 4

/* A guest with a tree, and directories of the host to mount. */
struct grove {
    struct loopback loopback;
    struct loopback_thread guest;
    char paths[SHARES][64];
    int fds[SHARES];
    struct stat attributes[SHARES];
};

static void make_shares(struct grove *grove)
{
    for (size_t i = 0; i < SHARES; i++) {
        snprintf(grove->paths[i], sizeof(grove->paths[i]), "/dev/shm/vhostfs-grove-XXXXXX");
        CHECK(mkdtemp(grove->paths[i]) != NULL);
        grove->fds[i] = open(grove->paths[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
        CHECK_EQUAL(fstat(grove->fds[i], &grove->attributes[i]), 0);
    }
}

/* Nothing is mounted at "/", or what the loopback shares. */
static void grove_create(struct grove *grove, bool has_root, uint64_t flags)
{
    struct vhostfs_passthrough_options options = loopback_options();
    loopback_create(&grove->loopback, has_root ? &options : NULL, flags);
    if (has_root)
        CHECK_EQUAL(session_plant(&grove->loopback.session), 0);
    loopback_attach(&grove->loopback, &grove->guest);
    make_shares(grove);
}

static void grove_destroy(struct grove *grove)
{
    for (size_t i = 0; i < SHARES; i++) {
        CHECK_EQUAL(close(grove->fds[i]), 0);
        char command[128];
        snprintf(command, sizeof(command), "rm -rf %s", grove->paths[i]);
        CHECK_EQUAL(system(command), 0);
    }
    loopback_detach(&grove->guest);
    loopback_destroy(&grove->loopback);
}

static uint16_t grove_mount(struct grove *grove, size_t share, const char *path)
{
    struct vhostfs_passthrough_options options = loopback_options();
    int mount = session_free_mount(&grove->loopback.session);
    CHECK(mount > 0);
    loopback_mount(&grove->loopback, (uint16_t)mount, grove->fds[share], &options);
    CHECK_EQUAL(session_attach(&grove->loopback.session, path, (uint16_t)mount), 0);
    return (uint16_t)mount;
}

static void make_file(const struct grove *grove, size_t share, const char *name)
{
    int fd = openat(grove->fds[share], name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQUAL(close(fd), 0);
}

static struct fuse_entry_out look_up(struct grove *grove, uint64_t parent, const char *name)
{
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_lookup(&grove->guest, parent, name, &entry), 0);
    CHECK(entry.nodeid != 0);
    return entry;
}

/* The nodeid of a path. */
static uint64_t walk(struct grove *grove, const char *path)
{
    char copy[256];
    char *rest = copy;
    uint64_t nodeid = FUSE_ROOT_ID;
    snprintf(copy, sizeof(copy), "%s", path);
    for (char *name = strtok_r(copy, "/", &rest); name != NULL; name = strtok_r(NULL, "/", &rest))
        nodeid = look_up(grove, nodeid, name).nodeid;
    return nodeid;
}

static int find(struct grove *grove, uint64_t parent, const char *name)
{
    struct fuse_entry_out entry;
    return loopback_lookup(&grove->guest, parent, name, &entry);
}

/* ---- Paths ---- */

static void each_path_leads_to_its_mount(void)
{
    struct grove grove;
    grove_create(&grove, false, 0);
    uint16_t first = grove_mount(&grove, 0, "/first");
    uint16_t deep = grove_mount(&grove, 1, "/a/b/deep");
    make_file(&grove, 0, "zero");
    make_file(&grove, 1, "one");
    struct fuse_entry_out entry = look_up(&grove, FUSE_ROOT_ID, "first");
    CHECK_EQUAL(entry.nodeid, make_nodeid(first, FUSE_ROOT_ID));
    CHECK_EQUAL(entry.attr.ino, grove.attributes[0].st_ino);
    CHECK_EQUAL(entry.entry_valid, 1);
    CHECK_EQUAL(nodeid_mount(walk(&grove, "/first/zero")), first);
    CHECK_EQUAL(walk(&grove, "/a/b/deep"), make_nodeid(deep, FUSE_ROOT_ID));
    CHECK_EQUAL(nodeid_mount(walk(&grove, "/a/b/deep/one")), deep);
    CHECK_EQUAL(find(&grove, FUSE_ROOT_ID, "second"), -ENOENT);
    CHECK_EQUAL(find(&grove, walk(&grove, "/a"), "first"), -ENOENT);
    grove_destroy(&grove);
}

static void a_mount_lies_in_a_directory_of_another(void)
{
    struct grove grove;
    grove_create(&grove, true, 0);
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "data", 0700), 0);
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "data/inner", 0700), 0);
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "data/plain", 0700), 0);
    uint16_t inner = grove_mount(&grove, 0, "/data/inner");
    CHECK_EQUAL(mkdirat(grove.fds[0], "sub", 0700), 0);
    uint16_t nested = grove_mount(&grove, 1, "/data/inner/sub/nested");
    struct fuse_entry_out data = look_up(&grove, FUSE_ROOT_ID, "data");
    CHECK_EQUAL(nodeid_mount(data.nodeid), 0);
    CHECK_EQUAL(data.attr.mode, S_IFDIR | 0700);
    CHECK_EQUAL(nodeid_mount(look_up(&grove, data.nodeid, "plain").nodeid), 0);
    CHECK_EQUAL(look_up(&grove, data.nodeid, "inner").nodeid, make_nodeid(inner, FUSE_ROOT_ID));
    CHECK_EQUAL(nodeid_mount(walk(&grove, "/data/inner/sub")), inner);
    CHECK_EQUAL(walk(&grove, "/data/inner/sub/nested"), make_nodeid(nested, FUSE_ROOT_ID));
    grove_destroy(&grove);
}

static void a_way_that_the_mount_above_lacks_is_there_all_the_same(void)
{
    struct grove grove;
    grove_create(&grove, true, 0);
    uint16_t mount = grove_mount(&grove, 0, "/not/there/mount");
    struct fuse_entry_out way = look_up(&grove, FUSE_ROOT_ID, "not");
    CHECK_EQUAL(nodeid_mount(way.nodeid), PSEUDO_MOUNT);
    CHECK_EQUAL(way.attr.mode, S_IFDIR | 0555);
    CHECK_EQUAL(walk(&grove, "/not/there/mount"), make_nodeid(mount, FUSE_ROOT_ID));
    /* Once the host has it, its own is what the guest finds, and the way goes on. */
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "not", 0700), 0);
    way = look_up(&grove, FUSE_ROOT_ID, "not");
    CHECK_EQUAL(nodeid_mount(way.nodeid), 0);
    CHECK_EQUAL(walk(&grove, "/not/there/mount"), make_nodeid(mount, FUSE_ROOT_ID));
    grove_destroy(&grove);
}

static void a_directory_that_takes_a_forgotten_nodeid_leads_nowhere(void)
{
    struct grove grove;
    grove_create(&grove, true, 0);
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "way", 0700), 0);
    grove_mount(&grove, 0, "/way/mount");
    uint64_t way = walk(&grove, "/way");
    walk(&grove, "/way");
    loopback_forget(&grove.guest, way, 1);
    CHECK_EQUAL(find(&grove, way, "mount"), 0);
    loopback_forget(&grove.guest, way, 1);
    CHECK_EQUAL(unlinkat(grove.loopback.root_fd, "way", AT_REMOVEDIR), 0);
    epoch_reclaim(&grove.loopback.session.epochs);
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "other", 0700), 0);
    CHECK_EQUAL(walk(&grove, "/other"), way); /* the slot is used again */
    CHECK_EQUAL(find(&grove, way, "mount"), -ENOENT);
    grove_destroy(&grove);
}

static void forgetting_many_at_once_counts_too(void)
{
    struct grove grove;
    grove_create(&grove, true, 0);
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "way", 0700), 0);
    grove_mount(&grove, 0, "/way/mount");
    uint64_t way = walk(&grove, "/way");
    struct {
        struct fuse_batch_forget_in in;
        struct fuse_forget_one one[2];
    } batch = {.in = {.count = 2}, .one = {{.nodeid = 77, .nlookup = 1}, {.nodeid = way, .nlookup = 1}}};
    CHECK_EQUAL(loopback_send(&grove.guest, FUSE_BATCH_FORGET, 0, &batch, sizeof(batch), NULL, NULL), 0);
    CHECK_EQUAL(find(&grove, way, "mount"), -ESTALE);
    CHECK_EQUAL(find(&grove, walk(&grove, "/way"), "mount"), 0);
    grove_destroy(&grove);
}

static void the_way_up_from_a_mount_leads_to_where_it_lies(void)
{
    struct grove grove;
    grove_create(&grove, true, 0);
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "way", 0700), 0);
    grove_mount(&grove, 0, "/way/mount");
    grove_mount(&grove, 1, "/way/mount/pseudo/below");
    uint64_t way = walk(&grove, "/way");
    uint64_t mount = walk(&grove, "/way/mount");
    uint64_t pseudo = walk(&grove, "/way/mount/pseudo");
    uint64_t below = walk(&grove, "/way/mount/pseudo/below");
    CHECK_EQUAL(look_up(&grove, below, "..").nodeid, pseudo);
    CHECK_EQUAL(look_up(&grove, pseudo, "..").nodeid, mount);
    CHECK_EQUAL(look_up(&grove, mount, "..").nodeid, way);
    CHECK_EQUAL(look_up(&grove, way, "..").nodeid, FUSE_ROOT_ID);
    CHECK_EQUAL(look_up(&grove, FUSE_ROOT_ID, "..").nodeid, FUSE_ROOT_ID);
    grove_destroy(&grove);
}

static void submounts_are_announced_where_negotiated(void)
{
    struct grove grove;
    grove_create(&grove, false, FUSE_INIT_SUBMOUNTS);
    grove_mount(&grove, 0, "/way/mount");
    CHECK_EQUAL(look_up(&grove, FUSE_ROOT_ID, "way").attr.flags & FUSE_ATTR_SUBMOUNT, 0);
    CHECK_EQUAL(look_up(&grove, walk(&grove, "/way"), "mount").attr.flags & FUSE_ATTR_SUBMOUNT,
                FUSE_ATTR_SUBMOUNT);
    grove_destroy(&grove);
    grove_create(&grove, false, 0);
    grove_mount(&grove, 0, "/mount");
    CHECK_EQUAL(look_up(&grove, FUSE_ROOT_ID, "mount").attr.flags & FUSE_ATTR_SUBMOUNT, 0);
    grove_destroy(&grove);
}

static void paths_that_are_none_are_refused(void)
{
    struct grove grove;
    grove_create(&grove, false, 0);
    struct session *session = &grove.loopback.session;
    struct vhostfs_passthrough_options options = loopback_options();
    grove_mount(&grove, 0, "/taken");
    loopback_mount(&grove.loopback, 9, grove.fds[1], &options);
    CHECK_EQUAL(session_attach(session, "relative", 9), -EINVAL);
    CHECK_EQUAL(session_attach(session, "", 9), -EINVAL);
    CHECK_EQUAL(session_attach(session, "/a/../b", 9), -EINVAL);
    CHECK_EQUAL(session_attach(session, "/a/./b", 9), -EINVAL);
    CHECK_EQUAL(session_attach(session, "/", 9), -EBUSY);
    CHECK_EQUAL(session_attach(session, "/taken/", 9), -EBUSY);
    CHECK_EQUAL(session_attach(session, "/free", 10), -ENOENT);
    CHECK_EQUAL(session_attach(session, "/free", UINT16_MAX), -ENOENT);
    char deep[4096] = "";
    for (size_t i = 0; i < TREE_WAYPOINTS; i++)
        strcat(deep, "/x");
    CHECK_EQUAL(session_attach(session, deep, 9), -ENOSPC);
    char longer[300];
    memset(longer, 'x', sizeof(longer) - 1);
    longer[0] = '/';
    longer[sizeof(longer) - 1] = 0;
    CHECK_EQUAL(session_attach(session, longer, 9), -ENAMETOOLONG);
    CHECK_EQUAL(find(&grove, FUSE_ROOT_ID, "x"), -ENOENT);
    CHECK_EQUAL(session_attach(session, "//free//", 9), 0);
    CHECK_EQUAL(session_attach(session, "/again", 9), -EBUSY);
    CHECK_EQUAL(walk(&grove, "/free"), make_nodeid(9, FUSE_ROOT_ID));
    grove_destroy(&grove);
}

/* ---- Listings ---- */

struct listed {
    char name[256];
    uint64_t nodeid;
};

/* All entries of a directory, `room` bytes at a time. How many. */
static size_t list(struct grove *grove, uint64_t nodeid, bool plus, uint32_t room, struct listed *entries,
                   size_t most)
{
    struct fuse_read_in in = {.size = room};
    size_t count = 0;
    CHECK_EQUAL(loopback_opendir(&grove->guest, nodeid, &in.fh), 0);
    for (;;) {
        int32_t size = loopback_send(&grove->guest, plus ? FUSE_READDIRPLUS : FUSE_READDIR, nodeid, &in,
                                     sizeof(in), NULL, NULL);
        CHECK(size >= 0);
        if (size == 0)
            break;
        const uint8_t *at = grove->guest.reply;
        while (at < grove->guest.reply + size) {
            struct fuse_entry_out entry = {0};
            struct fuse_dirent dirent;
            if (plus)
                memcpy(&entry, at, sizeof(entry));
            at += plus ? sizeof(entry) : 0;
            memcpy(&dirent, at, sizeof(dirent));
            CHECK(count < most);
            snprintf(entries[count].name, sizeof(entries->name), "%.*s", (int)dirent.namelen,
                     (const char *)at + sizeof(dirent));
            entries[count++].nodeid = entry.nodeid;
            at += (sizeof(dirent) + dirent.namelen + 7) & ~(size_t)7;
            in.offset = dirent.off;
        }
    }
    CHECK_EQUAL(loopback_releasedir(&grove->guest, nodeid, in.fh), 0);
    return count;
}

static const struct listed *listed_as(const struct listed *entries, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(entries[i].name, name) == 0)
            return &entries[i];
    }
    return NULL;
}

static void the_root_of_a_tree_lists_what_lies_in_it(void)
{
    struct grove grove;
    struct listed entries[8];
    grove_create(&grove, false, 0);
    grove_mount(&grove, 0, "/mount");
    grove_mount(&grove, 1, "/way/one");
    grove_mount(&grove, 2, "/way/two");
    for (int plus = 0; plus < 2; plus++) {
        /* Also where each reply has room for one entry alone. */
        for (uint32_t room = 192; room <= 4096; room = room == 192 ? 4096 : 4097) {
            size_t count = list(&grove, FUSE_ROOT_ID, plus != 0, room, entries, 8);
            CHECK_EQUAL(count, 4);
            CHECK(listed_as(entries, count, "mount") != NULL && listed_as(entries, count, "way") != NULL);
            CHECK(listed_as(entries, count, ".") != NULL && listed_as(entries, count, "..") != NULL);
        }
    }
    CHECK_EQUAL(list(&grove, walk(&grove, "/way"), true, 4096, entries, 8), 4);
    grove_destroy(&grove);
}

static void listings_leave_the_names_of_waypoints_to_be_looked_up(void)
{
    struct grove grove;
    struct listed entries[8];
    grove_create(&grove, true, 0);
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "way", 0700), 0);
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "mount", 0700), 0);
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "plain", 0700), 0);
    grove_mount(&grove, 0, "/way/mount");
    grove_mount(&grove, 1, "/mount");
    size_t before = loopback_open_descriptors();
    grove.guest.piece = 50; /* entries lie across vectors */
    size_t count = list(&grove, FUSE_ROOT_ID, true, 4096, entries, 8);
    grove.guest.piece = 0;
    CHECK_EQUAL(count, 5);
    CHECK_EQUAL(listed_as(entries, count, "way")->nodeid, 0);
    CHECK_EQUAL(listed_as(entries, count, "mount")->nodeid, 0);
    uint64_t plain = listed_as(entries, count, "plain")->nodeid;
    CHECK_EQUAL(nodeid_mount(plain), 0);
    /* What was counted for them was given back: forgetting the rest leaves no node. */
    loopback_forget(&grove.guest, plain, 1);
    epoch_reclaim(&grove.loopback.session.epochs);
    for (uint64_t index = 2; index < 16; index++) {
        struct fuse_attr attributes;
        CHECK_EQUAL(loopback_getattr(&grove.guest, index, &attributes), -ESTALE);
    }
    CHECK(loopback_open_descriptors() <= before);
    grove_destroy(&grove);
}

/* ---- Apart ---- */

static void nothing_is_renamed_linked_or_copied_across_mounts(void)
{
    struct grove grove;
    grove_create(&grove, true, 0);
    grove_mount(&grove, 0, "/a");
    grove_mount(&grove, 1, "/b");
    make_file(&grove, 0, "file");
    uint64_t from = walk(&grove, "/a");
    uint64_t to = walk(&grove, "/b");
    uint64_t file = walk(&grove, "/a/file");
    CHECK_EQUAL(loopback_rename(&grove.guest, from, "file", to, "file", 0), -EXDEV);
    CHECK_EQUAL(loopback_rename(&grove.guest, from, "file", FUSE_ROOT_ID, "file", 0), -EXDEV);
    struct fuse_rename_in rename = {.newdir = to};
    CHECK_EQUAL(loopback_send(&grove.guest, FUSE_RENAME, from, &rename, sizeof(rename), "file", "file"),
                -EXDEV);
    struct fuse_link_in link = {.oldnodeid = file};
    CHECK_EQUAL(loopback_send(&grove.guest, FUSE_LINK, to, &link, sizeof(link), "file", NULL), -EXDEV);
    struct fuse_copy_file_range_in copy = {.nodeid_out = to, .len = 1};
    CHECK_EQUAL(loopback_send(&grove.guest, FUSE_COPY_FILE_RANGE, file, &copy, sizeof(copy), NULL, NULL),
                -EXDEV);
    CHECK_EQUAL(loopback_rename(&grove.guest, from, "file", from, "moved", 0), 0);
    grove_destroy(&grove);
}

static void names_of_waypoints_are_neither_made_nor_removed(void)
{
    struct grove grove;
    struct fuse_entry_out entry;
    uint64_t fh;
    grove_create(&grove, true, 0);
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "way", 0700), 0);
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "plain", 0700), 0);
    grove_mount(&grove, 0, "/way/mount");
    uint64_t way = walk(&grove, "/way");
    struct loopback_thread *guest = &grove.guest;
    CHECK_EQUAL(loopback_rmdir(guest, FUSE_ROOT_ID, "way"), -EBUSY);
    CHECK_EQUAL(loopback_unlink(guest, way, "mount"), -EBUSY);
    CHECK_EQUAL(loopback_rename(guest, FUSE_ROOT_ID, "way", FUSE_ROOT_ID, "moved", 0), -EBUSY);
    CHECK_EQUAL(loopback_rename(guest, FUSE_ROOT_ID, "plain", way, "mount", 0), -EBUSY);
    CHECK_EQUAL(loopback_mkdir(guest, way, "mount", 0700, &entry), -EEXIST);
    CHECK_EQUAL(loopback_create_file(guest, way, "mount", O_RDWR, 0600, &entry, &fh), -EEXIST);
    CHECK_EQUAL(loopback_rename(guest, FUSE_ROOT_ID, "plain", way, "beside", 0), 0);
    CHECK_EQUAL(loopback_rmdir(guest, way, "beside"), 0);
    grove_destroy(&grove);
}

static void pseudo_directories_are_read_only(void)
{
    struct grove grove;
    struct fuse_entry_out entry;
    uint64_t fh;
    grove_create(&grove, false, 0);
    grove_mount(&grove, 0, "/way/mount");
    uint64_t way = walk(&grove, "/way");
    struct loopback_thread *guest = &grove.guest;
    CHECK_EQUAL(loopback_mkdir(guest, way, "new", 0700, &entry), -EROFS);
    CHECK_EQUAL(loopback_create_file(guest, FUSE_ROOT_ID, "new", O_RDWR, 0600, &entry, &fh), -EROFS);
    CHECK_EQUAL(loopback_unlink(guest, way, "new"), -EROFS);
    struct fuse_setattr_in set = {.valid = FATTR_MODE, .mode = 0777};
    CHECK_EQUAL(loopback_send(guest, FUSE_SETATTR, way, &set, sizeof(set), NULL, NULL), -EROFS);
    struct fuse_access_in access = {.mask = W_OK};
    CHECK_EQUAL(loopback_send(guest, FUSE_ACCESS, way, &access, sizeof(access), NULL, NULL), -EROFS);
    access.mask = R_OK | X_OK;
    CHECK_EQUAL(loopback_send(guest, FUSE_ACCESS, way, &access, sizeof(access), NULL, NULL), 0);
    CHECK_EQUAL(loopback_open(guest, way, O_RDONLY, &fh), -EISDIR);
    CHECK_EQUAL(loopback_send(guest, FUSE_STATFS, way, NULL, 0, NULL, NULL), sizeof(struct fuse_kstatfs));
    struct fuse_getxattr_in get = {.size = 10};
    CHECK_EQUAL(loopback_send(guest, FUSE_GETXATTR, way, &get, sizeof(get), "user.a", NULL), -EOPNOTSUPP);
    struct fuse_statx_in statx = {.sx_mask = 0x7ff};
    CHECK_EQUAL(loopback_send(guest, FUSE_STATX, way, &statx, sizeof(statx), NULL, NULL),
                sizeof(struct fuse_statx_out));
    struct fuse_statx_out out;
    memcpy(&out, guest->reply, sizeof(out));
    CHECK_EQUAL(out.stat.mode, S_IFDIR | 0555);
    struct fuse_attr attributes;
    CHECK_EQUAL(loopback_getattr(guest, make_nodeid(PSEUDO_MOUNT, 77), &attributes), -ESTALE);
    grove_destroy(&grove);
}

static void one_mount_without_attributes_leaves_them_to_the_others(void)
{
    struct grove grove;
    grove_create(&grove, false, 0);
    struct vhostfs_passthrough_options options = loopback_options();
    options.flags = 0;
    loopback_mount(&grove.loopback, 1, grove.fds[0], &options);
    CHECK_EQUAL(session_attach(&grove.loopback.session, "/without", 1), 0);
    struct fuse_getxattr_in get = {.size = 10};
    CHECK_EQUAL(loopback_send(&grove.guest, FUSE_GETXATTR, walk(&grove, "/without"), &get, sizeof(get),
                              "user.a", NULL),
                -EOPNOTSUPP);
    grove_destroy(&grove);
}

/* ---- Coming and going ---- */

static void a_mount_that_comes_later_is_found(void)
{
    struct grove grove;
    grove_create(&grove, false, FUSE_INIT_SUBMOUNTS);
    CHECK_EQUAL(find(&grove, FUSE_ROOT_ID, "late"), -ENOENT);
    uint16_t late = grove_mount(&grove, 0, "/late");
    CHECK_EQUAL(walk(&grove, "/late"), make_nodeid(late, FUSE_ROOT_ID));
    const struct passthrough *share =
        (const struct passthrough *)(const void *)session_find(&grove.loopback.session, late);
    CHECK((atomic_load(&share->flags) & FUSE_INIT_SUBMOUNTS) != 0);
    grove_destroy(&grove);
}

static void a_mount_that_goes_takes_its_nodes_and_leaves_nothing_open(void)
{
    struct grove grove;
    struct fuse_attr attributes;
    uint64_t fh;
    grove_create(&grove, true, 0);
    size_t before = loopback_open_descriptors();
    uint16_t mount = grove_mount(&grove, 0, "/way/mount");
    CHECK_EQUAL(mkdirat(grove.fds[0], "a", 0700), 0);
    CHECK_EQUAL(mkdirat(grove.fds[0], "a/b", 0700), 0);
    make_file(&grove, 0, "a/b/file");
    uint64_t file = walk(&grove, "/way/mount/a/b/file");
    CHECK_EQUAL(loopback_open(&grove.guest, file, O_RDWR, &fh), 0);
    CHECK_EQUAL(session_unmount(&grove.loopback.session, mount), 0);
    CHECK_EQUAL(loopback_getattr(&grove.guest, file, &attributes), -ESTALE);
    CHECK_EQUAL(loopback_getattr(&grove.guest, make_nodeid(mount, FUSE_ROOT_ID), &attributes), -ESTALE);
    CHECK_EQUAL(loopback_release(&grove.guest, file, fh), -ESTALE);
    loopback_forget(&grove.guest, file, 1);
    CHECK_EQUAL(find(&grove, FUSE_ROOT_ID, "way"), -ENOENT);
    CHECK_EQUAL(loopback_open_descriptors(), before);
    CHECK_EQUAL(session_unmount(&grove.loopback.session, mount), -ENOENT);
    /* Its number names nothing else while nodeids of it may be about. */
    CHECK(session_free_mount(&grove.loopback.session) != mount);
    session_end(&grove.loopback.session);
    CHECK_EQUAL(session_free_mount(&grove.loopback.session), mount);
    grove_destroy(&grove);
}

static void mounts_that_others_lie_below_stay(void)
{
    struct grove grove;
    grove_create(&grove, false, 0);
    uint16_t above = grove_mount(&grove, 0, "/above");
    uint16_t below = grove_mount(&grove, 1, "/above/way/below");
    struct session *session = &grove.loopback.session;
    CHECK_EQUAL(session_unmount(session, above), -EBUSY);
    CHECK_EQUAL(session_unmount(session, 0), -EBUSY);
    CHECK_EQUAL(session_unmount(session, PSEUDO_MOUNT), -ENOENT);
    CHECK_EQUAL(walk(&grove, "/above/way/below"), make_nodeid(below, FUSE_ROOT_ID));
    CHECK_EQUAL(session_unmount(session, below), 0);
    CHECK_EQUAL(session_unmount(session, above), 0);
    CHECK_EQUAL(find(&grove, FUSE_ROOT_ID, "above"), -ENOENT);
    grove_destroy(&grove);
}

static void who_is_still_inside_keeps_a_mount_that_goes(void)
{
    struct grove grove;
    grove_create(&grove, false, 0);
    size_t before = loopback_open_descriptors();
    uint16_t mount = grove_mount(&grove, 0, "/mount");
    walk(&grove, "/mount");
    struct session *session = &grove.loopback.session;
    struct epoch_reader inside;
    epoch_add_reader(&session->epochs, &inside);
    epoch_enter(&session->epochs, &inside);
    struct filesystem *filesystem = session_find(session, mount);
    CHECK_EQUAL(session_unmount(session, mount), 0);
    CHECK(loopback_open_descriptors() > before);
    /* As a request that leaves its epoch to sleep does. */
    atomic_fetch_add(&filesystem->pins, 1);
    epoch_leave(&session->epochs, &inside);
    CHECK(loopback_open_descriptors() > before);
    atomic_fetch_sub(&filesystem->pins, 1);
    epoch_reclaim(&session->epochs);
    CHECK_EQUAL(loopback_open_descriptors(), before);
    epoch_remove_reader(&session->epochs, &inside);
    grove_destroy(&grove);
}

static void nodeids_of_absent_mounts_are_stale(void)
{
    struct grove grove;
    struct fuse_attr attributes;
    grove_create(&grove, false, 0);
    static const uint16_t absent[] = {1, 63, 64, 254, 255, 256, UINT16_MAX};
    for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++) {
        CHECK_EQUAL(loopback_getattr(&grove.guest, make_nodeid(absent[i], 2), &attributes), -ESTALE);
        CHECK_EQUAL(find(&grove, make_nodeid(absent[i], 2), ".."), -ESTALE);
        CHECK_EQUAL(find(&grove, make_nodeid(absent[i], 2), "x"), -ESTALE);
        loopback_forget(&grove.guest, make_nodeid(absent[i], 2), 1);
    }
    grove_destroy(&grove);
}

#define ROUNDS 200

static _Atomic bool done;

/* What a guest does all over the tree, while mounts come and go: every answer is of one state or the other. */
static void *wander(void *context)
{
    struct grove *grove = context;
    struct loopback_thread guest;
    loopback_attach(&grove->loopback, &guest);
    while (!atomic_load(&done)) {
        struct fuse_entry_out way;
        struct fuse_entry_out mount;
        struct fuse_entry_out file;
        struct fuse_attr attributes;
        uint64_t fh;
        int error = loopback_lookup(&guest, FUSE_ROOT_ID, "way", &way);
        CHECK(error == 0 || error == -ENOENT);
        error = error != 0 ? error : loopback_lookup(&guest, way.nodeid, "mount", &mount);
        CHECK(error == 0 || error == -ENOENT || error == -ESTALE);
        error = error != 0 ? error : loopback_lookup(&guest, mount.nodeid, "file", &file);
        CHECK(error == 0 || error == -ENOENT || error == -ESTALE);
        if (error == 0 && loopback_open(&guest, file.nodeid, O_RDWR, &fh) == 0) {
            struct fuse_fsync_in sync = {.fh = fh};
            error = loopback_send(&guest, FUSE_FSYNC, file.nodeid, &sync, sizeof(sync), NULL, NULL);
            CHECK(error == 0 || error == -ESTALE || error == -EBADF);
            loopback_release(&guest, file.nodeid, fh);
        }
        if (error == 0) {
            loopback_getattr(&guest, file.nodeid, &attributes);
            loopback_forget(&guest, file.nodeid, 1);
        }
        struct fuse_read_in in = {.size = 4096};
        if (loopback_opendir(&guest, FUSE_ROOT_ID, &in.fh) == 0) {
            CHECK(loopback_send(&guest, FUSE_READDIRPLUS, FUSE_ROOT_ID, &in, sizeof(in), NULL, NULL) > 0);
            loopback_releasedir(&guest, FUSE_ROOT_ID, in.fh);
        }
    }
    loopback_detach(&guest);
    return NULL;
}

static void mounts_come_and_go_while_guests_work(void)
{
    struct grove grove;
    pthread_t threads[3];
    grove_create(&grove, true, 0);
    make_file(&grove, 0, "file");
    CHECK_EQUAL(mkdirat(grove.loopback.root_fd, "way", 0700), 0);
    size_t before = loopback_open_descriptors();
    atomic_store(&done, false);
    for (size_t i = 0; i < 3; i++)
        CHECK_EQUAL(pthread_create(&threads[i], NULL, wander, &grove), 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint16_t mount = grove_mount(&grove, 0, "/way/mount");
        struct fuse_entry_out entry;
        CHECK_EQUAL(loopback_lookup(&grove.guest, walk(&grove, "/way"), "mount", &entry), 0);
        CHECK_EQUAL(session_unmount(&grove.loopback.session, mount), 0);
    }
    atomic_store(&done, true);
    for (size_t i = 0; i < 3; i++)
        CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
    session_end(&grove.loopback.session);
    epoch_reclaim(&grove.loopback.session.epochs);
    CHECK(loopback_open_descriptors() <= before);
    grove_destroy(&grove);
}

int main(void)
{
    PROMISE(each_path_leads_to_its_mount);
    PROMISE(a_mount_lies_in_a_directory_of_another);
    PROMISE(a_way_that_the_mount_above_lacks_is_there_all_the_same);
    PROMISE(a_directory_that_takes_a_forgotten_nodeid_leads_nowhere);
    PROMISE(forgetting_many_at_once_counts_too);
    PROMISE(the_way_up_from_a_mount_leads_to_where_it_lies);
    PROMISE(submounts_are_announced_where_negotiated);
    PROMISE(paths_that_are_none_are_refused);
    PROMISE(the_root_of_a_tree_lists_what_lies_in_it);
    PROMISE(listings_leave_the_names_of_waypoints_to_be_looked_up);
    PROMISE(nothing_is_renamed_linked_or_copied_across_mounts);
    PROMISE(names_of_waypoints_are_neither_made_nor_removed);
    PROMISE(pseudo_directories_are_read_only);
    PROMISE(one_mount_without_attributes_leaves_them_to_the_others);
    PROMISE(a_mount_that_comes_later_is_found);
    PROMISE(a_mount_that_goes_takes_its_nodes_and_leaves_nothing_open);
    PROMISE(mounts_that_others_lie_below_stay);
    PROMISE(who_is_still_inside_keeps_a_mount_that_goes);
    PROMISE(nodeids_of_absent_mounts_are_stale);
    PROMISE(mounts_come_and_go_while_guests_work);
    return 0;
}
