/* Promises of descriptors and memory: however many files a guest knows, few are open, and each is found again. */
#define _GNU_SOURCE 1
#include "check.h"
#include "knowing_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MANY 10000
#define A_DIRECTORY 100

static void name_of(unsigned int number, char name[16])
{
    snprintf(name, 16, "%u", number);
}

/* A tree of `MANY` files, all known to the guest; the nodeids in `files`. */
static void know_many(uint64_t *files)
{
    char name[16];
    char path[40];
    for (unsigned int i = 0; i < MANY; i++) {
        name_of(i / A_DIRECTORY, name);
        if (i % A_DIRECTORY == 0)
            host_directory(name);
        snprintf(path, sizeof(path), "%s/%u", name, i % A_DIRECTORY);
        host_file(path);
    }
    uint64_t directory = 0;
    for (unsigned int i = 0; i < MANY; i++) {
        name_of(i / A_DIRECTORY, name);
        if (i % A_DIRECTORY == 0)
            directory = look_up(1, name).nodeid;
        name_of(i % A_DIRECTORY, name);
        files[i] = look_up(directory, name).nodeid;
    }
}

static void hold_many(bool file_handles)
{
    begin(64);
    if (file_handles && !loopback.share->file_handles)
        printf("    not shown: no file handles for this process and file system\n");
    loopback.share->file_handles = file_handles && loopback.share->file_handles;
    size_t before = loopback_open_descriptors();
    uint64_t *files = calloc(MANY, sizeof(*files));
    CHECK(files != NULL);
    know_many(files);
    size_t most = 0;
    for (unsigned int round = 0; round < 2; round++) {
        for (unsigned int i = 0; i < MANY; i++) {
            uint64_t fh;
            CHECK_EQUAL(ask(files[i]), 0);
            CHECK_EQUAL(loopback_open(&guest, files[i], O_RDONLY, &fh), 0);
            CHECK_EQUAL(loopback_release(&guest, files[i], fh), 0);
            if (i % 997 == 0 && loopback_open_descriptors() > most)
                most = loopback_open_descriptors();
        }
    }
    /* The budget, and a descriptor to ask its mount by file handle. */
    CHECK(most <= before + 64 + 1);
    for (unsigned int i = 0; i < MANY; i++)
        loopback_forget(&guest, files[i], 1);
    free(files);
    end();
}

static void ten_thousand_files_are_held_with_64_descriptors(void)
{
    hold_many(true);
}

static void the_same_without_file_handles(void)
{
    hold_many(false);
}

#define DEEP 150

static void descend(bool file_handles)
{
    begin(16);
    loopback.share->file_handles = file_handles && loopback.share->file_handles;
    uint64_t nodes[DEEP];
    uint64_t parent = 1;
    for (unsigned int i = 0; i < DEEP; i++) {
        struct fuse_entry_out entry;
        CHECK_EQUAL(loopback_mkdir(&guest, parent, "d", 0755, &entry), 0);
        parent = nodes[i] = entry.nodeid;
    }
    for (unsigned int i = 0; i < DEEP; i++) {
        uint64_t fh;
        CHECK_EQUAL(ask(nodes[DEEP - 1 - i]), 0);
        CHECK_EQUAL(loopback_opendir(&guest, nodes[(i * 37) % DEEP], &fh), 0);
        CHECK_EQUAL(loopback_releasedir(&guest, nodes[(i * 37) % DEEP], fh), 0);
    }
    /* The guest moves a part of it; everything below is still found. */
    CHECK_EQUAL(loopback_rename(&guest, nodes[9], "d", 1, "cut", 0), 0);
    for (unsigned int i = 0; i < DEEP; i++)
        CHECK_EQUAL(ask(nodes[i]), 0);
    end();
}

static void a_deep_tree_is_found_again_by_file_handle_or_name(void)
{
    descend(true);
    descend(false);
}

