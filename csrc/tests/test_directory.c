/* Promises of directories: every entry once, in replies of any size, with or without attributes. */
#define _GNU_SOURCE 1
#include "check.h"
#include "loopback.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 1000

static struct loopback loopback;
static struct loopback_thread guest;

static void begin_with(uint32_t cache)
{
    struct vhostfs_passthrough_options options = loopback_options();
    options.cache = cache;
    options.descriptor_budget = 64;
    loopback_create(&loopback, &options, 0);
    loopback_attach(&loopback, &guest);
}

static void begin(void)
{
    begin_with(VHOSTFS_CACHE_AUTO);
}

static void end(void)
{
    loopback_detach(&guest);
    loopback_destroy(&loopback);
}

static void host_files(unsigned int count)
{
    for (unsigned int i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof(name), "file-%u", i);
        int fd = openat(loopback.root_fd, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
        CHECK(fd >= 0);
        close(fd);
    }
}

/* What was listed. */
struct seen {
    unsigned int files[FILES]; /* how often each file */
    uint64_t nodeid[FILES];
    unsigned int dots;
    unsigned int others;
    unsigned int entries;
    uint64_t last_offset;
};

static struct seen seen;

static void see(const char *name, size_t length, const struct fuse_dirent *entry,
                const struct fuse_entry_out *plus)
{
    char text[256] = {0};
    unsigned int number;
    CHECK(length < sizeof(text));
    memcpy(text, name, length);
    seen.entries++;
    seen.last_offset = entry->off;
    if (strcmp(text, ".") == 0 || strcmp(text, "..") == 0) {
        seen.dots++;
        CHECK_EQUAL(entry->type, DT_DIR);
        CHECK(plus == NULL || plus->nodeid == 0);
    } else if (sscanf(text, "file-%u", &number) == 1 && number < FILES) {
        seen.files[number]++;
        CHECK_EQUAL(entry->type, DT_REG);
        if (plus != NULL)
            seen.nodeid[number] = plus->nodeid;
        CHECK(plus == NULL || plus->nodeid == 0 || plus->attr.ino == entry->ino);
    } else {
        seen.others++;
    }
}

/* One READDIR; the payload's size or a negative errno. */
static int32_t read_some(bool plus, uint64_t nodeid, uint64_t fh, uint64_t offset, uint32_t size)
{
    struct fuse_read_in in = {.fh = fh, .offset = offset, .size = size};
    int32_t result =
        loopback_send(&guest, plus ? FUSE_READDIRPLUS : FUSE_READDIR, nodeid, &in, sizeof(in), NULL, NULL);
    CHECK(result <= (int32_t)size);
    size_t head = plus ? sizeof(struct fuse_direntplus) : sizeof(struct fuse_dirent);
    for (size_t at = 0; result > 0 && at < (size_t)result;) {
        struct fuse_entry_out entry_out;
        struct fuse_dirent entry;
        CHECK(at % 8 == 0 && at + head <= (size_t)result);
        memcpy(&entry, guest.reply + at + head - sizeof(entry), sizeof(entry));
        memcpy(&entry_out, guest.reply + at, plus ? sizeof(entry_out) : 0);
        CHECK(entry.namelen > 0 && at + head + entry.namelen <= (size_t)result);
        see((const char *)guest.reply + at + head, entry.namelen, &entry, plus ? &entry_out : NULL);
        at += (head + entry.namelen + 7) & ~(size_t)7;
        CHECK(at <= (size_t)result);
    }
    return result;
}

/* Read all of it from an offset on. */
static void read_all(bool plus, uint64_t nodeid, uint64_t fh, uint64_t offset, uint32_t size)
{
    seen.last_offset = offset;
    int32_t result;
    do {
        result = read_some(plus, nodeid, fh, seen.last_offset, size);
        CHECK(result >= 0);
    } while (result > 0);
}

static void check_all_once(unsigned int count)
{
    for (unsigned int i = 0; i < count; i++)
        CHECK_EQUAL(seen.files[i], 1);
    CHECK_EQUAL(seen.dots, 2);
    CHECK_EQUAL(seen.others, 0);
}

static void each_entry_comes_once_whatever_the_size_of_replies(void)
{
    begin();
    host_files(FILES);
    static const uint32_t sizes[] = {512, 1000, 4096, 65536, 1048576};
    for (size_t i = 0; i < 2 * sizeof(sizes) / sizeof(sizes[0]); i++) {
        bool plus = i % 2 != 0;
        uint64_t fh;
        CHECK_EQUAL(loopback_opendir(&guest, 1, &fh), 0);
        memset(&seen, 0, sizeof(seen));
        read_all(plus, 1, fh, 0, sizes[i / 2]);
        check_all_once(FILES);
        CHECK_EQUAL(loopback_releasedir(&guest, 1, fh), 0);
    }
    end();
}

