/* FUSE_INTERRUPT: which of the requests of /dev/fuse is meant, and where it is; the contract is in fuse_device.h. */
#define _GNU_SOURCE 1
#include "fuse_device.h"
#include "fuse_uring.h"
#include "fuse_wire.h"
#include "pool.h"
#include "queue.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Before an interrupt is asked for again. */
#define PAUSE_NANOSECONDS 1000000

/* Who has that request before anybody else has, or waits for a lock with it. NULL: nobody here. */
static const struct fuse_reader *holder_of(struct fuse_device *device, uint64_t unique)
{
    for (uint32_t i = 0; i < device->count; i++) {
        if (atomic_load(&device->readers[i].serving) == unique)
            return &device->readers[i];
    }
    return pool_interrupt(device->environment->pool, unique);
}

void fuse_interrupt_ask_again(const struct fuse_reader *holder, uint64_t unique)
{
    struct fuse_out_header again = {
        .len = sizeof(again), .error = -EAGAIN, .unique = unique | FUSE_INT_REQ_BIT};
    ssize_t written = write(holder->fd, &again, sizeof(again));
    (void)written;
}

bool fuse_interrupt(const struct fuse_reader *reader, const struct request *request)
{
    static const struct timespec pause = {.tv_nsec = PAUSE_NANOSECONDS};
    struct fuse_device *device = reader->device;
    struct fuse_interrupt_in in;
    if (request->arguments_size < sizeof(in))
        return true;
    memcpy(&in, request->arguments, sizeof(in));
    struct fuse_rings *rings = atomic_load(&device->rings);
    if (rings != NULL && fuse_rings_interrupt(rings, in.unique))
        return true;
    const struct fuse_reader *holder = holder_of(device, in.unique);
    if (holder == NULL) {
        /* Or it was read and not yet noted: who notes it after we have looked again (B) finds this (A). */
        uint32_t slot = atomic_fetch_add(&device->early_count, 1) % FUSE_EARLY_INTERRUPTS;
        atomic_store(&device->early[slot], in.unique); /* A */
        holder = holder_of(device, in.unique);         /* B */
    }
    if (holder == NULL)
        return false;
    nanosleep(&pause, NULL);
    fuse_interrupt_ask_again(holder, in.unique);
    return true;
}

bool fuse_interrupt_note(struct fuse_reader *reader, uint64_t unique)
{
    struct fuse_device *device = reader->device;
    bool early = false;
    atomic_store(&reader->serving, unique); /* B */
    if (atomic_load(&device->early_count) != 0) {
        for (uint32_t i = 0; i < FUSE_EARLY_INTERRUPTS; i++)
            early = early || atomic_load(&device->early[i]) == unique; /* A */
    }
    return early;
}