static void a_file_that_was_looked_up_outlives_the_renames_of_the_host(void)
{
    begin(16);
    host_file("f");
    struct fuse_entry_out f = look_up(1, "f");
    host_rename("f", "moved");
    host_file("f");
    if (loopback.share->file_handles) {
        struct fuse_attr attributes;
        CHECK_EQUAL(loopback_getattr(&guest, f.nodeid, &attributes), 0);
        CHECK_EQUAL(attributes.ino, f.attr.ino);
    } else {
        printf("    not shown: no file handles for this process and file system\n");
    }
    CHECK(look_up(1, "f").nodeid != f.nodeid);
    end();
}

/* Let the guest know so many directories that the descriptors of all others are given up. */
static void push_out(const char *names)
{
    for (unsigned int i = 0; i < 100; i++) {
        char name[32];
        struct fuse_entry_out entry;
        snprintf(name, sizeof(name), "%s-%u", names, i);
        CHECK_EQUAL(loopback_mkdir(&guest, 1, name, 0755, &entry), 0);
    }
}

/* Know a directory "d" with a file, then so many others that its descriptor is given up. */
static uint64_t push_out_a_directory(void)
{
    host_directory("d");
    host_file("d/f");
    uint64_t nodeid = look_up(1, "d").nodeid;
    push_out("other");
    return nodeid;
}

static void what_the_host_moved_is_found_by_file_handle(void)
{
    begin(16);
    if (!loopback.share->file_handles) {
        printf("    not shown: no file handles for this process and file system\n");
    } else {
        uint64_t nodeid = push_out_a_directory();
        host_rename("d", "moved");
        CHECK_EQUAL(look_up(nodeid, "f").attr.nlink, 1);
        CHECK_EQUAL(ask(nodeid), 0);
    }
    end();
}

static void what_was_only_listed_is_found_below_a_directory_that_the_host_moved(void)
{
    begin(16);
    if (!loopback.share->file_handles) {
        printf("    not shown: no file handles for this process and file system\n");
        end();
        return;
    }
    host_directory("d");
    host_file("d/f");
    uint64_t directory = look_up(1, "d").nodeid;
    uint64_t fh;
    CHECK_EQUAL(loopback_opendir(&guest, directory, &fh), 0);
    struct fuse_read_in in = {.fh = fh, .size = 4096};
    int32_t size = loopback_send(&guest, FUSE_READDIRPLUS, directory, &in, sizeof(in), NULL, NULL);
    CHECK(size > 0);
    uint64_t file = 0;
    for (size_t at = 0; at < (size_t)size;) {
        struct fuse_direntplus entry;
        memcpy(&entry, guest.reply + at, sizeof(entry));
        if (entry.entry_out.nodeid != 0)
            file = entry.entry_out.nodeid;
        at += (sizeof(entry) + entry.dirent.namelen + 7) & ~(size_t)7;
    }
    CHECK(file != 0);
    CHECK_EQUAL(loopback_releasedir(&guest, directory, fh), 0);
    push_out("other");
    host_rename("d", "moved");
    CHECK_EQUAL(loopback_open(&guest, file, O_RDONLY, &fh), 0);
    CHECK_EQUAL(ask(file), 0);
    end();
}

static void a_file_that_was_made_and_closed_outlives_renames_once_looked_up(void)
{
    begin(16);
    struct fuse_entry_out entry;
    uint64_t fh;
    CHECK_EQUAL(loopback_create_file(&guest, 1, "f", O_RDWR, 0600, &entry, &fh), 0);
    CHECK_EQUAL(loopback_release(&guest, entry.nodeid, fh), 0);
    CHECK_EQUAL(look_up(1, "f").nodeid, entry.nodeid);
    host_rename("f", "moved");
    if (loopback.share->file_handles)
        CHECK_EQUAL(ask(entry.nodeid), 0);
    else
        printf("    not shown: no file handles for this process and file system\n");
    end();
}

static void what_the_host_moved_is_ESTALE_without(void)
{
    begin(16);
    loopback.share->file_handles = false;
    uint64_t nodeid = push_out_a_directory();
    host_rename("d", "moved");
    struct fuse_entry_out entry;
    CHECK_EQUAL(ask(nodeid), -ESTALE);
    CHECK_EQUAL(loopback_lookup(&guest, nodeid, "f", &entry), -ESTALE);
    /* And back again where the guest finds it anew. */
    CHECK_EQUAL(look_up(1, "moved").nodeid, nodeid);
    CHECK_EQUAL(look_up(nodeid, "f").attr.nlink, 1);
    end();
}

