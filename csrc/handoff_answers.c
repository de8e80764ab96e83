/* The way back from Python: answers by token, and data between guest memory and Python's or a file's. The
 * contract is in handoff.h. */
#define _GNU_SOURCE 1
#include "handoff_slots.h"
#include "memory.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define ERRNO_MAX 511

/* ---- Answers ---- */

/* The request is answered: it waits for the flush, and its slot is free. Under the lock. */
static void finish(struct vhostfs_handoff *handoff, struct handoff_slot *slot, int32_t result)
{
    struct request *request = slot->request;
    request->result = result;
    request->next = handoff->returned;
    handoff->returned = request;
    handoff_free_slot(handoff, slot);
}

/* An answer to what was given up: nobody has views of its memory any more. Under the lock. */
static void finish_late(struct vhostfs_handoff *handoff, struct handoff_slot *slot)
{
    memory_table_put(slot->kept);
    slot->kept = NULL;
    handoff_free_slot(handoff, slot);
}

/* The slot of a request that Python has and has not answered, or NULL. Under the lock. */
static struct handoff_slot *open_slot(struct vhostfs_handoff *handoff, uint64_t token)
{
    struct handoff_slot *slot = handoff_find(handoff, token);
    if (slot == NULL || slot->request == NULL || !slot->taken || slot->answered)
        return NULL;
    return slot;
}

int vhostfs_handoff_answer(vhostfs_handoff *handoff, uint64_t token, int error, const uint8_t *payload,
                           size_t size)
{
    int outcome = 0;
    pthread_mutex_lock(&handoff->lock);
    struct handoff_slot *slot = open_slot(handoff, token);
    if (slot == NULL) {
        slot = handoff_find(handoff, token);
        if (slot != NULL && slot->kept != NULL)
            finish_late(handoff, slot);
        pthread_mutex_unlock(&handoff->lock);
        return -ESTALE;
    }
    struct request *request = slot->request;
    int32_t result = -EIO;
    if (error > 0)
        result = error <= ERRNO_MAX ? -error : -EIO;
    else if (size <= reply_room(request) && (payload == NULL || reply_at(request, 0, payload, size)))
        result = (int32_t)size;
    else
        outcome = -EMSGSIZE;
    if (slot->users > 0) {
        slot->answered = true;
        slot->result = result;
    } else {
        finish(handoff, slot, result);
    }
    pthread_mutex_unlock(&handoff->lock);
    return outcome;
}

/* Take the requests that are first in the list and come from one source as the first does. */
static struct request *next_of_one_source(struct request **list)
{
    struct request *first = *list;
    struct request *last = first;
    while (last->next != NULL && last->next->source == first->source &&
           last->next->complete == first->complete)
        last = last->next;
    *list = last->next;
    last->next = NULL;
    return first;
}

static struct request *reversed(struct request *list)
{
    struct request *turned = NULL;
    while (list != NULL) {
        struct request *next = list->next;
        list->next = turned;
        turned = list;
        list = next;
    }
    return turned;
}

void vhostfs_handoff_flush(vhostfs_handoff *handoff)
{
    pthread_mutex_lock(&handoff->lock);
    struct request *returned = handoff->returned;
    handoff->returned = NULL;
    pthread_mutex_unlock(&handoff->lock);
    returned = reversed(returned);
    while (returned != NULL) {
        struct request *requests = next_of_one_source(&returned);
        requests->complete(requests);
    }
}

/* ---- Data ---- */

/* Begin to use the memory of a request, which is then not answered before `leave`. NULL: it is answered already. */
static struct request *enter(struct vhostfs_handoff *handoff, uint64_t token)
{
    pthread_mutex_lock(&handoff->lock);
    struct handoff_slot *slot = open_slot(handoff, token);
    struct request *request = NULL;
    if (slot != NULL) {
        slot->users++;
        request = slot->request;
    }
    pthread_mutex_unlock(&handoff->lock);
    return request;
}

static void leave(struct vhostfs_handoff *handoff, uint64_t token)
{
    struct request *abandoned = NULL;
    pthread_mutex_lock(&handoff->lock);
    struct handoff_slot *slot = handoff_find(handoff, token);
    bool last = --slot->users == 0;
    bool late = last && slot->answered;
    if (late)
        finish(handoff, slot, slot->result);
    else if (last && handoff->closed)
        abandoned = handoff_take_back(slot);
    if (abandoned != NULL)
        abandoned->next = NULL;
    pthread_mutex_unlock(&handoff->lock);
    if (late)
        vhostfs_handoff_flush(handoff);
    handoff_refuse(abandoned);
}

