/* Promises of cost: how many system calls an operation takes. Counted by tracing a child process that sends
 * requests; run with an argument, the program prints what it counted.
 */
#define _GNU_SOURCE 1
#include "check.h"
#include "loopback.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 100
#define SLACK 8 /* of memory for the allocator, in all rounds */

static struct loopback loopback;
static struct loopback_thread guest;
static uint64_t file; /* a file that was opened once */
static uint64_t fh;
static uint64_t folder;  /* a directory with 50 files */
static uint64_t listing; /* its handle */

/* ---- What is counted, in the child ---- */

static void nothing(void)
{
}

static void getattr(void)
{
    struct fuse_attr attributes;
    CHECK_EQUAL(loopback_getattr(&guest, file, &attributes), 0);
}

static void lookup_known(void)
{
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "file", &entry), 0);
}

static void lookup_missing(void)
{
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "missing", &entry), -ENOENT);
}

static void lookup_new_file_and_forget(void)
{
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "seldom", &entry), 0);
    loopback_forget(&guest, entry.nodeid, 1);
}

static void lookup_new_directory_and_forget(void)
{
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "seldom-directory", &entry), 0);
    loopback_forget(&guest, entry.nodeid, 1);
}

static void open_and_release(void)
{
    uint64_t opened;
    CHECK_EQUAL(loopback_open(&guest, file, O_RDONLY, &opened), 0);
    CHECK_EQUAL(loopback_release(&guest, file, opened), 0);
}

static void chmod_file(void)
{
    struct fuse_setattr_in in = {.valid = FATTR_MODE, .mode = 0600};
    CHECK(loopback_send(&guest, FUSE_SETATTR, file, &in, sizeof(in), NULL, NULL) > 0);
}

static void statfs_root(void)
{
    CHECK(loopback_send(&guest, FUSE_STATFS, 1, NULL, 0, NULL, NULL) > 0);
}

static void create_write_release_unlink(void)
{
    static const char data[4096];
    struct fuse_entry_out entry;
    uint64_t created;
    CHECK_EQUAL(loopback_create_file(&guest, 1, "new", O_RDWR, 0600, &entry, &created), 0);
    struct fuse_write_in in = {.fh = created, .size = sizeof(data)};
    struct loopback_piece pieces[] = {{&in, sizeof(in)}, {data, sizeof(data)}};
    CHECK_EQUAL(loopback_call(&guest, FUSE_WRITE, entry.nodeid, pieces, 2), sizeof(struct fuse_write_out));
    CHECK_EQUAL(loopback_release(&guest, entry.nodeid, created), 0);
    CHECK_EQUAL(loopback_unlink(&guest, 1, "new"), 0);
    loopback_forget(&guest, entry.nodeid, 1);
}

static void mkdir_rmdir(void)
{
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "new-directory", 0700, &entry), 0);
    CHECK_EQUAL(loopback_rmdir(&guest, 1, "new-directory"), 0);
    loopback_forget(&guest, entry.nodeid, 1);
}

static void rename_there_and_back(void)
{
    CHECK_EQUAL(loopback_rename(&guest, 1, "file", 1, "moved", 0), 0);
    CHECK_EQUAL(loopback_rename(&guest, 1, "moved", 1, "file", 0), 0);
}

static void list_50_with_attributes(void)
{
    struct fuse_read_in in = {.fh = listing, .size = 65536};
    CHECK(loopback_send(&guest, FUSE_READDIRPLUS, folder, &in, sizeof(in), NULL, NULL) > 0);
}

static const struct cost {
    const char *name;
    void (*request)(void);
    long limit; /* system calls */
} costs[] = {
    {"nothing", nothing, 0},
    {"getattr", getattr, 1},
    {"lookup, known", lookup_known, 1},
    {"lookup, missing", lookup_missing, 1},
    {"lookup of a new file, forget", lookup_new_file_and_forget, 2},
    {"lookup of a new directory, forget", lookup_new_directory_and_forget, 4},
    {"open, release", open_and_release, 2},
    {"chmod", chmod_file, 2},
    {"statfs", statfs_root, 1},
    {"create, write, release, unlink, forget", create_write_release_unlink, 7},
    {"mkdir, rmdir, forget", mkdir_rmdir, 5},
    {"rename there and back", rename_there_and_back, 2},
    {"readdirplus of 50 files, from the start", list_50_with_attributes, 53},
};

