/* What a device has to tell Python: a bounded queue behind an eventfd (core.h). Pushed by any thread, taken
 * by one. */
#pragma once
#include "core.h"
#include <pthread.h>

#define EVENTS_BOUND 64

struct events {
    pthread_mutex_t lock;
    int fd;
    uint32_t first;
    uint32_t count;
    uint64_t dropped;
    struct vhostfs_event waiting[EVENTS_BOUND];
};

/* 0 or a negative errno. */
int events_init(struct events *events);
void events_destroy(struct events *events);
/* Never waits for whoever reads; drops the new event where the queue is full. */
void events_push(struct events *events, enum vhostfs_event_kind kind, int32_t queue, int32_t error,
                 const char *text);
/* Take the oldest; kind NONE where there is none. */
void events_take(struct events *events, struct vhostfs_event *event);
