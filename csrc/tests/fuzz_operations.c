/* Fuzz every operation of a passthrough mount: requests in a row, with nodeids and handles that the guest was
 * given, and with any others. Nothing may crash, leave the share, or keep a descriptor beyond the session;
 * the loopback checks each reply.
 */
#define _GNU_SOURCE 1
#include "check.h"
#include "loopback.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define KNOWN 8
#define BODY 512

/* The input, consumed from the front; zeros when it is used up. */
struct input {
    const uint8_t *bytes;
    size_t left;
};

static uint8_t take(struct input *input)
{
    if (input->left == 0)
        return 0;
    input->left--;
    return *input->bytes++;
}

/* What the guest was told and may use again. */
struct guest {
    struct loopback loopback;
    struct loopback_thread thread;
    uint64_t nodeids[KNOWN];
    uint64_t fhs[KNOWN];
    size_t nodeid_count;
    size_t fh_count;
};

static void remember(uint64_t *values, size_t *count, uint64_t value)
{
    values[(*count)++ % KNOWN] = value;
}

static uint64_t pick(const uint64_t *values, uint8_t choice)
{
    return choice < 240 ? values[choice % KNOWN] : (uint64_t)choice * 0x100000001ULL;
}

static const char *const names[] = {"a",
                                    "b",
                                    "c",
                                    "d",
                                    ".",
                                    "..",
                                    "",
                                    "a/b",
                                    "../escape",
                                    "/",
                                    "link",
                                    "user.x",
                                    "system.posix_acl_access",
                                    "trusted.y"};

/* Append a name, its NUL too most of the time. */
static size_t add_name(struct input *input, uint8_t *body, size_t size)
{
    uint8_t choice = take(input);
    const char *name = names[choice % (sizeof(names) / sizeof(names[0]))];
    size_t length = strlen(name) + (choice < 250 ? 1 : 0);
    if (size + length > BODY)
        return size;
    memcpy(body + size, name, length);
    return size + length;
}

/* The shape of an operation's arguments. */
static const struct shape {
    uint8_t size;
    uint8_t names;
    int8_t fh; /* where a handle is, or -1 */
    int8_t nodeid;
} shapes[FUSE_OPCODES] = {
    [FUSE_LOOKUP] = {0, 1, -1, -1},
    [FUSE_FORGET] = {8, 0, -1, -1},
    [FUSE_GETATTR] = {16, 0, 8, -1},
    [FUSE_SETATTR] = {88, 0, 8, -1},
    [FUSE_SYMLINK] = {0, 2, -1, -1},
    [FUSE_MKNOD] = {16, 1, -1, -1},
    [FUSE_MKDIR] = {8, 1, -1, -1},
    [FUSE_UNLINK] = {0, 1, -1, -1},
    [FUSE_RMDIR] = {0, 1, -1, -1},
    [FUSE_RENAME] = {8, 2, -1, 0},
    [FUSE_LINK] = {8, 1, -1, 0},
    [FUSE_OPEN] = {8, 0, -1, -1},
    [FUSE_READ] = {40, 0, 0, -1},
    [FUSE_WRITE] = {40, 2, 0, -1},
    [FUSE_RELEASE] = {24, 0, 0, -1},
    [FUSE_FSYNC] = {16, 0, 0, -1},
    [FUSE_SETXATTR] = {16, 2, -1, -1},
    [FUSE_GETXATTR] = {8, 1, -1, -1},
    [FUSE_LISTXATTR] = {8, 0, -1, -1},
    [FUSE_REMOVEXATTR] = {0, 1, -1, -1},
    [FUSE_FLUSH] = {24, 0, 0, -1},
    [FUSE_OPENDIR] = {8, 0, -1, -1},
    [FUSE_READDIR] = {40, 0, 0, -1},
    [FUSE_RELEASEDIR] = {24, 0, 0, -1},
    [FUSE_FSYNCDIR] = {16, 0, 0, -1},
    [FUSE_GETLK] = {48, 0, 0, -1},
    [FUSE_SETLK] = {48, 0, 0, -1},
    [FUSE_SETLKW] = {48, 0, 0, -1},
    [FUSE_ACCESS] = {8, 0, -1, -1},
    [FUSE_CREATE] = {16, 1, -1, -1},
    [FUSE_IOCTL] = {32, 1, 0, -1},
    [FUSE_BATCH_FORGET] = {40, 0, -1, 8},
    [FUSE_FALLOCATE] = {32, 0, 0, -1},
    [FUSE_READDIRPLUS] = {40, 0, 0, -1},
    [FUSE_RENAME2] = {16, 2, -1, 0},
    [FUSE_LSEEK] = {24, 0, 0, -1},
    [FUSE_COPY_FILE_RANGE] = {56, 0, 0, 16},
    [FUSE_SYNCFS] = {8, 0, -1, -1},
    [FUSE_TMPFILE] = {16, 1, -1, -1},
    [FUSE_STATX] = {24, 0, 8, -1},
    [FUSE_COPY_FILE_RANGE_64] = {56, 0, 0, 16},
};

/* Most fields are small, so that requests get somewhere; a byte of 0xf0 and more fills the field with the
 * next ones. */
static void fill(struct input *input, uint8_t *body, size_t size)
{
    for (size_t at = 0; at < size; at += 4) {
        uint8_t choice = take(input);
        body[at] = choice;
        for (size_t i = 1; choice >= 0xf0 && i < 4 && at + i < size; i++)
            body[at + i] = take(input);
    }
}

