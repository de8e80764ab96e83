/* What an operation costs beside the bare system calls that it is made of: CPU time a request, without a ring. */
#define _GNU_SOURCE 1
#include "check.h"
#include "twin.h"

#include <fcntl.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 20000
#define TRIES 5 /* the fastest counts: others use the machine, too */

/* A request that is sent again and again, with the memory that it lies in. */
struct sample {
    uint8_t sent[sizeof(struct fuse_in_header) + 8192];
    uint8_t answer[16384];
    uint8_t arguments[REQUEST_ARGUMENTS_SIZE + sizeof(struct fuse_in_header)] __attribute__((aligned(8)));
    struct iovec readable[CHAIN_VECTORS];
    struct iovec writable[CHAIN_VECTORS];
    size_t size;
};

static struct twin twin;
static uint64_t nodeid;
static uint64_t fh;
static int path_fd;
static int file_fd;
static uint8_t page[4096];

static void prepare(struct sample *sample, uint32_t opcode, uint64_t node, const void *in, size_t size,
                    size_t data)
{
    struct fuse_in_header header = {.len = (uint32_t)(sizeof(header) + size + data),
                                    .opcode = opcode,
                                    .unique = 2,
                                    .nodeid = node,
                                    .pid = 1};
    memcpy(sample->sent, &header, sizeof(header));
    if (size > 0)
        memcpy(sample->sent + sizeof(header), in, size);
    sample->size = header.len;
}

static int32_t send_sample(struct sample *sample)
{
    sample->readable[0] = (struct iovec){sample->sent, sample->size};
    sample->writable[0] = (struct iovec){sample->answer, sizeof(sample->answer)};
    struct request request = {.chain = {.readable = sample->readable,
                                        .writable = sample->writable,
                                        .readable_count = 1,
                                        .writable_count = 1,
                                        .readable_size = sample->size,
                                        .writable_size = sizeof(sample->answer)},
                              .session = &twin.loopback.session,
                              .reader = &twin.guest.reader,
                              .cancelled = &twin.guest.cancelled};
    int32_t result = request_begin(&request, sample->arguments);
    if (result == 0)
        result = session_dispatch(&twin.loopback.session, &request);
    request_finish(&request, result);
    CHECK(result >= 0);
    return result;
}

static struct sample sample;
static struct sample second;

static void send_one(void)
{
    send_sample(&sample);
}

/* The handle that the first request made is what the second closes. */
static void open_and_release(void)
{
    send_sample(&sample);
    memcpy(&fh, sample.answer + sizeof(struct fuse_out_header), sizeof(fh));
    struct fuse_release_in in = {.fh = fh};
    prepare(&second, FUSE_RELEASE, nodeid, &in, sizeof(in), 0);
    send_sample(&second);
}

static void bare_statx(void)
{
    struct statx attributes;
    CHECK(statx(path_fd, "", AT_EMPTY_PATH, NODE_STATX_MASK, &attributes) == 0);
}

static void bare_lookup(void)
{
    struct statx attributes;
    CHECK(statx(twin.loopback.root_fd, "file", AT_SYMLINK_NOFOLLOW, NODE_STATX_MASK, &attributes) == 0);
}

static void bare_read(void)
{
    CHECK(pread(file_fd, page, sizeof(page), 0) == sizeof(page));
}

static void bare_write(void)
{
    CHECK(pwrite(file_fd, page, sizeof(page), 0) == sizeof(page));
}

static void bare_open(void)
{
    int fd = openat(AT_FDCWD, descriptor_path(path_fd).text, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    close(fd);
}

static void bare_chmod(void)
{
    CHECK(fchmod(file_fd, 0640) == 0);
    bare_statx();
}

static void bare_statfs(void)
{
    struct statfs about;
    CHECK(fstatfs(path_fd, &about) == 0);
}

static double measure(void (*work)(void))
{
    double best = 1e9;
    for (int i = 0; i < TRIES; i++) {
        struct timespec begin;
        struct timespec end;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
        for (int k = 0; k < ROUNDS; k++) {
            if (k % 64 == 0) { /* as a queue thread does for a batch */
                epoch_leave(&twin.loopback.session.epochs, &twin.guest.reader);
                epoch_enter(&twin.loopback.session.epochs, &twin.guest.reader);
            }
            work();
        }
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
        double spent =
            (double)(end.tv_sec - begin.tv_sec) * 1e6 + (double)(end.tv_nsec - begin.tv_nsec) / 1e3;
        best = spent / ROUNDS < best ? spent / ROUNDS : best;
    }
    return best;
}

static void compare(const char *name, void (*work)(void), void (*bare)(void))
{
    printf("  %-14s %.3f us, bare %.3f us\n", name, measure(work), measure(bare));
}

int main(void)
{
    twin_begin(&twin, 0);
    twin_file(&twin, "file", "", 0600);
    file_fd = open(twin_share(&twin, "file"), O_RDWR | O_CLOEXEC);
    CHECK(pwrite(file_fd, page, sizeof(page), 0) == sizeof(page));
    path_fd = open(twin_share(&twin, "file"), O_PATH | O_CLOEXEC);
    nodeid = twin_node(&twin, "file");
    fh = twin_open(&twin, "file", O_RDWR);
    uint64_t kept = fh;
    epoch_enter(&twin.loopback.session.epochs, &twin.guest.reader);

    struct fuse_getattr_in getattr = {0};
    prepare(&sample, FUSE_GETATTR, nodeid, &getattr, sizeof(getattr), 0);
    compare("getattr", send_one, bare_statx);
    prepare(&sample, FUSE_LOOKUP, FUSE_ROOT_ID, "file", 5, 0);
    compare("lookup, known", send_one, bare_lookup);
    struct fuse_read_in read = {.fh = fh, .size = 4096};
    prepare(&sample, FUSE_READ, nodeid, &read, sizeof(read), 0);
    compare("read 4K", send_one, bare_read);
    struct fuse_write_in write = {.fh = fh, .size = 4096};
    prepare(&sample, FUSE_WRITE, nodeid, &write, sizeof(write), 4096);
    compare("write 4K", send_one, bare_write);
    struct fuse_setattr_in chmod = {.valid = FATTR_MODE, .mode = 0640};
    prepare(&sample, FUSE_SETATTR, nodeid, &chmod, sizeof(chmod), 0);
    compare("chmod", send_one, bare_chmod);
    prepare(&sample, FUSE_STATFS, nodeid, NULL, 0, 0);
    compare("statfs", send_one, bare_statfs);
    struct fuse_open_in open_in = {.flags = O_RDWR};
    prepare(&sample, FUSE_OPEN, nodeid, &open_in, sizeof(open_in), 0);
    compare("open, release", open_and_release, bare_open);

    epoch_leave(&twin.loopback.session.epochs, &twin.guest.reader);
    twin_release(&twin, "file", kept);
    close(path_fd);
    close(file_fd);
    twin_destroy(&twin);
    return 0;
}
