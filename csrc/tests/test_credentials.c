/* Acting as the caller: what it makes is its own, and nothing of it stays with the thread. */
#define _GNU_SOURCE 1
#include "check.h"
#include "twin.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the calling thread is at the moment. */
struct identity {
    uint32_t uid;
    uint32_t gid;
    int groups;
    uint64_t effective;
};

static struct identity who_am_i(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    CHECK_EQUAL(syscall(SYS_capget, &header, data), 0);
    return (struct identity){.uid = (uint32_t)syscall(SYS_setfsuid, -1),
                             .gid = (uint32_t)syscall(SYS_setfsgid, -1),
                             .groups = (int)syscall(SYS_getgroups, 0, NULL),
                             .effective = data[0].effective | (uint64_t)data[1].effective << 32};
}

static void check_same(const struct identity *one, const struct identity *other)
{
    CHECK_EQUAL(one->uid, other->uid);
    CHECK_EQUAL(one->gid, other->gid);
    CHECK_EQUAL(one->groups, other->groups);
    CHECK_EQUAL(one->effective, other->effective);
}

#define FSETID (1ULL << CAP_FSETID)

static void a_caller_is_taken_on_and_laid_off(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    struct identity own = who_am_i();
    const uint32_t callers[][2] = {{1000, 1000}, {1000, 0}, {0, 1000},
                                   {1000, 1000}, {77, 78},  {UINT32_MAX - 1, 5}};
    for (size_t i = 0; i < sizeof(callers) / sizeof(callers[0]); i++) {
        struct request request = {.in = {.uid = callers[i][0], .gid = callers[i][1]}};
        struct credentials credentials;
        CHECK_EQUAL(credentials_assume(&request, &credentials), 0);
        struct identity taken = who_am_i();
        CHECK_EQUAL(taken.uid, callers[i][0]);
        CHECK_EQUAL(taken.gid, callers[i][1]);
        CHECK_EQUAL(taken.effective, callers[i][0] == 0 ? own.effective : own.effective & ~FSETID);
        credentials_restore(&credentials);
        struct identity after = who_am_i();
        check_same(&after, &own);
    }
    twin_destroy(&twin);
}

static void nobody_is_not_a_caller(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    struct identity own = who_am_i();
    const uint32_t callers[][2] = {
        {UINT32_MAX, 0}, {0, UINT32_MAX}, {UINT32_MAX, UINT32_MAX}, {1000, UINT32_MAX}};
    for (size_t i = 0; i < 4; i++) {
        struct request request = {.in = {.uid = callers[i][0], .gid = callers[i][1]}};
        struct credentials credentials;
        CHECK_EQUAL(credentials_assume(&request, &credentials), -EPERM);
        struct identity after = who_am_i();
        check_same(&after, &own);
        credentials_restore(&credentials); /* harmless */
        after = who_am_i();
        check_same(&after, &own);
    }
    twin_destroy(&twin);
}

/* In a thread of its own that may not change its user any more. */
static void *without_privilege(void *context)
{
    struct twin *twin = context;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    CHECK_EQUAL(syscall(SYS_setresgid, 1000, 1000, 1000), 0);
    CHECK_EQUAL(syscall(SYS_setresuid, 1000, 1000, 1000), 0);
    CHECK_EQUAL(syscall(SYS_capset, &header, none), 0);
    CHECK_EQUAL(credentials_prepare_thread(twin->loopback.proc_self_fd), 0);
    struct identity own = who_am_i();
    const uint32_t others[][2] = {{0, 1001}, {1001, 1000}, {1000, 1001}, {2000, 2000}};
    struct credentials credentials;
    for (size_t i = 0; i < 4; i++) {
        struct request request = {.in = {.uid = others[i][0], .gid = others[i][1]}};
        CHECK_EQUAL(credentials_assume(&request, &credentials), -EPERM);
        struct identity after = who_am_i();
        check_same(&after, &own);
    }
    struct request request = {.in = {.uid = 1000, .gid = 1000}};
    CHECK_EQUAL(credentials_assume(&request, &credentials), 0);
    CHECK(!credentials.switched);
    /* The guest's root is the user whom such a daemon serves. */
    request.in.uid = request.in.gid = 0;
    CHECK_EQUAL(credentials_assume(&request, &credentials), 0);
    CHECK(!credentials.switched);
    credentials_restore(&credentials);
    CHECK(!credentials_drop_fsetid());
    return NULL;
}

static void without_privilege_there_is_one_caller_only(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    struct identity own = who_am_i();
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, without_privilege, &twin), 0);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    struct identity after = who_am_i(); /* and it was that thread alone */
    check_same(&after, &own);
    twin_destroy(&twin);
}

static void capabilities_come_back(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    struct identity own = who_am_i();
    CHECK_EQUAL(own.effective & FSETID, FSETID);
    CHECK(credentials_drop_fsetid());
    CHECK_EQUAL(who_am_i().effective, own.effective & ~FSETID);
    CHECK(!credentials_drop_fsetid()); /* so that only the outer one regains it */
    uint64_t overrides = credentials_drop_overrides();
    CHECK_EQUAL(overrides, (1ULL << CAP_DAC_OVERRIDE) | (1ULL << CAP_DAC_READ_SEARCH));
    credentials_regain_overrides(overrides);
    CHECK_EQUAL(who_am_i().effective, own.effective & ~FSETID);
    credentials_regain_fsetid();
    CHECK_EQUAL(who_am_i().effective, own.effective);
    twin_destroy(&twin);
}

