/* Fuzz the operations: sequences of requests with arbitrary opcodes, nodeids, handles, arguments and reply sizes, on a small
 * file system in memory that only this process sees. What the sanitizers and the loopback's checks see is the result.
 */
#define _GNU_SOURCE 1
#include "check.h"
#include "loopback.h"

#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define HANDLES 8
#define DIRECTORY "/dev/shm/vhostfs-fuzz"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* What the input still has to say. */
struct input {
    const uint8_t *bytes;
    size_t left;
};

static uint8_t take_byte(struct input *input)
{
    if (input->left == 0)
        return 0;
    input->left--;
    return *input->bytes++;
}

static size_t take_bytes(struct input *input, uint8_t *to, size_t wanted)
{
    size_t size = wanted < input->left ? wanted : input->left;
    memcpy(to, input->bytes, size);
    input->bytes += size;
    input->left -= size;
    return size;
}

/* A file system of its own, which cannot grow: 8 MiB and 1,024 inodes. */
static void prepare(void)
{
    static bool prepared;
    if (prepared)
        return;
    prepared = true;
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
        fprintf(stderr, "not fuzzed: this process may not mount a file system of its own\n");
        exit(0);
    }
    CHECK(mkdir(DIRECTORY, 0700) == 0 || errno == EEXIST);
    CHECK(mount("none", DIRECTORY, "tmpfs", 0, "size=8m,nr_inodes=1024") == 0);
    CHECK(mkdir(DIRECTORY "/share", 0700) == 0 && mkdir(DIRECTORY "/share/d", 0700) == 0);
    CHECK(mknod(DIRECTORY "/share/f", S_IFREG | 0600, 0) == 0);
    CHECK(symlink("d", DIRECTORY "/share/s") == 0);
}

static struct loopback loopback;
static struct loopback_thread guest;

static uint64_t handles[HANDLES];

/* Remember the handles that are opened, so that other requests can name them. */
static void learn_handle(uint32_t opcode)
{
    static unsigned int next;
    size_t at = opcode == FUSE_CREATE || opcode == FUSE_TMPFILE ? sizeof(struct fuse_entry_out) : 0;
    if (opcode != FUSE_OPEN && opcode != FUSE_OPENDIR && at == 0)
        return;
    if (guest.reply_size >= at + sizeof(struct fuse_open_out))
        memcpy(&handles[next++ % HANDLES], guest.reply + at, sizeof(uint64_t));
}

static bool begins_with_handle(uint32_t opcode)
{
    return opcode == FUSE_READ || opcode == FUSE_WRITE || opcode == FUSE_READDIR ||
           opcode == FUSE_READDIRPLUS || opcode == FUSE_RELEASE || opcode == FUSE_RELEASEDIR ||
           opcode == FUSE_FSYNC || opcode == FUSE_FSYNCDIR || opcode == FUSE_FLUSH ||
           opcode == FUSE_FALLOCATE || opcode == FUSE_LSEEK || opcode == FUSE_GETLK || opcode == FUSE_SETLK ||
           opcode == FUSE_SETLKW || opcode == FUSE_IOCTL || opcode == FUSE_COPY_FILE_RANGE ||
           opcode == FUSE_COPY_FILE_RANGE_64;
}

static void mount_share(void)
{
    prepare();
    struct vhostfs_passthrough_options options = loopback_options();
    options.descriptor_budget = 16;
    options.flags |=
        VHOSTFS_PASSTHROUGH_POSIX_LOCKS | VHOSTFS_PASSTHROUGH_FLOCK | VHOSTFS_PASSTHROUGH_DIRECT_IO;
    loopback_create_at(&loopback, DIRECTORY "/share", &options, UINT64_MAX);
    loopback_attach(&loopback, &guest);
    atomic_store(&guest.cancelled, true); /* no lock is waited for */
}

static void send(struct input *input)
{
    uint32_t opcode = take_byte(input) % (FUSE_OPCODES + 2);
    uint64_t nodeid = take_byte(input);
    uint8_t shape = take_byte(input);
    uint8_t arguments[512];
    size_t size = take_bytes(input, arguments, take_byte(input) * (size_t)((shape & 1) + 1));
    if (begins_with_handle(opcode) && size >= sizeof(uint64_t))
        memcpy(arguments, &handles[arguments[0] % HANDLES], sizeof(uint64_t));
    if (nodeid == 255)
        nodeid = UINT64_MAX;
    guest.uid = (shape & 2) != 0 ? 1000 : 0;
    guest.piece = (shape & 4) != 0 ? 64 : 0;
    guest.room = (shape & 8) != 0 ? (size_t)(shape >> 4) * 16 : 8192;
    struct loopback_piece piece = {arguments, size};
    loopback_call(&guest, opcode, nodeid, &piece, 1);
    if (guest.reply_size > 0)
        learn_handle(opcode);
}

/* A new session that knows what there is in the root. */
static void begin_session(void)
{
    struct fuse_init_in in = {.major = 7, .minor = 45, .flags = UINT32_MAX, .flags2 = UINT32_MAX};
    struct fuse_entry_out entry;
    guest.piece = 0;
    guest.room = LOOPBACK_ROOM;
    CHECK(loopback_send(&guest, FUSE_INIT, 0, &in, sizeof(in), NULL, NULL) > 0);
    loopback_lookup(&guest, 1, "d", &entry);
    loopback_lookup(&guest, 1, "f", &entry);
    loopback_lookup(&guest, 1, "s", &entry);
    CHECK_EQUAL(loopback_opendir(&guest, 1, &handles[0]), 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static bool mounted;
    if (!mounted)
        mount_share();
    mounted = true;
    begin_session();
    struct input input = {bytes, size};
    while (input.left > 0)
        send(&input);
    return 0;
}