static void unlinked_files_keep_their_descriptors_and_the_rest_goes_on(void)
{
    begin(16);
    uint64_t kept[10];
    char name[16];
    for (unsigned int i = 0; i < 10; i++) {
        struct fuse_entry_out entry;
        uint64_t fh;
        name_of(i, name);
        CHECK_EQUAL(loopback_create_file(&guest, 1, name, O_RDWR, 0600, &entry, &fh), 0);
        CHECK_EQUAL(loopback_release(&guest, entry.nodeid, fh), 0);
        CHECK_EQUAL(loopback_unlink(&guest, 1, name), 0);
        kept[i] = entry.nodeid;
    }
    for (unsigned int i = 0; i < 100; i++) {
        struct fuse_entry_out entry;
        name_of(i, name);
        CHECK_EQUAL(loopback_mkdir(&guest, 1, name, 0700, &entry), 0);
    }
    for (unsigned int i = 0; i < 10; i++)
        CHECK_EQUAL(ask(kept[i]), 0);
    /* A hostile guest that holds more of them than the budget gets errors, and loses nothing but those. */
    for (unsigned int i = 1000; i < 1100; i++) {
        struct fuse_entry_out entry;
        uint64_t fh;
        name_of(i, name);
        CHECK_EQUAL(loopback_create_file(&guest, 1, name, O_RDWR, 0600, &entry, &fh), 0);
        CHECK_EQUAL(loopback_unlink(&guest, 1, name), 0);
    }
    for (unsigned int i = 0; i < 10; i++)
        CHECK_EQUAL(ask(kept[i]), 0);
    CHECK_EQUAL(ask(1), 0);
    end();
}

static bool counts_memory(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    return false;
#endif
#endif
    return true;
}

static void limit_descriptors(rlim_t more)
{
    struct rlimit limit = {loopback_open_descriptors() + more, loopback_open_descriptors() + more};
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* In a child, whose limit is its own. */
static void in_child(void (*promise)(void))
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        promise();
        _exit(0);
    }
    int status;
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    CHECK_EQUAL(status, 0);
}

static void serve_with_few_descriptors(void)
{
    begin(512);
    limit_descriptors(40);
    uint64_t nodes[200];
    for (unsigned int i = 0; i < 200; i++) {
        char name[16];
        struct fuse_entry_out entry;
        name_of(i, name);
        CHECK_EQUAL(loopback_mkdir(&guest, 1, name, 0700, &entry), 0);
        nodes[i] = entry.nodeid;
    }
    for (unsigned int i = 0; i < 200; i++) {
        struct fuse_entry_out entry;
        uint64_t fh;
        CHECK_EQUAL(loopback_opendir(&guest, nodes[i], &fh), 0);
        CHECK_EQUAL(loopback_releasedir(&guest, nodes[i], fh), 0);
        CHECK_EQUAL(loopback_create_file(&guest, nodes[i], "f", O_RDWR | O_EXCL, 0600, &entry, &fh), 0);
        CHECK_EQUAL(loopback_release(&guest, entry.nodeid, fh), 0);
    }
    end();
}

static void a_process_that_may_open_less_than_the_budget_goes_on(void)
{
    in_child(serve_with_few_descriptors);
}

static void open_all_that_can_be_opened(void)
{
    struct rlimit limit = {300, 300};
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
    begin(64);
    struct fuse_entry_out entry;
    uint64_t fh;
    int error;
    unsigned int opened = 0;
    CHECK_EQUAL(loopback_create_file(&guest, 1, "f", O_RDWR, 0600, &entry, &fh), 0);
    while ((error = loopback_open(&guest, entry.nodeid, O_RDONLY, &fh)) == 0)
        opened++;
    CHECK_EQUAL(error, -ENFILE);
    CHECK(opened > 100 && loopback_open_descriptors() < 300 - 64);
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "d", 0700, &entry), 0);
    end();
}