static int32_t create_as(struct twin *twin, const char *name, uint32_t uid, uint32_t gid, uint32_t mode)
{
    struct fuse_entry_out entry;
    uint64_t fh;
    twin->guest.uid = uid;
    twin->guest.gid = gid;
    int error = loopback_create_file(&twin->guest, FUSE_ROOT_ID, name, O_RDWR | O_EXCL, mode, &entry, &fh);
    twin->guest.uid = twin->guest.gid = 0;
    if (error == 0)
        CHECK_EQUAL(loopback_release(&twin->guest, entry.nodeid, fh), 0);
    return error;
}

static struct stat stat_of(struct twin *twin, const char *name)
{
    struct stat attributes;
    CHECK_EQUAL(stat(twin_share(twin, name), &attributes), 0);
    return attributes;
}

static void what_a_caller_makes_is_its_own(void)
{
    struct twin twin;
    twin_begin(&twin, 0);
    struct identity own = who_am_i();
    const uint32_t callers[][2] = {{0, 0}, {1000, 1001}, {0, 0}, {5, 0}, {0, 6}, {0, 0}};
    for (size_t i = 0; i < 6; i++) {
        char name[16];
        snprintf(name, sizeof(name), "file%zu", i);
        CHECK_EQUAL(create_as(&twin, name, callers[i][0], callers[i][1], 0640), 0);
        CHECK_EQUAL(stat_of(&twin, name).st_uid, callers[i][0]);
        CHECK_EQUAL(stat_of(&twin, name).st_gid, callers[i][1]);
        CHECK_EQUAL(create_as(&twin, name, 3000, 3000, 0640), -EEXIST); /* and a failure leaves nothing */
        struct identity after = who_am_i();
        check_same(&after, &own);
    }
    twin_destroy(&twin);
}

/* CREATE with the caller's supplementary group as Linux sends it. */
static int32_t create_with_group(struct twin *twin, const char *name, uint32_t uid, uint32_t group,
                                 uint32_t mode)
{
    struct fuse_create_in in = {.flags = O_CREAT | O_RDWR, .mode = mode | S_IFREG};
    size_t name_size = strlen(name) + 1;
    const uint8_t padding[8] = {0};
    uint32_t extension[4] = {sizeof(extension), FUSE_EXT_GROUPS, 1, group};
    struct loopback_piece pieces[] = {{&in, sizeof(in)},
                                      {name, name_size},
                                      {padding, (8 - name_size % 8) % 8},
                                      {extension, sizeof(extension)}};
    twin->guest.uid = twin->guest.gid = uid;
    twin->guest.extension_size = sizeof(extension) / 8;
    int32_t result = loopback_call(&twin->guest, FUSE_CREATE, FUSE_ROOT_ID, pieces, 4);
    twin->guest.uid = twin->guest.gid = 0;
    twin->guest.extension_size = 0;
    return result < 0 ? result : 0;
}

static void only_members_make_files_set_group_id(void)
{
    struct twin twin;
    twin_begin(&twin, FUSE_INIT_CREATE_SUPP_GROUP);
    struct identity own = who_am_i();
    const gid_t groups[] = {500, 0};
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQUAL(chown(twin.share, 0, groups[i]), 0);
        CHECK_EQUAL(chmod(twin.share, 02777), 0);
        CHECK_EQUAL(create_as(&twin, "stranger", 1000, 1000, 02755), 0);
        CHECK_EQUAL(stat_of(&twin, "stranger").st_gid, groups[i]);
        CHECK_EQUAL(stat_of(&twin, "stranger").st_mode & 07777, 0755);
        CHECK_EQUAL(create_with_group(&twin, "member", 1000, groups[i], 02755), 0);
        CHECK_EQUAL(stat_of(&twin, "member").st_gid, groups[i]);
        CHECK_EQUAL(stat_of(&twin, "member").st_mode & 07777, 02755);
        CHECK_EQUAL(create_as(&twin, "after", 1000, 1000, 02755), 0); /* the group did not stay */
        CHECK_EQUAL(stat_of(&twin, "after").st_mode & 07777, 0755);
        struct identity after = who_am_i();
        check_same(&after, &own);
        CHECK_EQUAL(unlink(twin_share(&twin, "stranger")), 0);
        CHECK_EQUAL(unlink(twin_share(&twin, "member")), 0);
        CHECK_EQUAL(unlink(twin_share(&twin, "after")), 0);
    }
    twin_destroy(&twin);
}

int main(void)
{
    if (!check_runs_as_root())
        return 0;
    PROMISE(a_caller_is_taken_on_and_laid_off);
    PROMISE(nobody_is_not_a_caller);
    PROMISE(without_privilege_there_is_one_caller_only);
    PROMISE(capabilities_come_back);
    PROMISE(what_a_caller_makes_is_its_own);
    PROMISE(only_members_make_files_set_group_id);
    return 0;
}
