/* Promises under contention: whatever several queues do at once to the same few names, with nodeids and
 * counts of their own invention, beside a host that moves things about and sessions that end, nothing is
 * lost, leaked or used after it is gone. What sanitizers see is the test; the replies are checked by the
 * loopback.
 */
#define _GNU_SOURCE 1
#include "check.h"
#include "loopback.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREADS 4
#define STEPS 6000
#define NAMES 6
#define KNOWN 32

static struct loopback loopback;
static _Atomic bool sessions_end;

struct player {
    pthread_t thread;
    uint64_t state; /* of the random numbers */
    struct loopback_thread guest;
    uint64_t known[KNOWN];
    uint64_t handles[KNOWN];
    uint64_t opened[KNOWN]; /* the nodeids of the handles */
};

static uint32_t draw(struct player *player, uint32_t below)
{
    player->state = player->state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(player->state >> 33) % below;
}

static const char *a_name(struct player *player)
{
    static const char *const names[NAMES] = {"a", "b", "c", "d", "e", "f"};
    return names[draw(player, NAMES)];
}

static uint64_t a_node(struct player *player)
{
    if (draw(player, 3) == 0)
        return 1;
    return draw(player, 50) == 0 ? draw(player, 64) : player->known[draw(player, KNOWN)];
}

static void learn(struct player *player, int error, const struct fuse_entry_out *entry)
{
    if (error == 0 && entry->nodeid != 0)
        player->known[draw(player, KNOWN)] = entry->nodeid;
}

static void make_something(struct player *player)
{
    struct loopback_thread *guest = &player->guest;
    struct fuse_entry_out entry;
    struct fuse_mknod_in node = {.mode = S_IFREG | 0600};
    struct fuse_link_in link = {.oldnodeid = a_node(player)};
    uint64_t fh;
    int error = -1;
    switch (draw(player, 5)) {
    case 0:
        error = loopback_create_file(guest, a_node(player), a_name(player), O_RDWR, 0600, &entry, &fh);
        if (error == 0)
            loopback_release(guest, entry.nodeid, fh);
        break;
    case 1:
        error = loopback_mkdir(guest, a_node(player), a_name(player), 0700, &entry);
        break;
    case 2:
        loopback_send(guest, FUSE_MKNOD, a_node(player), &node, sizeof(node), a_name(player), NULL);
        break;
    case 3:
        loopback_send(guest, FUSE_SYMLINK, a_node(player), NULL, 0, a_name(player), "target");
        break;
    default:
        loopback_send(guest, FUSE_LINK, a_node(player), &link, sizeof(link), a_name(player), NULL);
        break;
    }
    learn(player, error, &entry);
}

static void remove_something(struct player *player)
{
    static const uint32_t flags[] = {0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE};
    struct loopback_thread *guest = &player->guest;
    switch (draw(player, 4)) {
    case 0:
        loopback_unlink(guest, a_node(player), a_name(player));
        break;
    case 1:
        loopback_rmdir(guest, a_node(player), a_name(player));
        break;
    default:
        loopback_rename(guest, a_node(player), a_name(player), a_node(player), a_name(player),
                        flags[draw(player, 4)]);
        break;
    }
}

static void ask_something(struct player *player)
{
    struct loopback_thread *guest = &player->guest;
    struct fuse_attr attributes;
    struct fuse_entry_out entry;
    switch (draw(player, 4)) {
    case 0:
        loopback_getattr(guest, a_node(player), &attributes);
        break;
    case 1:
        loopback_send(guest, FUSE_READLINK, a_node(player), NULL, 0, NULL, NULL);
        break;
    case 2:
        learn(player, loopback_lookup(guest, a_node(player), draw(player, 2) ? "." : "..", &entry), &entry);
        break;
    default:
        learn(player, loopback_lookup(guest, a_node(player), a_name(player), &entry), &entry);
        break;
    }
}

