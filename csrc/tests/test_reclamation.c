/* What the guest let go is freed: wholly when its front-end leaves, and within bounds while somebody may still look. */
#define _GNU_SOURCE 1
#include "check.h"
#include "loopback.h"
#include "mock_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
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
    options.root_fd = open(visit->share, O_PATH | O_DIRECTORY | O_CLOEXEC);
    options.proc_self_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK_EQUAL(vhostfs_device_mount_passthrough(visit->guest.device, MOUNT, &options), 0);
    close(options.root_fd);
    close(options.proc_self_fd);
}

/* A directory in a directory in a directory. Their host paths, the deepest first, are left to the caller. */
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

static void remove_deep_tree(const char *share)
{
    char path[128];
    for (int levels = DEPTH; levels >= 0; levels--) {
        int end = snprintf(path, sizeof(path), "%s", share);
        for (int level = 0; level < levels; level++)
            end += snprintf(path + end, sizeof(path) - (size_t)end, "/d");
        CHECK_EQUAL(rmdir(path), 0);
    }
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
    guest_destroy(&visit.guest);
    remove_deep_tree(visit.share);
}

int main(void)
{
    PROMISE(a_front_end_that_leaves_leaves_nothing_open);
    return 0;
}