static void put(uint8_t *body, size_t offset, uint64_t value)
{
    memcpy(body + offset, &value, sizeof(value));
}

static size_t make_body(struct guest *guest, struct input *input, uint32_t opcode, uint8_t *body)
{
    const struct shape *shape = &shapes[opcode];
    size_t size = shape->size;
    memset(body, 0, BODY);
    fill(input, body, size);
    if (size > 0 && shape->fh >= 0)
        put(body, (size_t)shape->fh, pick(guest->fhs, take(input)));
    if (size > 0 && shape->nodeid >= 0)
        put(body, (size_t)shape->nodeid, pick(guest->nodeids, take(input)));
    if (opcode == FUSE_COPY_FILE_RANGE || opcode == FUSE_COPY_FILE_RANGE_64)
        put(body, offsetof(struct fuse_copy_file_range_in, fh_out), pick(guest->fhs, take(input)));
    if (opcode == FUSE_IOCTL) {
        static const uint32_t commands[] = {(uint32_t)FS_IOC_GETFLAGS, (uint32_t)FS_IOC_SETFLAGS,
                                            (uint32_t)FS_IOC_FSGETXATTR, (uint32_t)FS_IOC_FSSETXATTR};
        memcpy(body + offsetof(struct fuse_ioctl_in, cmd), &commands[take(input) % 4], sizeof(uint32_t));
    }
    if (opcode == FUSE_FALLOCATE) { /* the machine's memory is not to be had */
        body[offsetof(struct fuse_fallocate_in, length) + 3] = 0;
        memset(body + offsetof(struct fuse_fallocate_in, length) + 4, 0, 4);
    }
    for (uint8_t i = 0; i < shape->names; i++)
        size = add_name(input, body, size);
    uint8_t cut = take(input);
    return cut >= 0xe0 && cut - 0xe0U <= size ? size - (cut - 0xe0U) : size;
}

static void learn(struct guest *guest, uint32_t opcode, int32_t result)
{
    struct fuse_entry_out entry;
    struct fuse_open_out open;
    bool creates = opcode == FUSE_CREATE || opcode == FUSE_TMPFILE;
    bool names_node = creates || opcode == FUSE_LOOKUP || opcode == FUSE_MKDIR || opcode == FUSE_MKNOD ||
                      opcode == FUSE_SYMLINK || opcode == FUSE_LINK;
    if (names_node && result >= (int32_t)sizeof(entry)) {
        memcpy(&entry, guest->thread.reply, sizeof(entry));
        remember(guest->nodeids, &guest->nodeid_count, entry.nodeid);
    }
    size_t at = creates ? sizeof(entry) : 0;
    if ((creates || opcode == FUSE_OPEN || opcode == FUSE_OPENDIR) &&
        result >= (int32_t)(at + sizeof(open))) {
        memcpy(&open, guest->thread.reply + at, sizeof(open));
        remember(guest->fhs, &guest->fh_count, open.fh);
    }
}

static void one_request(struct guest *guest, struct input *input)
{
    static const size_t rooms[] = {LOOPBACK_ROOM, LOOPBACK_ROOM, LOOPBACK_ROOM, 4096, 144, 120, 16, 0};
    static const size_t pieces[] = {0, 0, 7, 4096};
    uint8_t body[BODY];
    uint32_t opcode = take(input) % FUSE_OPCODES;
    uint8_t how = take(input);
    uint64_t nodeid = pick(guest->nodeids, take(input));
    if (opcode == FUSE_INIT || opcode == FUSE_DESTROY)
        return;
    guest->thread.room = rooms[how % 8];
    guest->thread.piece = pieces[how / 8 % 4];
    guest->thread.uid = guest->thread.gid = how >= 200 ? 1000 : 0;
    guest->thread.extension_size = how >= 230 ? how & 7 : 0;
    struct loopback_piece piece = {body, make_body(guest, input, opcode, body)};
    learn(guest, opcode, loopback_call(&guest->thread, opcode, nodeid, &piece, 1));
}

static void begin(struct guest *guest, uint8_t how)
{
    struct vhostfs_passthrough_options options = loopback_options();
    options.flags |= VHOSTFS_PASSTHROUGH_POSIX_LOCKS | VHOSTFS_PASSTHROUGH_FLOCK;
    options.descriptor_budget = 16;
    options.cache = how & 3;
    memset(guest, 0, sizeof(*guest));
    loopback_create(&guest->loopback, &options, (how & 4) != 0 ? UINT64_MAX : 0);
    loopback_attach(&guest->loopback, &guest->thread);
    atomic_store(&guest->thread.cancelled, true); /* waits for locks end at once */
    for (size_t i = 0; i < KNOWN; i++)
        guest->nodeids[i] = FUSE_ROOT_ID;
    CHECK_EQUAL(fchmodat(AT_FDCWD, guest->loopback.root, 0777, 0), 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct guest guest;
    struct input input = {bytes, size};
    struct rlimit small = {.rlim_cur = 1 << 20, .rlim_max = RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    size_t before = loopback_open_descriptors();
    begin(&guest, take(&input));
    while (input.left > 0)
        one_request(&guest, &input);
    guest.thread.room = LOOPBACK_ROOM;
    loopback_detach(&guest.thread);
    loopback_destroy(&guest.loopback);
    CHECK_EQUAL(loopback_open_descriptors(), before);
    return 0;
}
