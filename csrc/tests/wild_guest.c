/* A guest that asks for anything; the contract is in wild_guest.h. */
#define _GNU_SOURCE 1
#include "wild_guest.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define BODY 512

uint8_t wild_choice(struct wild_choices *choices)
{
    if (choices->left == 0)
        return 0;
    choices->left--;
    return *choices->bytes++;
}

static uint64_t pick(const uint64_t *values, uint8_t choice)
{
    return choice < 240 ? values[choice % WILD_KNOWN] : (uint64_t)choice * 0x100000001ULL;
}

/* A handle, mostly of the kind and with the nodeid that it is for, so that both get past the first check. */
static struct wild_handle pick_handle(const struct wild_guest *guest, uint32_t opcode, uint8_t choice,
                                      uint64_t nodeid)
{
    bool directory = opcode == FUSE_READDIR || opcode == FUSE_READDIRPLUS || opcode == FUSE_RELEASEDIR ||
                     opcode == FUSE_FSYNCDIR;
    struct wild_handle handle = guest->handles[directory != (choice >= 220)][choice % WILD_KNOWN];
    if (choice >= 240)
        handle.fh = (uint64_t)choice * 0x100000001ULL;
    if (choice >= 200 || handle.nodeid == 0)
        handle.nodeid = nodeid;
    return handle;
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
static size_t add_name(struct wild_choices *choices, uint8_t *body, size_t size)
{
    uint8_t choice = wild_choice(choices);
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
static void fill(struct wild_choices *choices, uint8_t *body, size_t size)
{
    for (size_t at = 0; at < size; at += 4) {
        uint8_t choice = wild_choice(choices);
        body[at] = choice;
        for (size_t i = 1; choice >= 0xf0 && i < 4 && at + i < size; i++)
            body[at + i] = wild_choice(choices);
    }
}

static void put(uint8_t *body, size_t offset, uint64_t value)
{
    memcpy(body + offset, &value, sizeof(value));
}

/* Fill the body; a handle that is in it may change what node the request is for. Its size. */
static size_t make_body(struct wild_guest *guest, struct wild_choices *choices, uint32_t opcode,
                        uint64_t *nodeid, uint8_t *body)
{
    const struct shape *shape = &shapes[opcode];
    size_t size = shape->size;
    memset(body, 0, BODY);
    fill(choices, body, size);
    if (size > 0 && shape->fh >= 0) {
        struct wild_handle handle = pick_handle(guest, opcode, wild_choice(choices), *nodeid);
        put(body, (size_t)shape->fh, handle.fh);
        *nodeid = handle.nodeid;
    }
    if (size > 0 && shape->nodeid >= 0)
        put(body, (size_t)shape->nodeid, pick(guest->nodeids, wild_choice(choices)));
    if (opcode == FUSE_COPY_FILE_RANGE || opcode == FUSE_COPY_FILE_RANGE_64) {
        struct wild_handle handle = pick_handle(guest, opcode, wild_choice(choices), *nodeid);
        put(body, offsetof(struct fuse_copy_file_range_in, fh_out), handle.fh);
        put(body, offsetof(struct fuse_copy_file_range_in, nodeid_out), handle.nodeid);
    }
    if (opcode == FUSE_IOCTL) {
        static const uint32_t commands[] = {(uint32_t)FS_IOC_GETFLAGS, (uint32_t)FS_IOC_SETFLAGS,
                                            (uint32_t)FS_IOC_FSGETXATTR, (uint32_t)FS_IOC_FSSETXATTR};
        memcpy(body + offsetof(struct fuse_ioctl_in, cmd), &commands[wild_choice(choices) % 4],
               sizeof(uint32_t));
    }
    if (opcode == FUSE_FALLOCATE) { /* the machine's memory is not to be had */
        body[offsetof(struct fuse_fallocate_in, length) + 3] = 0;
        memset(body + offsetof(struct fuse_fallocate_in, length) + 4, 0, 4);
    }
    for (uint8_t i = 0; i < shape->names; i++)
        size = add_name(choices, body, size);
    uint8_t cut = wild_choice(choices);
    return cut >= 0xe0 && cut - 0xe0U <= size ? size - (cut - 0xe0U) : size;
}

static void learn(struct wild_guest *guest, uint32_t opcode, uint64_t nodeid, int32_t result)
{
    struct fuse_entry_out entry = {.nodeid = nodeid};
    struct fuse_open_out open;
    /* It need not ask for what is gone for ever. */
    for (size_t i = 1; i < WILD_KNOWN && result == -ESTALE; i++)
        guest->nodeids[i] = guest->nodeids[i] == nodeid ? FUSE_ROOT_ID : guest->nodeids[i];
    bool creates = opcode == FUSE_CREATE || opcode == FUSE_TMPFILE;
    bool names_node = creates || opcode == FUSE_LOOKUP || opcode == FUSE_MKDIR || opcode == FUSE_MKNOD ||
                      opcode == FUSE_SYMLINK || opcode == FUSE_LINK;
    if (names_node && result >= (int32_t)sizeof(entry)) {
        memcpy(&entry, guest->thread.reply, sizeof(entry));
        guest->nodeids[1 + guest->nodeid_count++ % (WILD_KNOWN - 1)] = entry.nodeid;
    }
    size_t at = creates ? sizeof(entry) : 0;
    if ((creates || opcode == FUSE_OPEN || opcode == FUSE_OPENDIR) &&
        result >= (int32_t)(at + sizeof(open))) {
        memcpy(&open, guest->thread.reply + at, sizeof(open));
        guest->handles[opcode == FUSE_OPENDIR][guest->handle_count++ % WILD_KNOWN] =
            (struct wild_handle){open.fh, entry.nodeid};
    }
}

void wild_guest_request(struct wild_guest *guest, struct wild_choices *choices)
{
    static const size_t rooms[] = {LOOPBACK_ROOM, LOOPBACK_ROOM, LOOPBACK_ROOM, 4096, 144, 120, 16, 0};
    static const size_t pieces[] = {0, 0, 7, 4096};
    uint8_t body[BODY];
    uint32_t opcode = wild_choice(choices) % FUSE_OPCODES;
    uint8_t how = wild_choice(choices);
    uint64_t nodeid = pick(guest->nodeids, wild_choice(choices));
    if (opcode == FUSE_INIT || opcode == FUSE_DESTROY)
        return;
    guest->thread.room = rooms[how % 8];
    guest->thread.piece = pieces[how / 8 % 4];
    guest->thread.uid = guest->thread.gid = how >= 200 ? 1000 : 0;
    guest->thread.extension_size = how >= 230 ? how & 7 : 0;
    struct loopback_piece piece = {body, make_body(guest, choices, opcode, &nodeid, body)};
    learn(guest, opcode, nodeid, loopback_call(&guest->thread, opcode, nodeid, &piece, 1));
}

static struct vhostfs_passthrough_options wild_options(uint8_t how)
{
    struct vhostfs_passthrough_options options = loopback_options();
    options.flags |= VHOSTFS_PASSTHROUGH_POSIX_LOCKS | VHOSTFS_PASSTHROUGH_FLOCK;
    options.descriptor_budget = 16;
    options.cache = how & 3;
    return options;
}

uint16_t wild_loopback_mount(struct loopback *loopback, const char *path)
{
    struct vhostfs_passthrough_options options = wild_options(VHOSTFS_CACHE_AUTO);
    int mount = session_free_mount(&loopback->session);
    CHECK(mount > 0);
    loopback_mount(loopback, (uint16_t)mount, loopback->root_fd, &options);
    CHECK_EQUAL(session_attach(&loopback->session, path, (uint16_t)mount), 0);
    return (uint16_t)mount;
}

void wild_loopback_create(struct loopback *loopback, uint8_t how)
{
    struct vhostfs_passthrough_options options = wild_options(how);
    loopback_create(loopback, &options, (how & 4) != 0 ? UINT64_MAX : 0);
    CHECK_EQUAL(fchmodat(AT_FDCWD, loopback->root, 0777, 0), 0);
    if ((how & 8) != 0) {
        CHECK_EQUAL(session_plant(&loopback->session), 0);
        wild_loopback_mount(loopback, "/a");
        wild_loopback_mount(loopback, "/a/b");
        wild_loopback_mount(loopback, "/c/d");
    }
    /* Files stay small, whatever is written where. */
    struct rlimit small = {.rlim_cur = 1 << 20, .rlim_max = RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
}

void wild_guest_begin(struct wild_guest *guest, struct loopback *loopback)
{
    memset(guest, 0, sizeof(*guest));
    loopback_attach(loopback, &guest->thread);
    atomic_store(&guest->thread.cancelled, true); /* waits for locks end at once */
    for (size_t i = 0; i < WILD_KNOWN; i++)
        guest->nodeids[i] = FUSE_ROOT_ID;
}

void wild_guest_end(struct wild_guest *guest)
{
    guest->thread.room = LOOPBACK_ROOM;
    loopback_detach(&guest->thread);
}
