/* Promises of the node table: identities, counts, stale nodeids, and what the host does to files that are known. */
#define _GNU_SOURCE 1
#include "check.h"
#include "knowing_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- Counts ---- */

static void a_name_that_is_looked_up_twice_is_one_node(void)
{
    begin(64);
    host_file("f");
    struct fuse_entry_out first = look_up(1, "f");
    struct fuse_entry_out second = look_up(1, "f");
    CHECK_EQUAL(first.nodeid, second.nodeid);
    CHECK_EQUAL(first.generation, second.generation);
    loopback_forget(&guest, first.nodeid, 1);
    CHECK_EQUAL(ask(first.nodeid), 0);
    loopback_forget(&guest, first.nodeid, 1);
    CHECK_EQUAL(ask(first.nodeid), -ESTALE);
    end();
}

static void a_slot_that_is_used_again_has_another_generation(void)
{
    begin(64);
    host_file("f");
    struct fuse_entry_out first = look_up(1, "f");
    loopback_forget(&guest, first.nodeid, 1);
    struct fuse_entry_out second = look_up(1, "f");
    CHECK(first.nodeid != second.nodeid || first.generation != second.generation);
    end();
}

static void more_forgets_than_lookups_do_no_harm(void)
{
    begin(64);
    host_directory("d");
    host_file("d/f");
    struct fuse_entry_out directory = look_up(1, "d");
    struct fuse_entry_out file = look_up(directory.nodeid, "f");
    loopback_forget(&guest, directory.nodeid, UINT64_MAX);
    CHECK_EQUAL(ask(directory.nodeid), -ESTALE);
    /* A file outlives its directory in the guest's memory: it is still found by name. */
    CHECK_EQUAL(ask(file.nodeid), 0);
    loopback_forget(&guest, directory.nodeid, 7);
    loopback_forget(&guest, file.nodeid, UINT64_MAX);
    CHECK_EQUAL(ask(file.nodeid), -ESTALE);
    loopback_forget(&guest, 1, UINT64_MAX);
    CHECK_EQUAL(ask(1), 0);
    end();
}

static void a_batch_of_forgets_is_each_of_them(void)
{
    begin(64);
    host_file("a");
    host_file("b");
    struct fuse_entry_out a = look_up(1, "a");
    struct fuse_entry_out b = look_up(1, "b");
    struct {
        struct fuse_batch_forget_in head;
        struct fuse_forget_one one[3];
    } in = {{.count = 3}, {{a.nodeid, 1}, {1, 1}, {b.nodeid, 5}}};
    CHECK_EQUAL(loopback_send(&guest, FUSE_BATCH_FORGET, 0, &in, sizeof(in), NULL, NULL), 0);
    CHECK_EQUAL(ask(a.nodeid), -ESTALE);
    CHECK_EQUAL(ask(b.nodeid), -ESTALE);
    in.head.count = UINT32_MAX;
    CHECK_EQUAL(loopback_send(&guest, FUSE_BATCH_FORGET, 0, &in, sizeof(in), NULL, NULL), 0);
    CHECK_EQUAL(loopback_send(&guest, FUSE_BATCH_FORGET, 0, &in, 3, NULL, NULL), 0);
    CHECK_EQUAL(loopback_send(&guest, FUSE_FORGET, 1, &in, 3, NULL, NULL), 0);
    end();
}

static void invented_nodeids_are_ESTALE(void)
{
    begin(64);
    static const uint64_t invented[] = {
        0, 2, 511, 512, UINT32_MAX, 1ULL << 32, 1ULL << 47, (1ULL << 48) - 1, 1ULL << 48, UINT64_MAX};
    uint8_t arguments[128] = {0};
    for (size_t i = 0; i < sizeof(invented) / sizeof(invented[0]); i++) {
        for (uint32_t opcode = 1; opcode < FUSE_OPCODES; opcode++) {
            if (opcode == FUSE_INIT || opcode == FUSE_DESTROY)
                continue;
            int32_t result =
                loopback_send(&guest, opcode, invented[i], arguments, sizeof(arguments), "a", "b");
            CHECK(result <= 0);
        }
        CHECK_EQUAL(ask(invented[i]), -ESTALE);
    }
    CHECK_EQUAL(ask(1), 0);
    end();
}

