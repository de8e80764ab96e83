/* Promises of the node table: identities, counts, stale nodeids, descriptors within their budget. */
#define _GNU_SOURCE 1
#include "check.h"
#include "loopback.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static struct loopback loopback;
static struct loopback_thread guest;

static void begin(uint64_t budget)
{
    struct vhostfs_passthrough_options options = loopback_options();
    options.descriptor_budget = budget;
    loopback_create(&loopback, &options, 0);
    loopback_attach(&loopback, &guest);
}

static void end(void)
{
    loopback_detach(&guest);
    loopback_destroy(&loopback);
}

static void host_file(const char *name)
{
    int fd = openat(loopback.root_fd, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    close(fd);
}

static void a_name_that_is_looked_up_twice_is_one_node(void)
{
    begin(64);
    host_file("f");
    struct fuse_entry_out first;
    struct fuse_entry_out second;
    CHECK_EQUAL(loopback_lookup(&guest, 1, "f", &first), 0);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "f", &second), 0);
    CHECK_EQUAL(first.nodeid, second.nodeid);
    CHECK_EQUAL(first.generation, second.generation);
    loopback_forget(&guest, first.nodeid, 2);
    end();
}

int main(void)
{
    PROMISE(a_name_that_is_looked_up_twice_is_one_node);
    return 0;
}
