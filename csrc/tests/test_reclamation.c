/* What the guest let go is freed: wholly when its front-end leaves, and within bounds while somebody may still
 * look. */
#define _GNU_SOURCE 1
#include "check.h"
#include "loopback.h"
#include "mock_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- A front-end that leaves ---- */

#define DEPTH 6
#define MOUNT 1ULL

struct visit {
    struct guest guest;
    struct driver driver;
    char share[48];
};

static void arrive(struct visit *visit)
{
    strcpy(visit->share, "/dev/shm/vhostfs-test-XXXXXX");
    CHECK(mkdtemp(visit->share) != NULL);
    guest_create(&visit->guest, &(struct guest_options){.size = 8 << 20, .queues = 4, .pool_threads = 2});
    struct vhostfs_passthrough_options options = loopback_options();
    options.descriptor_budget = 16;
    options.root_fd = open(visit->share, O_PATH | O_DIRECTORY | O_CLOEXEC);
    options.proc_self_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK_EQUAL(vhostfs_device_mount_passthrough(visit->guest.device, MOUNT, &options), 0);
    close(options.root_fd);
    close(options.proc_self_fd);
}

/* A directory in a directory in a directory. */
static void make_deep_tree(struct visit *visit)
{
    uint64_t parent = MOUNT << 48 | 1;
    struct {
        struct fuse_mkdir_in in;
        char name[8];
    } body = {.in = {.mode = 0700}, .name = "d"};
    for (int level = 0; level < DEPTH; level++) {
        uint16_t id = 0;
        uint32_t length = 0;
        CHECK(driver_request(&visit->driver, FUSE_MKDIR, parent, &body, sizeof(body), DRIVER_POOL_ROOM));
        driver_kick(&visit->driver);
        driver_await(&visit->driver, &id, &length);
        const struct fuse_out_header *reply = driver_reply(&visit->driver, id, length);
        CHECK_EQUAL(reply->error, 0);
        struct fuse_entry_out entry;
        memcpy(&entry, reply + 1, sizeof(entry));
        parent = entry.nodeid;
    }
}

static void depart(struct visit *visit)
{
    char command[96];
    guest_destroy(&visit->guest);
    snprintf(command, sizeof(command), "rm -r %s", visit->share);
    CHECK_EQUAL(system(command), 0);
}

/* Every descriptor on the share would keep the host from unmounting it. */
static void a_front_end_that_leaves_leaves_nothing_open(void)
{
    struct visit visit;
    arrive(&visit);
    size_t before = loopback_open_descriptors();
    driver_create(&visit.driver, &visit.guest, 1, &(struct driver_options){.size = 64});
    driver_init(&visit.driver);
    make_deep_tree(&visit);
    CHECK(loopback_open_descriptors() >= before + DEPTH);
    vhostfs_device_disconnect(visit.guest.device);
    driver_destroy(&visit.driver);
    CHECK_EQUAL(loopback_open_descriptors(), before);
    depart(&visit);
}

/* ---- A guest that wants all descriptors ---- */

#define FEW_DESCRIPTORS 200
#define SET_ASIDE 32 /* that the rest of the process still gets: its sockets, the other devices */

/* A share that reads how few descriptors the process may have, and one file of it. */
struct hoard {
    struct loopback loopback;
    struct loopback_thread guest;
    struct rlimit before;
    struct fuse_entry_out file;
    uint64_t fh;
};

static void hoard_begin(struct hoard *hoard)
{
    CHECK_EQUAL(getrlimit(RLIMIT_NOFILE, &hoard->before), 0);
    struct rlimit few = {.rlim_cur = FEW_DESCRIPTORS, .rlim_max = hoard->before.rlim_max};
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &few), 0);
    struct vhostfs_passthrough_options options = loopback_options();
    options.descriptor_budget = 16;
    options.flags |= VHOSTFS_PASSTHROUGH_POSIX_LOCKS;
    loopback_create(&hoard->loopback, &options, FUSE_INIT_POSIX_LOCKS);
    loopback_attach(&hoard->loopback, &hoard->guest);
    CHECK_EQUAL(loopback_create_file(&hoard->guest, 1, "file", O_RDWR, 0600, &hoard->file, &hoard->fh), 0);
}

static void hoard_end(struct hoard *hoard)
{
    CHECK_EQUAL(loopback_release(&hoard->guest, hoard->file.nodeid, hoard->fh), 0);
    loopback_detach(&hoard->guest);
    loopback_destroy(&hoard->loopback);
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &hoard->before), 0);
}