static void open_files_leave_descriptors_for_the_rest(void)
{
    in_child(open_all_that_can_be_opened);
}

/* The guest removes a name that means another file by then: its node is the file that it looked up, or stale. */
static void replace_and_remove(bool file_handles)
{
    begin(16);
    loopback.share->file_handles = file_handles && loopback.share->file_handles;
    bool found_again = loopback.share->file_handles;
    host_file("f");
    struct fuse_entry_out entry = look_up(1, "f");
    host_rename("f", "moved");
    host_file("f");
    CHECK_EQUAL(loopback_unlink(&guest, 1, "f"), 0);
    struct fuse_attr attributes;
    CHECK_EQUAL(loopback_getattr(&guest, entry.nodeid, &attributes), found_again ? 0 : -ESTALE);
    if (found_again)
        CHECK_EQUAL(attributes.ino, entry.attr.ino);
    struct fuse_setattr_in in = {.valid = FATTR_MODE, .mode = 0600};
    CHECK((loopback_send(&guest, FUSE_SETATTR, entry.nodeid, &in, sizeof(in), NULL, NULL) > 0) ==
          found_again);
    end();
}

static void a_name_that_the_host_replaced_before_it_was_removed_lends_no_node_another_file(void)
{
    replace_and_remove(true);
    replace_and_remove(false);
}

static void removals_that_the_host_refuses_take_no_descriptors_from_others(void)
{
    begin(16);
    struct fuse_entry_out entry;
    for (unsigned int i = 0; i < A_DIRECTORY; i++) {
        char name[16];
        char inner[32];
        name_of(i, name);
        snprintf(inner, sizeof(inner), "%s/inner", name);
        host_directory(name);
        host_file(inner);
        look_up(1, name);
    }
    for (unsigned int i = 0; i < A_DIRECTORY; i++) {
        char name[16];
        name_of(i, name);
        CHECK_EQUAL(loopback_rmdir(&guest, 1, name), -ENOTEMPTY);
    }
    uint64_t fh;
    CHECK_EQUAL(loopback_create_file(&guest, 1, "f", O_RDWR, 0600, &entry, &fh), 0);
    CHECK_EQUAL(loopback_release(&guest, entry.nodeid, fh), 0);
    CHECK_EQUAL(loopback_unlink(&guest, 1, "f"), 0);
    CHECK_EQUAL(ask(entry.nodeid), 0);
    end();
}

static void what_a_sleeping_request_holds_stays(void)
{
    begin(16);
    size_t descriptors = loopback_open_descriptors();
    host_directory("d");
    uint64_t nodeid = look_up(1, "d").nodeid;
    /* As a pool thread has it: found inside an epoch, and used after. */
    struct loopback_thread sleeper;
    loopback_attach(&loopback, &sleeper);
    struct request request = {.session = &loopback.session,
                              .filesystem = loopback.session.mounts[0],
                              .reader = &sleeper.reader,
                              .on_pool = true,
                              .inside_epoch = true};
    epoch_enter(&loopback.session.epochs, &sleeper.reader);
    struct node *node = node_find(&request, nodeid);
    CHECK(node != NULL);
    int fd = node_descriptor(&request, node);
    CHECK(request_may_sleep(&request));
    push_out("other");
    CHECK_EQUAL(loopback_rmdir(&guest, 1, "d"), 0);
    loopback_forget(&guest, nodeid, 1);
    CHECK_EQUAL(ask(nodeid), -ESTALE);
    struct stat attributes;
    CHECK_EQUAL(fstat(fd, &attributes), 0);
    CHECK_EQUAL(attributes.st_nlink, 0);
    CHECK_EQUAL(node_id(node), nodeid);
    request_finish(&request, REQUEST_NO_REPLY);
    CHECK_EQUAL(ask(1), 0);
    CHECK(fstat(fd, &attributes) != 0);
    loopback_detach(&sleeper);
    CHECK(loopback_open_descriptors() <= descriptors + 16 + 1);
    end();
}