static void a_new_session_knows_nothing_of_the_last(void)
{
    begin(64);
    host_directory("d");
    host_file("d/f");
    struct fuse_entry_out directory = look_up(1, "d");
    struct fuse_entry_out file = look_up(directory.nodeid, "f");
    uint64_t fh;
    CHECK_EQUAL(loopback_open(&guest, file.nodeid, O_RDONLY, &fh), 0);
    size_t descriptors = loopback_open_descriptors();
    struct fuse_init_in in = {.major = 7, .minor = 45, .flags = 0};
    CHECK(loopback_send(&guest, FUSE_INIT, 0, &in, sizeof(in), NULL, NULL) > 0);
    CHECK_EQUAL(ask(directory.nodeid), -ESTALE);
    CHECK_EQUAL(ask(file.nodeid), -ESTALE);
    CHECK_EQUAL(loopback_release(&guest, file.nodeid, fh), -EBADF);
    /* Two nodes' and a handle's are closed, and that of the mount, which file handles need. */
    CHECK_EQUAL(loopback_open_descriptors(), descriptors - (loopback.share->file_handles ? 4 : 3));
    CHECK_EQUAL(look_up(1, "d").attr.ino, directory.attr.ino);
    end();
}

/* ---- What the host does ---- */

static void a_file_that_the_host_replaced_is_another_node(void)
{
    begin(64);
    host_file("f");
    struct fuse_entry_out old = look_up(1, "f");
    host_file("g");
    host_rename("g", "f");
    struct fuse_entry_out new = look_up(1, "f");
    CHECK(new.nodeid != old.nodeid);
    CHECK_EQUAL(ask(new.nodeid), 0);
    CHECK_EQUAL(ask(old.nodeid), -ESTALE);
    loopback_forget(&guest, old.nodeid, 1);
    loopback_forget(&guest, new.nodeid, 1);
    end();
}

static void a_number_that_comes_back_is_not_the_old_file(void)
{
    /* File systems give the number of a removed file to the next. */
    begin(64);
    for (unsigned int i = 0; i < 200; i++) {
        host_file("f");
        struct fuse_entry_out old = look_up(1, "f");
        CHECK_EQUAL(unlinkat(loopback.root_fd, "f", 0), 0);
        host_directory("f");
        struct fuse_entry_out new = look_up(1, "f");
        CHECK(new.nodeid != old.nodeid);
        CHECK_EQUAL(new.attr.mode &S_IFMT, S_IFDIR);
        CHECK_EQUAL(ask(old.nodeid), -ESTALE);
        CHECK_EQUAL(ask(new.nodeid), 0);
        loopback_forget(&guest, old.nodeid, 1);
        loopback_forget(&guest, new.nodeid, 1);
        CHECK_EQUAL(unlinkat(loopback.root_fd, "f", AT_REMOVEDIR), 0);
    }
    end();
}

static void a_directory_that_the_host_moves_stays_usable(void)
{
    begin(64);
    host_directory("d");
    host_directory("d/e");
    host_file("d/e/f");
    struct fuse_entry_out d = look_up(1, "d");
    struct fuse_entry_out e = look_up(d.nodeid, "e");
    struct fuse_entry_out f = look_up(e.nodeid, "f");
    host_rename("d", "moved");
    CHECK_EQUAL(ask(d.nodeid), 0);
    CHECK_EQUAL(look_up(d.nodeid, "e").nodeid, e.nodeid);
    host_rename("moved/e", "elsewhere");
    CHECK_EQUAL(ask(f.nodeid), 0);
    CHECK_EQUAL(look_up(e.nodeid, "f").nodeid, f.nodeid);
    CHECK_EQUAL(look_up(1, "elsewhere").nodeid, e.nodeid);
    end();
}