#define COSTS (sizeof(costs) / sizeof(costs[0]))

/* The tracer counts what lies between two of these. */
static void mark(void)
{
    syscall(SYS_getpgid, -4711);
}

static void make_tree(void)
{
    struct fuse_entry_out entry;
    uint64_t created;
    CHECK_EQUAL(loopback_create_file(&guest, 1, "file", O_RDWR, 0600, &entry, &fh), 0);
    file = entry.nodeid;
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "folder", 0700, &entry), 0);
    folder = entry.nodeid;
    for (unsigned int i = 0; i < 50; i++) {
        char name[16];
        snprintf(name, sizeof(name), "%u", i);
        CHECK_EQUAL(loopback_create_file(&guest, folder, name, O_RDWR, 0600, &entry, &created), 0);
        CHECK_EQUAL(loopback_release(&guest, entry.nodeid, created), 0);
    }
    CHECK_EQUAL(loopback_opendir(&guest, folder, &listing), 0);
    CHECK_EQUAL(mkdirat(loopback.root_fd, "seldom-directory", 0700), 0);
    CHECK_EQUAL(mknodat(loopback.root_fd, "seldom", S_IFREG | 0600, 0), 0);
}

static void child(void)
{
    struct vhostfs_passthrough_options options = loopback_options();
    loopback_create(&loopback, &options, 0);
    loopback_attach(&loopback, &guest);
    make_tree();
    for (size_t i = 0; i < COSTS; i++) {
        for (unsigned int round = 0; round < ROUNDS; round++)
            costs[i].request();
        mark();
        for (unsigned int round = 0; round < ROUNDS; round++)
            costs[i].request();
        mark();
    }
    loopback_detach(&guest);
    loopback_destroy(&loopback);
}

/* ---- The tracer ---- */

/* Let the child run to its next system call's entry; whether there was one. */
static bool next_call(pid_t traced, uint64_t *number, uint64_t *argument)
{
    struct __ptrace_syscall_info info;
    do {
        int status;
        CHECK(ptrace(PTRACE_SYSCALL, traced, NULL, NULL) == 0);
        CHECK_EQUAL(waitpid(traced, &status, 0), traced);
        if (WIFEXITED(status)) {
            CHECK_EQUAL(WEXITSTATUS(status), 0);
            return false;
        }
        CHECK(WIFSTOPPED(status));
        CHECK(ptrace(PTRACE_GET_SYSCALL_INFO, traced, sizeof(info), &info) > 0);
    } while (info.op != PTRACE_SYSCALL_INFO_ENTRY);
    *number = info.entry.nr;
    *argument = info.entry.args[0];
    return true;
}

static pid_t start_traced(void)
{
    pid_t traced = fork();
    CHECK(traced >= 0);
    if (traced == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            _exit(0);
        raise(SIGSTOP);
        child();
        _exit(0);
    }
    int status;
    CHECK_EQUAL(waitpid(traced, &status, 0), traced);
    if (WIFEXITED(status)) {
        printf("  not shown: this process may not trace\n");
        return -1;
    }
    CHECK(ptrace(PTRACE_SETOPTIONS, traced, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) == 0);
    return traced;
}

static void operations_take_no_more_system_calls_than_they_need(bool print)
{
    pid_t traced = start_traced();
    if (traced < 0)
        return;
    uint64_t number;
    uint64_t argument;
    size_t marks = 0;
    long counted = 0;
    while (next_call(traced, &number, &argument)) {
        counted++;
        if (number != SYS_getpgid || (int)argument != -4711)
            continue;
        if (marks++ % 2 != 0) {
            const struct cost *cost = &costs[marks / 2 - 1];
            if (print)
                printf("  %-45s %5.2f\n", cost->name, (double)(counted - 1) / ROUNDS);
            if (counted - 1 > cost->limit * ROUNDS + SLACK)
                fprintf(stderr, "%s takes %.2f system calls\n", cost->name, (double)(counted - 1) / ROUNDS);
            CHECK(counted - 1 <= cost->limit * ROUNDS + SLACK);
        }
        counted = 0;
    }
    CHECK_EQUAL(marks, 2 * COSTS);
}

int main(int count, char **arguments)
{
    (void)arguments;
    operations_take_no_more_system_calls_than_they_need(count > 1);
    printf("  operations_take_no_more_system_calls_than_they_need\n");
    return 0;
}