static void descriptors_of_forgotten_directories_count_until_they_are_closed(void)
{
    begin(16);
    struct epoch_domain *epochs = &loopback.session.epochs;
    /* Another queue of the guest's, in a lookup that the host does not answer. */
    struct epoch_reader stuck;
    epoch_add_reader(epochs, &stuck);
    epoch_enter(epochs, &stuck);
    size_t before = loopback_open_descriptors();
    unsigned int made = 0;
    while (!epoch_crowded(epochs)) {
        char name[16];
        name_of(made++, name);
        host_directory(name);
        loopback_forget(&guest, look_up(1, name).nodeid, 1);
        CHECK(made < 100);
    }
    CHECK(made > 16 && loopback_open_descriptors() < before + 100);
    epoch_leave(epochs, &stuck);
    CHECK_EQUAL(ask(1), 0);
    CHECK(!epoch_crowded(epochs));
    CHECK_EQUAL(loopback_open_descriptors(), before);
    epoch_remove_reader(epochs, &stuck);
    end();
}

static size_t resident_bytes(void)
{
    FILE *statm = fopen("/proc/self/statm", "re");
    CHECK(statm != NULL);
    size_t pages;
    CHECK_EQUAL(fscanf(statm, "%*u %zu", &pages), 1);
    fclose(statm);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void a_node_costs_less_than_250_bytes(void)
{
    begin(64);
    uint64_t *files = calloc(MANY, sizeof(*files));
    CHECK(files != NULL);
    size_t before = resident_bytes();
    know_many(files);
    size_t used = resident_bytes() - before - MANY * sizeof(*files);
    if (!counts_memory())
        printf("    not shown: a sanitizer's memory is not the daemon's\n");
    else
        CHECK(used / MANY < 250);
    free(files);
    end();
}

/* ---- Without privileges ---- */

static void an_ordinary_user_serves_all_of_it(void)
{
    if (geteuid() != 0) {
        printf("    nothing more to show: all of it ran as an ordinary user\n");
        return;
    }
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_EQUAL(prctl(PR_SET_SECUREBITS, 0), 0); /* or capabilities would stay, as operations want it */
        CHECK_EQUAL(setgid(65534), 0);
        CHECK_EQUAL(setuid(65534), 0);
        begin(64);
        CHECK(!loopback.share->file_handles);
        end();
        the_same_without_file_handles();
        a_deep_tree_is_found_again_by_file_handle_or_name();
        begin(64);
        struct fuse_entry_out entry;
        uint64_t fh;
        guest.uid = guest.gid = 65534;
        CHECK_EQUAL(loopback_create_file(&guest, 1, "f", O_RDWR, 0600, &entry, &fh), 0);
        guest.uid = 1;
        CHECK_EQUAL(loopback_create_file(&guest, 1, "g", O_RDWR, 0600, &entry, &fh), -EPERM);
        end();
        _exit(0);
    }
    int status;
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    CHECK_EQUAL(status, 0);
}

/* As with any descriptor: who has it keeps it, wherever the host moves it; but it is no way to what was never
 * shared. */
