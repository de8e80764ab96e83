/* The event queue; the contract is in events.h. */
#include "events.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int events_init(struct events *events)
{
    memset(events, 0, sizeof(*events));
    events->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (events->fd < 0)
        return -errno;
    pthread_mutex_init(&events->lock, NULL);
    return 0;
}

void events_destroy(struct events *events)
{
    close(events->fd);
    pthread_mutex_destroy(&events->lock);
}

/* Under the lock. */
static void append(struct events *events, const struct vhostfs_event *event)
{
    if (events->count == EVENTS_BOUND) {
        events->dropped++;
        return;
    }
    events->waiting[(events->first + events->count) % EVENTS_BOUND] = *event;
    if (events->count++ == 0)
        eventfd_write(events->fd, 1);
}

void events_push(struct events *events, enum vhostfs_event_kind kind, int32_t queue, int32_t error,
                 const char *text)
{
    struct vhostfs_event event = {.kind = (uint32_t)kind, .queue = queue, .error = error};
    snprintf(event.text, sizeof(event.text), "%s", text);
    pthread_mutex_lock(&events->lock);
    append(events, &event);
    pthread_mutex_unlock(&events->lock);
}

void events_take(struct events *events, struct vhostfs_event *event)
{
    memset(event, 0, sizeof(*event));
    event->queue = -1;
    pthread_mutex_lock(&events->lock);
    if (events->count > 0) {
        *event = events->waiting[events->first];
        events->first = (events->first + 1) % EVENTS_BOUND;
        events->count--;
    } else if (events->dropped > 0) {
        event->kind = VHOSTFS_EVENT_WARNING;
        snprintf(event->text, sizeof(event->text), "%" PRIu64 " events were dropped", events->dropped);
        events->dropped = 0;
    }
    if (events->count == 0 && events->dropped == 0) {
        eventfd_t count;
        eventfd_read(events->fd, &count);
    }
    pthread_mutex_unlock(&events->lock);
}
