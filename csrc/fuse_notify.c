/* What the kernel is told unasked (fuse.h: enum fuse_notify_code), written by a thread of its own; the contract is in
 * fuse_device.h. */
#include "fuse_device.h"
#include "fuse_wire.h"
#include "threads.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Most bytes of notifications that wait: whoever stores data in the kernel's cache comes sooner or later to
 * wait for the kernel. */
#define BYTES_MAX ((size_t)64 << 20)

struct notification {
    struct notification *next;
    size_t size;
    uint8_t bytes[]; /* fuse_out_header and payload */
};

struct fuse_notifier {
    pthread_t thread;
    int fd;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct notification *oldest;
    struct notification *newest;
    size_t bytes;
    bool stopping;
    bool ended;
    pthread_cond_t changed; /* ended */
};

/* The oldest, waited for; NULL: the thread is to end. Under the lock. */
static struct notification *take(struct fuse_notifier *notifier)
{
    while (notifier->oldest == NULL && !notifier->stopping)
        pthread_cond_wait(&notifier->work, &notifier->lock);
    struct notification *taken = notifier->stopping ? NULL : notifier->oldest;
    if (taken == NULL)
        return NULL;
    notifier->oldest = taken->next;
    if (notifier->oldest == NULL)
        notifier->newest = NULL;
    notifier->bytes -= taken->size;
    return taken;
}

static void *notifier_main(void *argument)
{
    struct fuse_notifier *notifier = argument;
    pthread_mutex_lock(&notifier->lock);
    for (struct notification *one = take(notifier); one != NULL; one = take(notifier)) {
        pthread_mutex_unlock(&notifier->lock);
        /* ENOENT: the kernel does not know the node or the name, so there is nothing to forget. */
        ssize_t written = write(notifier->fd, one->bytes, one->size);
        (void)written;
        free(one);
        pthread_mutex_lock(&notifier->lock);
    }
    notifier->ended = true;
    pthread_cond_signal(&notifier->changed);
    pthread_mutex_unlock(&notifier->lock);
    return NULL;
}

void fuse_notifier_free(struct fuse_notifier *notifier)
{
    while (notifier->oldest != NULL) {
        struct notification *next = notifier->oldest->next;
        free(notifier->oldest);
        notifier->oldest = next;
    }
    pthread_cond_destroy(&notifier->changed);
    pthread_cond_destroy(&notifier->work);
    pthread_mutex_destroy(&notifier->lock);
    free(notifier);
}

int fuse_notifier_start(int fd, struct fuse_notifier **notifier)
{
    struct fuse_notifier *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return -ENOMEM;
    made->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (made->fd < 0) {
        free(made);
        return -errno;
    }
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->work, NULL);
    threads_condition(&made->changed);
    int error = threads_start(&made->thread, "vhostfs-notify", notifier_main, made);
    if (error != 0) {
        close(made->fd);
        fuse_notifier_free(made);
        return error;
    }
    *notifier = made;
    return 0;
}

void fuse_notifier_end(struct fuse_notifier *notifier)
{
    pthread_mutex_lock(&notifier->lock);
    notifier->stopping = true;
    pthread_cond_signal(&notifier->work);
    pthread_mutex_unlock(&notifier->lock);
}

bool fuse_notifier_ended(struct fuse_notifier *notifier, const struct timespec *until)
{
    int waited = 0;
    pthread_mutex_lock(&notifier->lock);
    while (!notifier->ended && waited == 0)
        waited = pthread_cond_timedwait(&notifier->changed, &notifier->lock, until);
    bool ended = notifier->ended;
    if (!ended)
        threads_cancel_sleep(notifier->thread);
    pthread_mutex_unlock(&notifier->lock);
    return ended;
}

void fuse_notifier_join(struct fuse_notifier *notifier)
{
    pthread_join(notifier->thread, NULL);
    close(notifier->fd);
}

int fuse_notifier_post(struct fuse_notifier *notifier, int32_t code, const struct iovec *payload,
                       uint32_t count)
{
    size_t size = sizeof(struct fuse_out_header);
    for (uint32_t i = 0; i < count; i++) {
        if (payload[i].iov_len > BYTES_MAX - size)
            return -ENOBUFS;
        size += payload[i].iov_len;
    }
    struct notification *made = malloc(sizeof(*made) + size);
    if (made == NULL)
        return -ENOMEM;
    made->next = NULL;
    made->size = size;
    struct fuse_out_header header = {.len = (uint32_t)size, .error = code};
    memcpy(made->bytes, &header, sizeof(header));
    uint8_t *to = made->bytes + sizeof(header);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(to, payload[i].iov_base, payload[i].iov_len);
        to += payload[i].iov_len;
    }
    pthread_mutex_lock(&notifier->lock);
    int error = notifier->stopping ? -ENOSYS : 0;
    if (error == 0 && size > BYTES_MAX - notifier->bytes)
        error = -ENOBUFS;
    if (error == 0) {
        if (notifier->newest != NULL)
            notifier->newest->next = made;
        else
            notifier->oldest = made;
        notifier->newest = made;
        notifier->bytes += size;
        pthread_cond_signal(&notifier->work);
    }
    pthread_mutex_unlock(&notifier->lock);
    if (error != 0)
        free(made);
    return error;
}