static size_t data_size(const struct request *request)
{
    return request->in.len - request->readable_position;
}

int vhostfs_handoff_segments(vhostfs_handoff *handoff, uint64_t token, int written, uint64_t size,
                             struct vhostfs_segment *segments, uint32_t count)
{
    struct iovec vector[CHAIN_VECTORS];
    struct request *request = enter(handoff, token);
    if (request == NULL)
        return -ESTALE;
    int found = written != 0 ? request_data_vectors(request, data_size(request), vector)
                             : reply_vectors(request, 0, size, vector);
    for (int i = 0; i < found && (uint32_t)i < count; i++)
        segments[i] = (struct vhostfs_segment){.start = vector[i].iov_base, .size = vector[i].iov_len};
    leave(handoff, token);
    return found;
}

int64_t vhostfs_handoff_store(vhostfs_handoff *handoff, uint64_t token, uint64_t offset, const uint8_t *from,
                              uint64_t size)
{
    struct request *request = enter(handoff, token);
    if (request == NULL)
        return -ESTALE;
    size_t room = reply_room(request);
    if (offset > room)
        offset = room;
    if (size > room - offset)
        size = room - offset;
    reply_at(request, offset, from, size);
    leave(handoff, token);
    return (int64_t)size;
}

int64_t vhostfs_handoff_load(vhostfs_handoff *handoff, uint64_t token, uint64_t offset, uint8_t *to,
                             uint64_t size)
{
    struct iovec vector[CHAIN_VECTORS];
    struct request *request = enter(handoff, token);
    if (request == NULL)
        return -ESTALE;
    uint64_t copied = 0;
    int count = request_data_vectors(request, data_size(request), vector);
    for (int i = 0; i < count && copied < size; i++) {
        if (offset >= vector[i].iov_len) {
            offset -= vector[i].iov_len;
            continue;
        }
        uint64_t step = vector[i].iov_len - offset;
        if (step > size - copied)
            step = size - copied;
        memcpy(to + copied, (uint8_t *)vector[i].iov_base + offset, step);
        copied += step;
        offset = 0;
    }
    leave(handoff, token);
    return (int64_t)copied;
}

int64_t vhostfs_handoff_read(vhostfs_handoff *handoff, uint64_t token, uint64_t position, uint64_t size,
                             int fd, uint64_t offset)
{
    struct iovec vector[CHAIN_VECTORS];
    struct request *request = enter(handoff, token);
    if (request == NULL)
        return -ESTALE;
    size_t room = reply_room(request);
    if (position > room)
        position = room;
    if (size > room - position)
        size = room - position;
    int count = reply_vectors(request, position, size, vector);
    int64_t got = count < 0 ? count : preadv(fd, vector, count, (off_t)offset);
    if (got < 0 && count >= 0)
        got = -errno;
    leave(handoff, token);
    return got;
}

/* Leave out the first bytes of a list. */
static int skip(struct iovec *vector, int count, uint64_t bytes)
{
    int first = 0;
    while (first < count && bytes >= vector[first].iov_len)
        bytes -= vector[first++].iov_len;
    if (first < count) {
        vector[first].iov_base = (uint8_t *)vector[first].iov_base + bytes;
        vector[first].iov_len -= bytes;
    }
    memmove(vector, vector + first, (size_t)(count - first) * sizeof(*vector));
    return count - first;
}

int64_t vhostfs_handoff_write(vhostfs_handoff *handoff, uint64_t token, uint64_t position, int fd,
                              uint64_t offset)
{
    struct iovec vector[CHAIN_VECTORS];
    struct request *request = enter(handoff, token);
    if (request == NULL)
        return -ESTALE;
    int count = request_data_vectors(request, data_size(request), vector);
    int64_t done = count;
    if (count >= 0) {
        count = skip(vector, count, position);
        done = count == 0 ? 0 : pwritev(fd, vector, count, (off_t)offset);
        if (done < 0)
            done = -errno;
    }
    leave(handoff, token);
    return done;
}