static void check_others_have_descriptors(void)
{
    CHECK(loopback_open_descriptors() + SET_ASIDE <= FEW_DESCRIPTORS);
}

static void closed_files_count_as_long_as_somebody_may_use_them(void)
{
    struct hoard hoard;
    hoard_begin(&hoard);
    /* Another queue of the guest's, in a lookup that the host does not answer. */
    struct epoch_reader stuck;
    epoch_add_reader(&hoard.loopback.session.epochs, &stuck);
    epoch_enter(&hoard.loopback.session.epochs, &stuck);
    uint64_t fh;
    int error = 0;
    for (int i = 0; i < 2 * FEW_DESCRIPTORS && error == 0; i++) {
        error = loopback_open(&hoard.guest, hoard.file.nodeid, O_RDONLY, &fh);
        if (error == 0)
            CHECK_EQUAL(loopback_release(&hoard.guest, hoard.file.nodeid, fh), 0);
    }
    CHECK_EQUAL(error, -ENFILE);
    check_others_have_descriptors();
    epoch_leave(&hoard.loopback.session.epochs, &stuck);
    CHECK_EQUAL(loopback_open(&hoard.guest, hoard.file.nodeid, O_RDONLY, &fh), 0);
    CHECK_EQUAL(loopback_release(&hoard.guest, hoard.file.nodeid, fh), 0);
    epoch_remove_reader(&hoard.loopback.session.epochs, &stuck);
    hoard_end(&hoard);
}

static void an_open_that_finds_no_room_changes_nothing(void)
{
    struct hoard hoard;
    hoard_begin(&hoard);
    static uint64_t handles[FEW_DESCRIPTORS];
    size_t count = 0;
    int error = 0;
    while ((error = loopback_open(&hoard.guest, hoard.file.nodeid, O_RDONLY, &handles[count])) == 0)
        count++;
    CHECK_EQUAL(error, -ENFILE);
    int fd = openat(hoard.loopback.root_fd, "file", O_WRONLY | O_CLOEXEC);
    CHECK_EQUAL(write(fd, "content", 7), 7);
    uint64_t fh;
    struct fuse_entry_out entry;
    CHECK_EQUAL(loopback_open(&hoard.guest, hoard.file.nodeid, O_WRONLY | O_TRUNC, &fh), -ENFILE);
    CHECK_EQUAL(loopback_create_file(&hoard.guest, 1, "file", O_WRONLY | O_TRUNC, 0600, &entry, &fh),
                -ENFILE);
    CHECK_EQUAL(lseek(fd, 0, SEEK_END), 7);
    CHECK_EQUAL(loopback_create_file(&hoard.guest, 1, "new", O_WRONLY, 0600, &entry, &fh), -ENFILE);
    CHECK_EQUAL(faccessat(hoard.loopback.root_fd, "new", F_OK, 0), -1);
    close(fd);
    while (count > 0)
        CHECK_EQUAL(loopback_release(&hoard.guest, hoard.file.nodeid, handles[--count]), 0);
    hoard_end(&hoard);
}

static struct epoch_reader *relieved_by;
static int relieved_inside; /* -1: not asked */

static bool note_epoch(struct filesystem *filesystem)
{
    (void)filesystem;
    relieved_inside = atomic_load(&relieved_by->entered) != 0;
    return false;
}

static void descriptors_are_given_up_inside_an_epoch_also_by_who_sleeps(void)
{
    struct hoard hoard;
    hoard_begin(&hoard);
    relieved_by = &hoard.guest.reader;
    relieved_inside = -1;
    hoard.loopback.session.mounts[0]->relieve = note_epoch;
    hoard.loopback.share->local = false; /* FLUSH closes a duplicate, on the pool */
    struct rlimit none = {.rlim_cur = 3, .rlim_max = hoard.before.rlim_max};
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &none), 0);
    struct fuse_flush_in in = {.fh = hoard.fh};
    CHECK_EQUAL(loopback_send(&hoard.guest, FUSE_FLUSH, hoard.file.nodeid, &in, sizeof(in), NULL, NULL),
                -ENFILE);
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &hoard.before), 0);
    CHECK_EQUAL(relieved_inside, 1);
    hoard_end(&hoard);
}