static void a_reply_is_never_larger_than_the_room_for_it(void)
{
    begin();
    host_files(50);
    uint64_t fh;
    CHECK_EQUAL(loopback_opendir(&guest, 1, &fh), 0);
    guest.room = sizeof(struct fuse_out_header) + 600;
    memset(&seen, 0, sizeof(seen));
    read_all(true, 1, fh, 0, 1048576);
    check_all_once(50);
    /* Not even one entry fits: as getdents. */
    guest.room = sizeof(struct fuse_out_header) + 20;
    CHECK_EQUAL(read_some(false, 1, fh, 0, 4096), -EINVAL);
    guest.room = LOOPBACK_ROOM;
    CHECK_EQUAL(read_some(true, 1, fh, 0, 100), -EINVAL);
    guest.piece = 7;
    memset(&seen, 0, sizeof(seen));
    guest.room = 4096;
    read_all(true, 1, fh, 0, 4096);
    check_all_once(50);
    end();
}

static void reading_goes_on_wherever_the_guest_asks(void)
{
    begin();
    host_files(FILES);
    uint64_t fh;
    CHECK_EQUAL(loopback_opendir(&guest, 1, &fh), 0);
    memset(&seen, 0, sizeof(seen));
    CHECK(read_some(false, 1, fh, 0, 8192) > 0);
    uint64_t middle = seen.last_offset;
    unsigned int first = seen.entries;
    memset(&seen, 0, sizeof(seen));
    read_all(false, 1, fh, middle, 4096);
    CHECK_EQUAL(seen.entries, FILES + 2 - first);
    /* Back to the middle, then to the start. */
    memset(&seen, 0, sizeof(seen));
    read_all(false, 1, fh, middle, 16384);
    CHECK_EQUAL(seen.entries, FILES + 2 - first);
    memset(&seen, 0, sizeof(seen));
    read_all(false, 1, fh, 0, 4096);
    check_all_once(FILES);
    CHECK_EQUAL(read_some(false, 1, fh, UINT64_MAX, 4096), -EINVAL);
    memset(&seen, 0, sizeof(seen));
    read_all(false, 1, fh, 0, 4096);
    check_all_once(FILES);
    end();
}

static void a_listing_with_attributes_counts_a_lookup_of_each(void)
{
    begin();
    host_files(20);
    uint64_t fh;
    CHECK_EQUAL(loopback_opendir(&guest, 1, &fh), 0);
    memset(&seen, 0, sizeof(seen));
    read_all(true, 1, fh, 0, 4096);
    check_all_once(20);
    for (unsigned int i = 0; i < 20; i++) {
        struct fuse_attr attributes;
        CHECK(seen.nodeid[i] > 1);
        CHECK_EQUAL(loopback_getattr(&guest, seen.nodeid[i], &attributes), 0);
        loopback_forget(&guest, seen.nodeid[i], 1);
        CHECK_EQUAL(loopback_getattr(&guest, seen.nodeid[i], &attributes), -ESTALE);
    }
    end();
}

static void entries_that_vanish_meanwhile_come_without_attributes(void)
{
    begin();
    host_files(3);
    uint64_t fh;
    CHECK_EQUAL(loopback_opendir(&guest, 1, &fh), 0);
    memset(&seen, 0, sizeof(seen));
    CHECK(read_some(true, 1, fh, 0, 320) > 0); /* the rest waits in the stream */
    CHECK_EQUAL(seen.entries, 2);
    for (unsigned int i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof(name), "file-%u", i);
        if (seen.files[i] == 0)
            CHECK_EQUAL(unlinkat(loopback.root_fd, name, 0), 0);
    }
    read_all(true, 1, fh, seen.last_offset, 4096);
    CHECK_EQUAL(seen.entries, 5);
    unsigned int unknown = 0;
    for (unsigned int i = 0; i < 3; i++)
        unknown += seen.nodeid[i] == 0;
    CHECK(unknown >= 1);
    end();
}

