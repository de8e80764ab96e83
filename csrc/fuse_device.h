/* Requests from /dev/fuse, for file systems on this host: the other source of requests beside rings.
 *
 * Each reader is a thread with a descriptor of the connection: the one that was mounted with, or a clone of it,
 * whose requests only that descriptor can answer. It reads a request into a buffer of its own, has it answered
 * and writes the reply, two system calls a request. A request that is detached (to the pool, to Python) takes
 * the buffers that it needs along, the reader gets others, and whoever has the answer writes it.
 *
 * What the kernel is told unasked goes by a thread of its own (fuse_notify.c), because such a write waits for
 * locks that are held by requests which are not answered yet.
 */
#pragma once
#include "epoch.h"
#include "request.h"
#include <pthread.h>
#include <stdalign.h>
#include <time.h>

struct queue_environment;
struct fuse_device;
struct fuse_notifier;
struct fuse_rings;

#define FUSE_EARLY_INTERRUPTS 8U

struct fuse_reader {
    alignas(128) struct epoch_reader epoch;
    struct fuse_device *device;
    pthread_t thread;
    int fd;
    _Atomic uint64_t serving; /* the request that it has and that nobody else has yet; 0: none */
    _Atomic bool sleeping;    /* in read(2) or for a limit, or it is about to */
    bool ended;               /* under the device's lock */
    uint8_t *in;              /* buffers of its own */
    uint8_t *out;
    uint8_t *arguments;
};

struct fuse_device {
    struct queue_environment *environment;
    struct memory_table *memory; /* of no meaning here; requests hold a reference to some table */
    size_t capacity;             /* bytes of data that a request or a reply may carry */
    int fd;                      /* our own duplicate */
    _Atomic uint32_t count;      /* readers */
    struct fuse_reader *readers;
    struct fuse_notifier *notifier;
    _Atomic(struct fuse_rings *) rings; /* fuse_uring.h; NULL: none. Made by the reader of INIT */
    _Atomic bool stopping;
    _Atomic uint32_t early_count;                  /* INTERRUPTs of requests that nobody had, ever */
    _Atomic uint64_t early[FUSE_EARLY_INTERRUPTS]; /* what the last of them named */
    pthread_mutex_t lock;                          /* of all below */
    pthread_cond_t changed;
    uint32_t running;      /* readers that have not ended */
    uint32_t in_flight;    /* detached requests */
    uint8_t *idle_buffers; /* linked by their first bytes */
    uint32_t idle_count;
    bool pumped;    /* there is one reader, and it has no thread */
    bool together;  /* who pumps: the last requests came several at once */
    uint32_t alone; /* who pumps: requests that did not */
    bool pumping;   /* under the lock: somebody is inside of fuse_device_pump */
    bool giving_up; /* buffers that come back may still be looked at: they are kept till the end */
    bool end_told;
};

#define FUSE_READERS_MAX 64

/* Serve the connection of `fd`, which stays the caller's, with `readers` threads; without any, by fuse_device_pump. 0, or
 * a negative errno. */
int fuse_device_start(struct queue_environment *environment, struct memory_table *memory, int fd,
                      uint32_t readers, size_t capacity, struct fuse_device **device);
/* Serve up to `most` requests that wait, having slept for the first of them up to so many milliseconds, by an epoll
 * descriptor to which the reader's was added by its number; whatever else it tells of ends the sleep. How many, or a
 * negative errno where there is no connection any more. One thread at a time. */
int fuse_device_pump(struct fuse_device *device, uint32_t most, int epoll_fd, int milliseconds);
/* End the threads; what is under way is answered, or given up. The connection ends with its descriptors, unless
 * the caller has others. */
void fuse_device_stop(struct fuse_device *device);
/* After fuse_device_stop, and when nobody looks at requests any more. */
void fuse_device_free(struct fuse_device *device);

/* For all sources of requests of a device, which are readers, or threads of rings (fuse_uring.h): */
/* A buffer of a page and the device's capacity, or NULL. Under the lock. */
uint8_t *fuse_device_take_buffer(struct fuse_device *device);
/* Under the lock. NULL is none. */
void fuse_device_give_buffer(struct fuse_device *device, uint8_t *buffer);
/* Wait until the limits of its mount let a request go on, or the threads are to end. */
void fuse_device_await_turn(struct fuse_reader *reader, const struct request *request);
/* The last that a source's thread does. */
void fuse_device_reader_ended(struct fuse_reader *reader);

/* fuse_reply_room.c: a number in the arguments, at an offset; 0 where they end before. */
uint32_t fuse_argument_at(const struct request *request, size_t offset);
/* Bytes of payload that the kernel takes in answer to a request. */
size_t fuse_reply_room(const struct request *request);

/* fuse_interrupts.c: serve FUSE_INTERRUPT. True: the kernel is asked to send it again in a moment, as the request was not
 * yet where it could be ended, or may have been about to sleep. False: it is to go to the file systems. */
bool fuse_interrupt(const struct fuse_reader *reader, const struct request *request);
/* Note what is served, before it is; whether it was interrupted before that: then its interrupt is to be asked for again
 * when it is where it can be ended. */
bool fuse_interrupt_note(struct fuse_reader *reader, uint64_t unique);
/* Only the descriptor that the request came by knows it; one that has been answered is unknown to all. */
void fuse_interrupt_ask_again(const struct fuse_reader *holder, uint64_t unique);

/* fuse_notify.c: tell the kernel something unasked, later. */
int fuse_notifier_start(int fd, struct fuse_notifier **notifier);
/* Write what is being written, and then no more. */
void fuse_notifier_end(struct fuse_notifier *notifier);
/* Whether it has ended, waited for until some time (CLOCK_MONOTONIC). It may wait for what a request holds. */
bool fuse_notifier_ended(struct fuse_notifier *notifier, const struct timespec *until);
/* When it has ended. */
void fuse_notifier_join(struct fuse_notifier *notifier);
/* When nobody posts any more. */
void fuse_notifier_free(struct fuse_notifier *notifier);
/* 0; -ENOMEM; -ENOBUFS: too much waits; -ENOSYS: it is to end. From any thread. */
int fuse_notifier_post(struct fuse_notifier *notifier, int32_t code, const struct iovec *payload,
                       uint32_t count);