static void owners_of_locks_count_as_open_files(void)
{
    struct hoard hoard;
    hoard_begin(&hoard);
    struct fuse_lk_in in = {.fh = hoard.fh, .lk = {.end = 9, .type = F_RDLCK, .pid = 1}};
    int32_t result = 0;
    for (in.owner = 1; in.owner < 2 * FEW_DESCRIPTORS && result == 0; in.owner++)
        result = loopback_send(&hoard.guest, FUSE_SETLK, hoard.file.nodeid, &in, sizeof(in), NULL, NULL);
    CHECK_EQUAL(result, -ENOLCK);
    check_others_have_descriptors();
    struct fuse_flush_in flush = {.fh = hoard.fh, .lock_owner = 1};
    CHECK_EQUAL(loopback_send(&hoard.guest, FUSE_FLUSH, hoard.file.nodeid, &flush, sizeof(flush), NULL, NULL),
                0);
    CHECK_EQUAL(loopback_send(&hoard.guest, FUSE_SETLK, hoard.file.nodeid, &in, sizeof(in), NULL, NULL), 0);
    hoard_end(&hoard);
}

static void what_was_under_way_when_the_session_ended_goes_with_the_front_end(void)
{
    struct hoard hoard;
    hoard_begin(&hoard);
    size_t before = loopback_open_descriptors();
    struct session *session = &hoard.loopback.session;
    CHECK_EQUAL(loopback_send(&hoard.guest, FUSE_DESTROY, 0, NULL, 0, NULL, NULL), 0);
    /* Another queue took its request before the end, and comes to it afterwards. */
    atomic_store(&session->minor, FUSE_KERNEL_MINOR_VERSION);
    struct fuse_entry_out late;
    uint64_t fh;
    CHECK_EQUAL(loopback_create_file(&hoard.guest, 1, "late", O_RDWR, 0600, &late, &fh), 0);
    atomic_store(&session->minor, 0);
    session_end(session);
    epoch_reclaim(&session->epochs);
    CHECK_EQUAL(loopback_open_descriptors(), before - 1); /* the file that was open */
    loopback_detach(&hoard.guest);
    loopback_destroy(&hoard.loopback);
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &hoard.before), 0);
}

/* ---- A queue that the host holds up, and another that goes on ---- */

#define FILES 64U
#define REQUESTS 4000U

/* Another queue of the device's, in a lookup that the host does not answer. */
static void hold_up(struct guest *guest, struct epoch_reader *stuck)
{
    epoch_add_reader(&guest->device->session.epochs, stuck);
    epoch_enter(&guest->device->session.epochs, stuck);
}

static void let_go(struct guest *guest, struct epoch_reader *stuck)
{
    epoch_leave(&guest->device->session.epochs, stuck);
    epoch_remove_reader(&guest->device->session.epochs, stuck);
}

/* Send one request after the other, until all are sent or one is not answered for a while. How many were
 * answered. */
static uint32_t send_while_answered(struct driver *driver, uint32_t count,
                                    bool (*send)(struct driver *driver, uint32_t number))
{
    for (uint32_t number = 0; number < count; number++) {
        uint16_t id = 0;
        uint32_t length = 0;
        CHECK(send(driver, number));
        driver_kick(driver);
        bool answered = false;
        for (int tries = 0; tries < 200 && !answered; tries++) {
            answered = driver_take(driver, &id, &length);
            if (!answered && tries > 100)
                usleep(1000);
        }
        if (!answered)
            return number;
        CHECK_EQUAL(driver_reply(driver, id, length)->error, 0);
    }
    return count;
}

/* Each takes a name out of use. */
static bool rename_to_and_fro(struct driver *driver, uint32_t number)
{
    struct {
        struct fuse_rename_in in;
        char names[4];
    } body = {.in = {.newdir = MOUNT << 48 | 1}};
    memcpy(body.names, number % 2 == 0 ? "d\0e" : "e\0d", sizeof(body.names));
    return driver_request(driver, FUSE_RENAME, MOUNT << 48 | 1, &body, sizeof(body), DRIVER_POOL_ROOM);
}

static uint64_t files[FILES];

/* Each takes a descriptor, more of them than may be kept. */
static bool ask_for_attributes(struct driver *driver, uint32_t number)
{
    struct fuse_getxattr_in in = {.size = 0};
    return driver_request(driver, FUSE_LISTXATTR, files[number % FILES], &in, sizeof(in), DRIVER_POOL_ROOM);
}

