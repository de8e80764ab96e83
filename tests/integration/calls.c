/* Make many calls in a directory and say what each answered, a line each: run on a file system of the host and on the same
 * one in a guest, it must say the same. Linux is the judge, so nothing here says what is right.
 *
 * Run as root, in an empty directory that it is given. What differs from run to run (times, inode numbers) is not said.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static char buffer[65536];

/* Say what a call answered: its result, or its error's name. */
#define SAY(call)                                                                                            \
    do {                                                                                                     \
        errno = 0;                                                                                           \
        long long answer = (long long)(call);                                                                \
        if (answer < 0)                                                                                      \
            printf("%s: %s\n", #call, strerrorname_np(errno));                                               \
        else                                                                                                 \
            printf("%s: %lld\n", #call, answer);                                                             \
    } while (0)

/* The same for calls that answer a descriptor, whose number means nothing. */
#define SAY_OPEN(descriptor, call)                                                                           \
    do {                                                                                                     \
        (descriptor) = (call);                                                                               \
        printf("%s: %s\n", #call, (descriptor) < 0 ? strerrorname_np(errno) : "open");                       \
    } while (0)

static void say_attributes(const char *name)
{
    struct stat attributes;
    if (lstat(name, &attributes) != 0)
        printf("%s: %s\n", name, strerrorname_np(errno));
    else
        printf("%s: mode %o, owner %u:%u, %lld bytes, %lu links\n", name, attributes.st_mode,
               attributes.st_uid, attributes.st_gid,
               S_ISDIR(attributes.st_mode) ? 0 : (long long)attributes.st_size,
               (unsigned long)attributes.st_nlink);
}

static void say_content(const char *name)
{
    int fd = open(name, O_RDONLY);
    ssize_t size = read(fd, buffer, 200);
    printf("%s holds '%.*s'\n", name, (int)(size > 0 ? size : 0), buffer);
    close(fd);
}

/* Make a file with a content and a mode. */
static void make(const char *name, const char *content, mode_t mode)
{
    int fd = open(name, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (write(fd, content, strlen(content)) < 0 || fchmod(fd, mode) != 0)
        printf("making %s: %s\n", name, strerrorname_np(errno));
    close(fd);
}

/* Run in a child, as a user with one more group than its own, and wait for it. */
static void as_user(uid_t user, gid_t group, void (*calls)(void))
{
    pid_t child = fork();
    if (child == 0) {
        if (setgroups(1, &group) != 0 || setresgid(user, user, user) != 0 || setresuid(user, user, user) != 0)
            puts("no such user");
        calls();
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

static void data(void)
{
    int fd;
    SAY_OPEN(fd, open("data", O_CREAT | O_EXCL | O_RDWR, 0644));
    SAY(write(fd, "0123456789", 10));
    SAY(pread(fd, buffer, 100, 3));
    SAY(pread(fd, buffer, 100, 10));
    SAY(pread(fd, buffer, 100, 1LL << 40));
    SAY(pread(fd, buffer, 1, -1));
    SAY(pwrite(fd, "x", 1, 100000));
    SAY(fsync(fd));
    SAY(lseek(fd, 0, SEEK_DATA));
    SAY(lseek(fd, 0, SEEK_HOLE) > 0);
    SAY(lseek(fd, 0, SEEK_END));
    SAY(lseek(fd, 200000, SEEK_DATA));
    SAY(lseek(fd, 200000, SEEK_HOLE));
    SAY(lseek(fd, 0, 99));
    SAY(ftruncate(fd, 20));
    SAY(ftruncate(fd, -1));
    SAY(truncate("data", 15));
    SAY(truncate(".", 0));
    SAY(truncate("none", 0));
    SAY(fallocate(fd, 0, 0, 8192));
    SAY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    SAY(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 20000));
    SAY(fallocate(fd, 0, 0, 0));
    SAY(fallocate(fd, 0, -1, 10));
    SAY(fdatasync(fd));
    SAY(syncfs(fd));
    say_attributes("data");
    close(fd);
    SAY_OPEN(fd, open("data", O_RDONLY));
    SAY(write(fd, "x", 1));
    SAY(ftruncate(fd, 0));
    SAY(fallocate(fd, 0, 0, 1));
    close(fd);
    SAY_OPEN(fd, open("data", O_WRONLY));
    SAY(read(fd, buffer, 1));
    close(fd);
}

static void appending(void)
{
    int fd;
    int other;
    make("log", "", 0644);
    SAY_OPEN(fd, open("log", O_WRONLY | O_APPEND));
    SAY_OPEN(other, open("log", O_RDWR));
    SAY(write(fd, "one", 3));
    SAY(pwrite(other, "XXXXXX", 6, 3));
    SAY(write(fd, "two", 3));
    SAY(pwrite(fd, "abc", 3, 0));
    SAY(fcntl(other, F_SETFL, O_APPEND));
    SAY(lseek(other, 0, SEEK_SET));
    SAY(write(other, "end", 3));
    say_content("log");
    /* What is written through a mapping goes where it belongs, although the file appends. */
    char *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0);
    SAY(mapped == MAP_FAILED);
    if (mapped != MAP_FAILED) {
        mapped[0] = 'M';
        SAY(msync(mapped, 4096, MS_SYNC));
        munmap(mapped, 4096);
    }
    SAY(fsync(other));
    say_content("log");
    say_attributes("log");
    close(fd);
    close(other);
}

static void writing_through(void)
{
    int fd;
    void *aligned;
    struct iovec vector = {.iov_base = (char[]){"xyz"}, .iov_len = 3};
    SAY_OPEN(fd, open("sync", O_CREAT | O_WRONLY | O_SYNC, 0644));
    SAY(write(fd, "abc", 3));
    SAY(pwritev2(fd, &vector, 1, 0, RWF_DSYNC));
    SAY(pwritev2(fd, &vector, 1, 0, RWF_APPEND));
    close(fd);
    say_content("sync");
    SAY_OPEN(fd, open("direct", O_CREAT | O_RDWR | O_DIRECT, 0644));
    if (posix_memalign(&aligned, 4096, 8192) != 0)
        return;
    memset(aligned, 'd', 8192);
    SAY(pwrite(fd, aligned, 8192, 4096));
    SAY(pread(fd, aligned, 4096, 0));
    SAY(((char *)aligned)[4095]);
    SAY(pread(fd, aligned, 8192, 8192));
    SAY(((char *)aligned)[0]);
    SAY(ftruncate(fd, 5000));
    SAY(pread(fd, aligned, 8192, 0));
    free(aligned);
    close(fd);
}

static void mapping(void)
{
    int fd;
    make("mapped", "", 0644);
    SAY_OPEN(fd, open("mapped", O_RDWR));
    SAY(ftruncate(fd, 10000));
    char *mapped = mmap(NULL, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    SAY(mapped == MAP_FAILED);
    if (mapped == MAP_FAILED)
        return;
    mapped[0] = 'a';
    mapped[9999] = 'z';
    SAY(msync(mapped, 10000, MS_SYNC));
    SAY(pread(fd, buffer, 1, 9999));
    SAY(buffer[0]);
    SAY(pwrite(fd, "Q", 1, 5000));
    SAY(mapped[5000]);
    munmap(mapped, 10000);
    close(fd);
    say_attributes("mapped");
}

static void nameless(void)
{
    int fd;
    struct stat attributes;
    SAY_OPEN(fd, open("gone", O_CREAT | O_RDWR, 0600));
    SAY(unlink("gone"));
    SAY(write(fd, "12345", 5));
    SAY(ftruncate(fd, 3));
    SAY(fchmod(fd, 0640));
    SAY(fchown(fd, 5, 6));
    SAY(fsetxattr(fd, "user.one", "1", 1, 0));
    SAY(fgetxattr(fd, "user.one", buffer, 10));
    SAY(fstat(fd, &attributes));
    printf("gone: mode %o, owner %u, %lld bytes, %lu links\n", attributes.st_mode, attributes.st_uid,
           (long long)attributes.st_size, (unsigned long)attributes.st_nlink);
    SAY(flock(fd, LOCK_EX));
    close(fd);
    SAY_OPEN(fd, open(".", O_TMPFILE | O_RDWR, 0666));
    SAY(write(fd, "tmp", 3));
    SAY(linkat(fd, "", AT_FDCWD, "linked", AT_EMPTY_PATH));
    close(fd);
    say_attributes("linked");
}

static void say_times(const char *name)
{
    struct stat attributes;
    if (lstat(name, &attributes) == 0)
        printf("%s: accessed %lld.%09ld, modified %lld.%09ld\n", name, (long long)attributes.st_atim.tv_sec,
               attributes.st_atim.tv_nsec, (long long)attributes.st_mtim.tv_sec, attributes.st_mtim.tv_nsec);
}

static void attributes(void)
{
    make("file", "content", 0644);
    SAY(chmod("file", 04751));
    say_attributes("file");
    SAY(chown("file", 1000, 1001));
    say_attributes("file");
    SAY(chmod("file", 06755));
    SAY(chown("file", -1, 5));
    say_attributes("file");
    struct timespec times[2] = {{123456, 789}, {-5, 999999999}};
    SAY(utimensat(AT_FDCWD, "file", times, 0));
    say_times("file");
    times[0].tv_nsec = UTIME_OMIT;
    times[1].tv_sec = 77;
    SAY(utimensat(AT_FDCWD, "file", times, 0));
    say_times("file");
    SAY(symlink("file", "link"));
    SAY(lchown("link", 7, 8));
    SAY(utimensat(AT_FDCWD, "link", (struct timespec[]){{1, 2}, {3, 4}}, AT_SYMLINK_NOFOLLOW));
    say_attributes("link");
    say_times("link");
    say_times("file");
    struct statx extended;
    SAY(statx(AT_FDCWD, "file", 0, STATX_ALL, &extended));
    SAY((extended.stx_mask & STATX_BTIME) != 0);
    int fd;
    SAY_OPEN(fd, open("link", O_RDONLY | O_NOFOLLOW));
    SAY_OPEN(fd, open(".", O_WRONLY));
    SAY_OPEN(fd, open("none", O_RDONLY));
    SAY_OPEN(fd, open("file", O_CREAT | O_EXCL, 0600));
    SAY_OPEN(fd, open("file/none", O_RDONLY));
}

static void extended_attributes(void)
{
    SAY(setxattr("file", "user.one", "1", 1, XATTR_CREATE));
    SAY(setxattr("file", "user.one", "1", 1, XATTR_CREATE));
    SAY(setxattr("file", "user.two", "1", 1, XATTR_REPLACE));
    SAY(getxattr("file", "user.one", NULL, 0));
    SAY(getxattr("file", "user.one", buffer, 10));
    SAY(getxattr("file", "user.none", buffer, 10));
    SAY(listxattr("file", NULL, 0));
    SAY(listxattr("file", buffer, sizeof(buffer)));
    SAY(listxattr("file", buffer, 2));
    SAY(setxattr("file", "user.one", "12345", 5, 0));
    SAY(getxattr("file", "user.one", buffer, 2));
    SAY(removexattr("file", "user.one"));
    SAY(removexattr("file", "user.one"));
    SAY(lsetxattr("link", "user.one", "1", 1, 0));
    SAY(setxattr("file", "nothing", "1", 1, 0));
    memset(buffer, 'v', 2000);
    SAY(setxattr("file", "user.big", buffer, 2000, 0));
    SAY(getxattr("file", "user.big", buffer, sizeof(buffer)));
}

static void flags_of_inodes(void)
{
    int fd;
    int flags = 0;
    struct fsxattr project;
    SAY_OPEN(fd, open("file", O_RDONLY));
    SAY(ioctl(fd, FS_IOC_GETFLAGS, &flags));
    flags |= FS_NODUMP_FL;
    SAY(ioctl(fd, FS_IOC_SETFLAGS, &flags));
    flags = 0;
    SAY(ioctl(fd, FS_IOC_GETFLAGS, &flags));
    SAY((flags & FS_NODUMP_FL) != 0);
    SAY(ioctl(fd, FS_IOC_FSGETXATTR, &project));
    SAY(ioctl(fd, FS_IOC_FSSETXATTR, &project));
    SAY(ioctl(fd, 0x1234, 0));
    close(fd);
    SAY_OPEN(fd, open(".", O_RDONLY | O_DIRECTORY));
    SAY(ioctl(fd, FS_IOC_GETFLAGS, &flags));
    close(fd);
}

static void copying(void)
{
    int from;
    int to;
    off_t from_offset = 2;
    off_t to_offset = 5;
    SAY_OPEN(from, open("file", O_RDONLY));
    SAY_OPEN(to, open("copy", O_CREAT | O_RDWR, 0644));
    SAY(copy_file_range(from, &from_offset, to, &to_offset, 100, 0));
    say_attributes("copy");
    SAY(copy_file_range(from, (off_t[]){1 << 30}, to, &to_offset, 100, 0));
    SAY(copy_file_range(to, &to_offset, from, &from_offset, 100, 0));
    SAY(copy_file_range(from, &from_offset, to, &to_offset, 100, 1));
    close(from);
    close(to);
}

static int lock(int fd, int command, short type, off_t start, off_t size)
{
    struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = size};
    return fcntl(fd, command, &range);
}

/* Run in a child that has nothing of the parent's open but pipes, and wait for it. */
static void in_another_process(void (*calls)(void))
{
    pid_t child = fork();
    if (child == 0) {
        close_range(3, ~0U, 0);
        calls();
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

static void meet_the_parents_lock(void)
{
    int fd = open("file", O_RDWR);
    SAY(lock(fd, F_SETLK, F_RDLCK, 5, 1));
    SAY(lock(fd, F_SETLK, F_WRLCK, 10, 5));
    struct flock found = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 100};
    SAY(fcntl(fd, F_GETLK, &found));
    printf("found type %d, %lld bytes from %lld, %s\n", found.l_type, (long long)found.l_len,
           (long long)found.l_start, found.l_pid == getppid() ? "my parent's" : "a stranger's");
}

static void meet_half_a_lock(void)
{
    int fd = open("file", O_RDWR);
    SAY(lock(fd, F_SETLK, F_WRLCK, 3, 4));
    SAY(lock(fd, F_SETLK, F_WRLCK, 0, 3));
}

static void meet_no_lock(void)
{
    int fd = open("file", O_RDWR);
    SAY(lock(fd, F_SETLKW, F_WRLCK, 0, 0));
}

static void meet_a_shared_flock(void)
{
    int fd = open("file", O_RDWR);
    SAY(flock(fd, LOCK_EX | LOCK_NB));
    SAY(flock(fd, LOCK_SH | LOCK_NB));
}

/* A child waits for what the parent gives up, which it does when the child is about to wait. */
static void hand_over(int fd, int (*wait_for)(int fd), int (*give_up)(int fd))
{
    int ready[2];
    char byte = 0;
    if (pipe(ready) != 0)
        return;
    pid_t child = fork();
    if (child == 0) {
        close(fd);
        fd = open("file", O_RDWR);
        if (write(ready[1], &byte, 1) != 1)
            _exit(1);
        SAY(wait_for(fd));
        _exit(0);
    }
    if (read(ready[0], &byte, 1) != 1)
        puts("the child is lost");
    int given_up = give_up(fd);
    waitpid(child, NULL, 0);
    SAY(given_up);
    close(ready[0]);
    close(ready[1]);
}

static int wait_for_lock(int fd)
{
    return lock(fd, F_SETLKW, F_WRLCK, 0, 100);
}

static int close_another(int fd)
{
    (void)fd; /* any descriptor of the file that closes takes the process's locks along */
    return close(open("file", O_RDONLY));
}

static int wait_for_flock(int fd)
{
    return flock(fd, LOCK_EX);
}

static int give_up_flock(int fd)
{
    return flock(fd, LOCK_UN);
}

static void locks(void)
{
    int fd;
    int other;
    SAY_OPEN(fd, open("file", O_RDWR));
    SAY(lock(fd, F_SETLK, F_WRLCK, 0, 10));
    in_another_process(meet_the_parents_lock);
    SAY(lock(fd, F_SETLK, F_UNLCK, 3, 4));
    in_another_process(meet_half_a_lock);
    hand_over(fd, wait_for_lock, close_another);
    in_another_process(meet_no_lock);
    SAY(lock(fd, F_SETLK, F_WRLCK, 0, 0));
    SAY(lock(fd, F_SETLK, 99, 0, 0));
    SAY_OPEN(other, open("file", O_RDONLY));
    SAY(lock(other, F_SETLK, F_WRLCK, 0, 0));
    close(other);
    SAY(lock(fd, F_OFD_SETLK, F_RDLCK, 0, 1));
    SAY_OPEN(other, open("file", O_RDWR));
    SAY(lock(other, F_OFD_SETLK, F_WRLCK, 0, 1));
    SAY(lock(other, F_OFD_SETLK, F_WRLCK, 1, 1));
    close(other);
    SAY(flock(fd, LOCK_SH));
    in_another_process(meet_a_shared_flock);
    SAY(flock(fd, LOCK_EX));
    hand_over(fd, wait_for_flock, give_up_flock);
    close(fd);
}

static void change_set_user_id_files(void)
{
    int fd;
    SAY_OPEN(fd, open("suid", O_WRONLY));
    SAY(write(fd, "x", 1));
    close(fd);
    SAY(truncate("suid-truncated", 1));
    SAY_OPEN(fd, open("suid-opened", O_WRONLY | O_TRUNC));
    close(fd);
    SAY_OPEN(fd, open("suid-created", O_CREAT | O_WRONLY | O_TRUNC, 0600));
    close(fd);
}

static void be_refused(void)
{
    int fd;
    SAY_OPEN(fd, open("secret", O_RDONLY));
    SAY_OPEN(fd, open("public", O_WRONLY));
    SAY(access("secret", R_OK));
    SAY(access("public", R_OK));
    SAY(chmod("public", 0777));
    SAY(chown("public", 2000, 2000));
    SAY(utimensat(AT_FDCWD, "public", NULL, 0));
    SAY(setxattr("public", "user.a", "b", 1, 0));
    SAY(truncate("public", 0));
    SAY(unlink("public"));
}

static void privileges(void)
{
    const char *names[] = {"suid", "suid-truncated", "suid-opened", "suid-created"};
    for (int i = 0; i < 4; i++)
        make(names[i], "content", 06777);
    as_user(1000, 1000, change_set_user_id_files);
    for (int i = 0; i < 4; i++)
        say_attributes(names[i]);
    make("suid-of-root", "content", 06777);
    SAY(truncate("suid-of-root", 3));
    say_attributes("suid-of-root");
    make("secret", "", 0600);
    make("public", "", 0644);
    as_user(1000, 1000, be_refused);
}

static void create_in_a_set_group_id_directory(void)
{
    int fd;
    SAY_OPEN(fd, open("group/file", O_CREAT | O_EXCL | O_RDWR, 02775));
    close(fd);
    SAY(mkdir("group/directory", 0775));
    SAY(mknod("group/fifo", S_IFIFO | 0664, 0));
    SAY(chmod("group/file", 02755));
    say_attributes("group/file");
    say_attributes("group/directory");
    say_attributes("group/fifo");
    SAY(unlink("group/file"));
    SAY(rmdir("group/directory"));
    SAY(unlink("group/fifo"));
}

static void groups(void)
{
    SAY(mkdir("group", 0777));
    SAY(chown("group", 0, 500));
    SAY(chmod("group", 02777));
    as_user(1000, 1000, create_in_a_set_group_id_directory);
    as_user(1001, 500, create_in_a_set_group_id_directory);
    say_attributes("group");
}

int main(int count, char **arguments)
{
    if (count != 2 || chdir(arguments[1]) != 0)
        return 2;
    setvbuf(stdout, NULL, _IONBF, 0);
    signal(SIGXFSZ, SIG_IGN);
    umask(022);
    alarm(120);
    data();
    appending();
    writing_through();
    mapping();
    nameless();
    attributes();
    extended_attributes();
    flags_of_inodes();
    copying();
    locks();
    privileges();
    groups();
    puts("done");
    return 0;
}