static void the_root_tells_nothing_of_what_is_above(void)
{
    begin();
    struct stat root;
    CHECK_EQUAL(fstatat(loopback.root_fd, "", &root, AT_EMPTY_PATH), 0);
    uint64_t fh;
    CHECK_EQUAL(loopback_opendir(&guest, 1, &fh), 0);
    struct fuse_read_in in = {.fh = fh, .size = 4096};
    int32_t result = loopback_send(&guest, FUSE_READDIR, 1, &in, sizeof(in), NULL, NULL);
    CHECK_EQUAL(result, 64);
    for (size_t at = 0; at < 64; at += 32) {
        struct fuse_dirent entry;
        memcpy(&entry, guest.reply + at, sizeof(entry));
        CHECK_EQUAL(entry.ino, root.st_ino);
    }
    end();
}

static void a_handle_is_good_for_its_own_directory_until_released(void)
{
    begin();
    struct fuse_entry_out directory;
    uint64_t fh;
    uint64_t second;
    CHECK_EQUAL(loopback_mkdir(&guest, 1, "d", 0755, &directory), 0);
    CHECK_EQUAL(loopback_opendir(&guest, directory.nodeid, &fh), 0);
    CHECK_EQUAL(read_some(false, 1, fh, 0, 4096), -EBADF);
    CHECK(read_some(false, directory.nodeid, fh, 0, 4096) > 0);
    CHECK_EQUAL(loopback_release(&guest, directory.nodeid, fh), -EBADF);
    struct fuse_fsync_in in = {.fh = fh};
    CHECK_EQUAL(loopback_send(&guest, FUSE_FSYNCDIR, directory.nodeid, &in, sizeof(in), NULL, NULL), 0);
    CHECK(guest.detached);
    CHECK_EQUAL(loopback_releasedir(&guest, directory.nodeid, fh), 0);
    CHECK_EQUAL(loopback_releasedir(&guest, directory.nodeid, fh), -EBADF);
    CHECK_EQUAL(read_some(false, directory.nodeid, fh, 0, 4096), -EBADF);
    CHECK_EQUAL(loopback_opendir(&guest, directory.nodeid, &second), 0);
    CHECK(second != fh);
    CHECK_EQUAL(read_some(false, directory.nodeid, fh, 0, 4096), -EBADF);
    CHECK_EQUAL(read_some(false, directory.nodeid, UINT64_MAX, 0, 4096), -EBADF);
    CHECK_EQUAL(read_some(false, directory.nodeid, 0, 0, 4096), -EBADF);
    end();
}

static void only_directories_are_opened_as_such(void)
{
    begin();
    struct fuse_entry_out entry;
    uint64_t fh;
    host_files(1);
    CHECK_EQUAL(mkfifoat(loopback.root_fd, "fifo", 0600), 0);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "file-0", &entry), 0);
    CHECK_EQUAL(loopback_opendir(&guest, entry.nodeid, &fh), -ENOTDIR);
    CHECK_EQUAL(loopback_lookup(&guest, 1, "fifo", &entry), 0);
    CHECK_EQUAL(loopback_opendir(&guest, entry.nodeid, &fh), -ENOTDIR);
    CHECK_EQUAL(loopback_opendir(&guest, 99, &fh), -ESTALE);
    end();
}

static void the_cache_mode_says_what_the_guest_may_keep(void)
{
    static const uint32_t expected[] = {[VHOSTFS_CACHE_NEVER] = 0,
                                        [VHOSTFS_CACHE_METADATA] = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR,
                                        [VHOSTFS_CACHE_AUTO] = 0,
                                        [VHOSTFS_CACHE_ALWAYS] = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR};
    for (uint32_t cache = VHOSTFS_CACHE_NEVER; cache <= VHOSTFS_CACHE_ALWAYS; cache++) {
        begin_with(cache);
        struct fuse_open_in in = {.flags = O_RDONLY};
        struct fuse_open_out out;
        CHECK_EQUAL(loopback_send(&guest, FUSE_OPENDIR, 1, &in, sizeof(in), NULL, NULL), sizeof(out));
        memcpy(&out, guest.reply, sizeof(out));
        CHECK_EQUAL(out.open_flags, expected[cache]);
        end();
    }
}

int main(void)
{
    PROMISE(each_entry_comes_once_whatever_the_size_of_replies);
    PROMISE(a_reply_is_never_larger_than_the_room_for_it);
    PROMISE(reading_goes_on_wherever_the_guest_asks);
    PROMISE(a_listing_with_attributes_counts_a_lookup_of_each);
    PROMISE(entries_that_vanish_meanwhile_come_without_attributes);
    PROMISE(the_root_tells_nothing_of_what_is_above);
    PROMISE(a_handle_is_good_for_its_own_directory_until_released);
    PROMISE(only_directories_are_opened_as_such);
    PROMISE(the_cache_mode_says_what_the_guest_may_keep);
    return 0;
}