static void use_a_handle(struct player *player)
{
    struct loopback_thread *guest = &player->guest;
    uint32_t place = draw(player, KNOWN);
    struct fuse_read_in in = {.fh = player->handles[place], .size = 4096};
    struct fuse_fsync_in fsync = {.fh = player->handles[place]};
    uint64_t nodeid = a_node(player);
    switch (draw(player, 6)) {
    case 0:
        if (loopback_opendir(guest, nodeid, &player->handles[place]) == 0)
            player->opened[place] = nodeid;
        break;
    case 1:
        if (loopback_open(guest, nodeid, O_RDONLY, &player->handles[place]) == 0)
            player->opened[place] = nodeid;
        break;
    case 2:
        loopback_releasedir(guest, player->opened[place], player->handles[place]);
        break;
    case 3:
        loopback_release(guest, player->opened[place], player->handles[place]);
        break;
    case 4:
        loopback_send(guest, FUSE_READDIRPLUS, player->opened[place], &in, sizeof(in), NULL, NULL);
        break;
    default:
        loopback_send(guest, FUSE_FSYNCDIR, player->opened[place], &fsync, sizeof(fsync), NULL, NULL);
        break;
    }
}

static void step(struct player *player)
{
    switch (draw(player, 6)) {
    case 0:
        make_something(player);
        break;
    case 1:
        remove_something(player);
        break;
    case 2:
        use_a_handle(player);
        break;
    case 3:
        loopback_forget(&player->guest, a_node(player), draw(player, 3));
        break;
    default:
        ask_something(player);
        break;
    }
    if (atomic_load(&sessions_end) && draw(player, 500) == 0) {
        struct fuse_init_in in = {.major = 7, .minor = 45};
        CHECK(loopback_send(&player->guest, FUSE_INIT, 0, &in, sizeof(in), NULL, NULL) > 0);
    }
}

static void *play(void *argument)
{
    struct player *player = argument;
    loopback_attach(&loopback, &player->guest);
    for (unsigned int i = 0; i < STEPS; i++)
        step(player);
    loopback_detach(&player->guest);
    return NULL;
}

static _Atomic bool over;

/* The host, at the same names, without asking; and a front-end that resets the device. */
static void *disturb(void *argument)
{
    struct player *player = argument;
    while (!atomic_load(&over)) {
        char from[8];
        char to[8];
        snprintf(from, sizeof(from), "%s/%s", a_name(player), a_name(player));
        snprintf(to, sizeof(to), "%s", a_name(player));
        if (draw(player, 2) == 0)
            renameat(loopback.root_fd, from, loopback.root_fd, to);
        else
            renameat(loopback.root_fd, to, loopback.root_fd, from);
        unlinkat(loopback.root_fd, draw(player, 4) == 0 ? from : to, 0);
        if (atomic_load(&sessions_end) && draw(player, 200) == 0)
            session_end(&loopback.session);
    }
    return NULL;
}

static void race(uint64_t budget, bool file_handles, bool host, bool ends)
{
    static struct player players[THREADS + 1];
    struct vhostfs_passthrough_options options = loopback_options();
    options.descriptor_budget = budget;
    memset(players, 0, sizeof(players));
    loopback_create(&loopback, &options, 0);
    loopback.share->file_handles = file_handles && loopback.share->file_handles;
    atomic_store(&sessions_end, ends);
    atomic_store(&over, false);
    for (unsigned int i = 0; i <= THREADS; i++)
        players[i].state = i + 1;
    for (unsigned int i = 0; i < THREADS; i++)
        CHECK_EQUAL(pthread_create(&players[i].thread, NULL, play, &players[i]), 0);
    if (host)
        CHECK_EQUAL(pthread_create(&players[THREADS].thread, NULL, disturb, &players[THREADS]), 0);
    for (unsigned int i = 0; i < THREADS; i++)
        CHECK_EQUAL(pthread_join(players[i].thread, NULL), 0);
    atomic_store(&over, true);
    if (host)
        CHECK_EQUAL(pthread_join(players[THREADS].thread, NULL), 0);
    loopback_destroy(&loopback);
}

static void many_queues_share_the_nodes(void)
{
    race(1024, true, false, false);
}

static void also_when_descriptors_come_and_go(void)
{
    race(16, true, false, false);
    race(16, false, false, false);
}