static void make_files(struct visit *visit)
{
    for (uint32_t i = 0; i < FILES; i++) {
        struct {
            struct fuse_mknod_in in;
            char name[4];
        } body = {.in = {.mode = S_IFREG | 0600}};
        uint16_t id = 0;
        uint32_t length = 0;
        snprintf(body.name, sizeof(body.name), "%u", i);
        CHECK(driver_request(&visit->driver, FUSE_MKNOD, MOUNT << 48 | 1, &body, sizeof(body),
                             DRIVER_POOL_ROOM));
        driver_kick(&visit->driver);
        driver_await(&visit->driver, &id, &length);
        const struct fuse_out_header *reply = driver_reply(&visit->driver, id, length);
        CHECK_EQUAL(reply->error, 0);
        struct fuse_entry_out entry;
        memcpy(&entry, reply + 1, sizeof(entry));
        files[i] = entry.nodeid;
    }
}

static void what_waits_to_be_freed_is_bounded(uint64_t most_backlog,
                                              bool (*send)(struct driver *driver, uint32_t number))
{
    struct visit visit;
    arrive(&visit);
    struct epoch_domain *epochs = &visit.guest.device->session.epochs;
    epochs->most_backlog = most_backlog;
    driver_create(&visit.driver, &visit.guest, 1, &(struct driver_options){.size = 64});
    driver_init(&visit.driver);
    make_deep_tree(&visit);
    make_files(&visit);
    size_t before = loopback_open_descriptors();
    struct epoch_reader stuck;
    hold_up(&visit.guest, &stuck);
    CHECK(send_while_answered(&visit.driver, REQUESTS, send) < REQUESTS);
    CHECK(loopback_open_descriptors() < before + 200);
    CHECK(atomic_load(&epochs->backlog) < most_backlog + 1000);
    let_go(&visit.guest, &stuck);
    uint16_t id = 0;
    uint32_t length = 0;
    driver_await(&visit.driver, &id, &length);
    CHECK_EQUAL(driver_reply(&visit.driver, id, length)->error, 0);
    CHECK_EQUAL(send_while_answered(&visit.driver, 100, ask_for_attributes), 100);
    vhostfs_device_disconnect(visit.guest.device);
    CHECK_EQUAL(atomic_load(&epochs->backlog), 0);
    driver_destroy(&visit.driver);
    depart(&visit);
}

static void names_that_wait_for_a_reader_are_bounded(void)
{
    what_waits_to_be_freed_is_bounded(300, rename_to_and_fro);
}

static void descriptors_that_wait_for_a_reader_are_bounded(void)
{
    what_waits_to_be_freed_is_bounded(EPOCH_BACKLOG, ask_for_attributes);
}

static void a_ring_that_waits_for_a_reader_can_be_stopped(void)
{
    struct visit visit;
    arrive(&visit);
    visit.guest.device->session.epochs.most_backlog = 10;
    driver_create(&visit.driver, &visit.guest, 1, &(struct driver_options){.size = 64});
    driver_init(&visit.driver);
    make_deep_tree(&visit);
    struct epoch_reader stuck;
    hold_up(&visit.guest, &stuck);
    CHECK(send_while_answered(&visit.driver, REQUESTS, rename_to_and_fro) < REQUESTS);
    uint32_t base = 0;
    CHECK_EQUAL(vhostfs_queue_stop(visit.guest.device, 1, &base), 0);
    let_go(&visit.guest, &stuck);
    vhostfs_device_disconnect(visit.guest.device);
    driver_destroy(&visit.driver);
    depart(&visit);
}

int main(void)
{
    PROMISE(a_front_end_that_leaves_leaves_nothing_open);
    PROMISE(closed_files_count_as_long_as_somebody_may_use_them);
    PROMISE(an_open_that_finds_no_room_changes_nothing);
    PROMISE(descriptors_are_given_up_inside_an_epoch_also_by_who_sleeps);
    PROMISE(owners_of_locks_count_as_open_files);
    PROMISE(what_was_under_way_when_the_session_ended_goes_with_the_front_end);
    PROMISE(names_that_wait_for_a_reader_are_bounded);
    PROMISE(descriptors_that_wait_for_a_reader_are_bounded);
    PROMISE(a_ring_that_waits_for_a_reader_can_be_stopped);
    return 0;
}