static void what_the_host_moves_out_of_the_share_leads_nowhere_else(void)
{
    begin(16);
    char outside[128]; /* on the same file system */
    snprintf(outside, sizeof(outside), "%s-outside", loopback.root);
    CHECK_EQUAL(mkdir(outside, 0755), 0);
    int out = open(outside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK_EQUAL(mkdirat(out, "secret", 0755), 0);
    host_directory("d");
    host_directory("d/inner");
    uint64_t directory = look_up(1, "d").nodeid;
    uint64_t inner = look_up(directory, "inner").nodeid;
    for (int given_up = 0; given_up < 2; given_up++) {
        if (given_up != 0)
            push_out("other"); /* to be opened again by file handle or name */
        if (given_up == 0)
            CHECK_EQUAL(renameat(loopback.root_fd, "d", out, "d"), 0);
        struct fuse_entry_out entry;
        CHECK_EQUAL(loopback_lookup(&guest, 1, "d", &entry), -ENOENT);
        if (given_up == 0)
            CHECK_EQUAL(look_up(directory, "..").nodeid, 1);
        int error = loopback_lookup(&guest, inner, "..", &entry);
        CHECK(error == -ESTALE || entry.nodeid == directory);
        CHECK(loopback_lookup(&guest, directory, "../secret", &entry) < 0);
        CHECK(loopback_lookup(&guest, directory, "secret", &entry) < 0);
    }
    CHECK_EQUAL(renameat(out, "d", loopback.root_fd, "d"), 0);
    CHECK_EQUAL(unlinkat(out, "secret", AT_REMOVEDIR), 0);
    close(out);
    CHECK_EQUAL(rmdir(outside), 0);
    end();
}

/* A file that was made: whether the guest is to tell of its closing, and whether that may sleep. */
static void check_flush(uint64_t directory, bool told)
{
    struct fuse_entry_out entry;
    struct fuse_open_out open;
    uint64_t fh;
    CHECK_EQUAL(loopback_create_file(&guest, directory, "f", O_RDWR, 0600, &entry, &fh), 0);
    memcpy(&open, guest.reply + sizeof(entry), sizeof(open));
    CHECK_EQUAL((open.open_flags & FOPEN_NOFLUSH) == 0, told);
    CHECK_EQUAL(loopback_open(&guest, entry.nodeid, O_RDWR, &fh), 0);
    memcpy(&open, guest.reply, sizeof(open));
    CHECK_EQUAL((open.open_flags & FOPEN_NOFLUSH) == 0, told);
    struct fuse_flush_in in = {.fh = fh};
    CHECK_EQUAL(loopback_send(&guest, FUSE_FLUSH, entry.nodeid, &in, sizeof(in), NULL, NULL), 0);
    CHECK_EQUAL(guest.detached, told);
}

/* It may be one of those that report lost data when a file is closed (NFS). */
static void closing_is_told_of_where_another_file_system_is_mounted(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
            _exit(77);
        begin(64);
        host_directory("sub");
        char path[128];
        snprintf(path, sizeof(path), "%s/sub", loopback.root);
        if (mount("none", path, "tmpfs", 0, "size=1m") != 0)
            _exit(77);
        check_flush(1, false);
        check_flush(look_up(1, "sub").nodeid, true);
        session_end(&loopback.session);
        epoch_drain(&loopback.session.epochs);
        CHECK(umount(path) == 0);
        end();
        _exit(0);
    }
    int status;
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77));
    if (WEXITSTATUS(status) == 77)
        printf("    not shown: mounts are not allowed here\n");
}

int main(void)
{
    PROMISE(a_node_costs_less_than_250_bytes); /* first, on a fresh heap */
    PROMISE(closing_is_told_of_where_another_file_system_is_mounted);
    PROMISE(ten_thousand_files_are_held_with_64_descriptors);
    PROMISE(the_same_without_file_handles);
    PROMISE(a_deep_tree_is_found_again_by_file_handle_or_name);
    PROMISE(a_file_that_was_looked_up_outlives_the_renames_of_the_host);
    PROMISE(what_the_host_moved_is_found_by_file_handle);
    PROMISE(what_was_only_listed_is_found_below_a_directory_that_the_host_moved);
    PROMISE(a_file_that_was_made_and_closed_outlives_renames_once_looked_up);
    PROMISE(what_the_host_moved_is_ESTALE_without);
    PROMISE(what_the_host_moves_out_of_the_share_leads_nowhere_else);
    PROMISE(unlinked_files_keep_their_descriptors_and_the_rest_goes_on);
    PROMISE(a_name_that_the_host_replaced_before_it_was_removed_lends_no_node_another_file);
    PROMISE(removals_that_the_host_refuses_take_no_descriptors_from_others);
    PROMISE(what_a_sleeping_request_holds_stays);
    PROMISE(descriptors_of_forgotten_directories_count_until_they_are_closed);
    PROMISE(a_process_that_may_open_less_than_the_budget_goes_on);
    PROMISE(open_files_leave_descriptors_for_the_rest);
    PROMISE(an_ordinary_user_serves_all_of_it);
    return 0;
}