static void a_file_that_the_host_moves_is_found_where_it_is_looked_up(void)
{
    begin(64);
    host_file("f");
    struct fuse_entry_out f = look_up(1, "f");
    host_rename("f", "g");
    CHECK_EQUAL(look_up(1, "g").nodeid, f.nodeid);
    CHECK_EQUAL(ask(f.nodeid), 0);
    end();
}

static void an_open_file_is_known_whatever_the_host_does_to_its_name(void)
{
    begin(64);
    struct fuse_entry_out entry;
    uint64_t fh;
    CHECK_EQUAL(loopback_create_file(&guest, 1, "log", O_RDWR, 0600, &entry, &fh), 0);
    host_rename("log", "log.1");
    CHECK_EQUAL(ask(entry.nodeid), 0);
    CHECK_EQUAL(loopback_create_file(&guest, 1, "log", O_RDWR, 0600, &entry, &fh), 0);
    CHECK_EQUAL(unlinkat(loopback.root_fd, "log", 0), 0);
    struct fuse_setattr_in in = {.valid = FATTR_MODE, .mode = 0644};
    CHECK(loopback_send(&guest, FUSE_SETATTR, entry.nodeid, &in, sizeof(in), NULL, NULL) > 0);
    struct fuse_attr attributes;
    CHECK_EQUAL(loopback_getattr(&guest, entry.nodeid, &attributes), 0);
    CHECK_EQUAL(attributes.mode, S_IFREG | 0644);
    CHECK_EQUAL(attributes.nlink, 0);
    end();
}

static void a_submount_is_announced_where_negotiated(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
            _exit(77);
        begin_with(64, VHOSTFS_PASSTHROUGH_ANNOUNCE_SUBMOUNTS, FUSE_INIT_SUBMOUNTS);
        host_directory("sub");
        host_directory("plain");
        char path[128];
        snprintf(path, sizeof(path), "%s/sub", loopback.root);
        if (mount("none", path, "tmpfs", 0, "size=1m") != 0)
            _exit(77);
        struct fuse_entry_out sub = look_up(1, "sub");
        CHECK_EQUAL(sub.attr.flags, FUSE_ATTR_SUBMOUNT);
        CHECK_EQUAL(look_up(1, "plain").attr.flags, 0);
        host_directory("sub/inner");
        CHECK_EQUAL(look_up(sub.nodeid, "inner").attr.flags, 0);
        CHECK_EQUAL(look_up(sub.nodeid, "..").nodeid, 1);
        loopback_forget(&guest, sub.nodeid, 1);
        session_end(&loopback.session);
        epoch_drain(&loopback.session.epochs);
        CHECK(umount(path) == 0);
        end();
        _exit(0);
    }
    int status;
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        printf("    not shown: this process may not mount\n");
    else
        CHECK_EQUAL(status, 0);
}

int main(void)
{
    PROMISE(a_name_that_is_looked_up_twice_is_one_node);
    PROMISE(a_slot_that_is_used_again_has_another_generation);
    PROMISE(more_forgets_than_lookups_do_no_harm);
    PROMISE(a_batch_of_forgets_is_each_of_them);
    PROMISE(invented_nodeids_are_ESTALE);
    PROMISE(a_new_session_knows_nothing_of_the_last);
    PROMISE(a_file_that_the_host_replaced_is_another_node);
    PROMISE(a_number_that_comes_back_is_not_the_old_file);
    PROMISE(a_directory_that_the_host_moves_stays_usable);
    PROMISE(a_file_that_the_host_moves_is_found_where_it_is_looked_up);
    PROMISE(an_open_file_is_known_whatever_the_host_does_to_its_name);
    PROMISE(a_submount_is_announced_where_negotiated);
    return 0;
}