static void also_when_the_host_moves_everything(void)
{
    race(16, true, true, false);
    race(16, false, true, false);
}

static void also_when_sessions_end_in_between(void)
{
    race(16, true, true, true);
}

/* ---- Guests that keep the rules ---- */

#define LEVELS 24
#define VISITS 1500

static uint64_t way_down[THREADS][LEVELS];
static _Atomic bool stop_renaming;

static void *visit(void *argument)
{
    struct player *player = argument;
    loopback_attach(&loopback, &player->guest);
    for (unsigned int i = 0; i < VISITS; i++) {
        uint64_t nodeid = way_down[draw(player, THREADS)][draw(player, LEVELS)];
        struct fuse_attr attributes;
        uint64_t fh;
        CHECK_EQUAL(loopback_getattr(&player->guest, nodeid, &attributes), 0);
        CHECK_EQUAL(loopback_opendir(&player->guest, nodeid, &fh), 0);
        CHECK_EQUAL(loopback_releasedir(&player->guest, nodeid, fh), 0);
    }
    loopback_detach(&player->guest);
    return NULL;
}

static void *rename_about(void *argument)
{
    struct player *player = argument;
    loopback_attach(&loopback, &player->guest);
    bool there = false;
    while (!atomic_load(&stop_renaming)) {
        const char *from = there ? "moved" : "d";
        const char *to = there ? "d" : "moved";
        CHECK_EQUAL(loopback_rename(&player->guest, way_down[0][2], from, way_down[0][2], to, 0), 0);
        there = !there;
    }
    loopback_detach(&player->guest);
    return NULL;
}

static void visit_together(bool file_handles, bool renames)
{
    static struct player players[THREADS + 1];
    struct vhostfs_passthrough_options options = loopback_options();
    options.descriptor_budget = 16;
    memset(players, 0, sizeof(players));
    loopback_create(&loopback, &options, 0);
    loopback.share->file_handles = file_handles && loopback.share->file_handles;
    atomic_store(&stop_renaming, false);
    struct loopback_thread guest;
    loopback_attach(&loopback, &guest);
    for (unsigned int i = 0; i < THREADS; i++) {
        uint64_t parent = 1;
        for (unsigned int level = 0; level < LEVELS; level++) {
            char name[8];
            struct fuse_entry_out entry;
            snprintf(name, sizeof(name), level == 0 ? "d%u" : "d", i);
            CHECK_EQUAL(loopback_mkdir(&guest, parent, name, 0700, &entry), 0);
            parent = way_down[i][level] = entry.nodeid;
        }
    }
    loopback_detach(&guest);
    for (unsigned int i = 0; i <= THREADS; i++)
        players[i].state = i + 1;
    for (unsigned int i = 0; i < THREADS; i++)
        CHECK_EQUAL(pthread_create(&players[i].thread, NULL, visit, &players[i]), 0);
    if (renames)
        CHECK_EQUAL(pthread_create(&players[THREADS].thread, NULL, rename_about, &players[THREADS]), 0);
    for (unsigned int i = 0; i < THREADS; i++)
        CHECK_EQUAL(pthread_join(players[i].thread, NULL), 0);
    atomic_store(&stop_renaming, true);
    if (renames)
        CHECK_EQUAL(pthread_join(players[THREADS].thread, NULL), 0);
    loopback_destroy(&loopback);
}

static void what_a_guest_knows_is_never_ESTALE_for_lack_of_descriptors(void)
{
    visit_together(false, false);
    visit_together(true, false);
}

static void nor_because_it_is_being_renamed(void)
{
    visit_together(false, true);
    visit_together(true, true);
}

int main(void)
{
    PROMISE(what_a_guest_knows_is_never_ESTALE_for_lack_of_descriptors);
    PROMISE(nor_because_it_is_being_renamed);
    PROMISE(many_queues_share_the_nodes);
    PROMISE(also_when_descriptors_come_and_go);
    PROMISE(also_when_the_host_moves_everything);
    PROMISE(also_when_sessions_end_in_between);
    return 0;
}
