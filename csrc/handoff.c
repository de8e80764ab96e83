/* The way to Python: submitting, taking, and the mount's life. The contract is in handoff.h; answers are in
 * handoff_answers.c. */
#include "handoff.h"
#include "handoff_slots.h"
#include "memory.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define FIRST_SLOTS 64U
/* Copies of BATCH_FORGET that may wait for one mount, beside what its rings bound. A guest that sends more while
 * Python is held up loses some, which costs nothing but memory until its session ends. */
#define MOST_COPIES 1024U
#define LARGEST_RECORD                                                                                       \
    (sizeof(struct vhostfs_handoff_record) + sizeof(struct fuse_in_header) + REQUEST_ARGUMENTS_SIZE)

static struct vhostfs_handoff *handoff_of(struct filesystem *filesystem)
{
    return (struct vhostfs_handoff *)(void *)filesystem;
}

_Static_assert(offsetof(struct vhostfs_handoff, filesystem) == 0,
               "a mount starts with what the session knows of it");

/* ---- Slots, under the lock ---- */

/* More slots, all of them free. False: no memory. */
static bool grow(struct vhostfs_handoff *handoff)
{
    uint32_t count = handoff->slot_count == 0 ? FIRST_SLOTS : handoff->slot_count * 2;
    struct handoff_slot *slots = realloc(handoff->slots, count * sizeof(*slots));
    if (slots == NULL)
        return false;
    for (uint32_t i = handoff->slot_count; i < count; i++)
        slots[i] = (struct handoff_slot){.generation = 1, .next = i + 1 < count ? i + 1 : NO_SLOT};
    handoff->first_free = handoff->slot_count;
    handoff->slots = slots;
    handoff->slot_count = count;
    return true;
}

/* A slot at the end of the list. NULL: no memory. */
static struct handoff_slot *append(struct vhostfs_handoff *handoff, enum vhostfs_handoff_kind kind)
{
    if (handoff->first_free == NO_SLOT && !grow(handoff))
        return NULL;
    uint32_t index = handoff->first_free;
    struct handoff_slot *slot = &handoff->slots[index];
    handoff->first_free = slot->next;
    *slot = (struct handoff_slot){.generation = slot->generation, .next = NO_SLOT, .kind = (uint16_t)kind};
    if (handoff->newest == NO_SLOT)
        handoff->oldest = index;
    else
        handoff->slots[handoff->newest].next = index;
    handoff->newest = index;
    return slot;
}

void handoff_free_slot(struct vhostfs_handoff *handoff, struct handoff_slot *slot)
{
    slot->request = NULL;
    slot->generation = slot->generation == UINT32_MAX ? 1 : slot->generation + 1;
    slot->next = handoff->first_free;
    handoff->first_free = (uint32_t)(slot - handoff->slots);
}

struct handoff_slot *handoff_find(struct vhostfs_handoff *handoff, uint64_t token)
{
    uint32_t index = (uint32_t)token - 1;
    if (index >= handoff->slot_count || handoff->slots[index].generation != token >> 32)
        return NULL;
    return &handoff->slots[index];
}

static uint64_t token_of(const struct vhostfs_handoff *handoff, const struct handoff_slot *slot)
{
    return (uint64_t)slot->generation << 32 | ((uint64_t)(slot - handoff->slots) + 1);
}

/* Whether the eventfd is to be written to, now that something waits; the lock is left first. */
static bool wakes(struct vhostfs_handoff *handoff)
{
    bool wake = !handoff->woken && !handoff->attended && !handoff->closed;
    handoff->woken = handoff->woken || wake;
    handoff->writes += wake;
    return wake;
}

static void wake(const struct vhostfs_handoff *handoff)
{
    eventfd_write(handoff->wake_fd, 1);
}

/* A note; lost where there is no memory for it. */
static void note(struct vhostfs_handoff *handoff, enum vhostfs_handoff_kind kind, uint64_t value,
                 uint64_t extra)
{
    struct handoff_slot *slot = append(handoff, kind);
    if (slot == NULL)
        return;
    slot->value = value;
    slot->extra = extra;
}

/* Note that a session begins, or that one has ended. It takes the place of such a note that nobody has taken and nothing
 * came behind: a guest that begins sessions faster than Python sees them leaves one note, of the last. */
static void note_life(struct vhostfs_handoff *handoff, enum vhostfs_handoff_kind kind, uint64_t value,
                      uint64_t extra)
{
    struct handoff_slot *last = handoff->newest != NO_SLOT ? &handoff->slots[handoff->newest] : NULL;
    bool unseen = last != NULL && last->request == NULL &&
                  (last->kind == VHOSTFS_HANDOFF_BEGIN || last->kind == VHOSTFS_HANDOFF_END);
    if (!unseen) {
        note(handoff, kind, value, extra);
        return;
    }
    last->kind = (uint16_t)kind;
    last->value = value;
    last->extra = extra;
}

static void free_copies(struct request *requests)
{
    while (requests != NULL) {
        struct request *request = requests;
        requests = request->next;
        request_free(request);
    }
}

/* ---- From the rings ---- */

static int submit(struct filesystem *filesystem, struct request *request)
{
    struct vhostfs_handoff *handoff = handoff_of(filesystem);
    pthread_mutex_lock(&handoff->lock);
    int error = handoff->closed ? -EIO : 0;
    struct handoff_slot *slot = NULL;
    if (error == 0) {
        bool ends = request->in.opcode == FUSE_DESTROY;
        slot = append(handoff, ends ? VHOSTFS_HANDOFF_END : VHOSTFS_HANDOFF_REQUEST);
        error = slot == NULL ? -ENOMEM : 0;
    }
    if (slot != NULL)
        slot->request = request;
    bool first = error == 0 && wakes(handoff);
    pthread_mutex_unlock(&handoff->lock);
    if (first)
        wake(handoff);
    return error;
}

static void submit_copy(struct filesystem *filesystem, const struct request *request)
{
    struct vhostfs_handoff *handoff = handoff_of(filesystem);
    pthread_mutex_lock(&handoff->lock);
    bool crowded = handoff->copies >= MOST_COPIES;
    handoff->copies += !crowded;
    pthread_mutex_unlock(&handoff->lock);
    if (crowded)
        return;
    struct request *copy = request_detach(request);
    if (copy != NULL) {
        copy->complete = free_copies;
        copy->source = NULL;
        if (submit(filesystem, copy) == 0)
            return;
        request_free(copy);
    }
    pthread_mutex_lock(&handoff->lock);
    handoff->copies--;
    pthread_mutex_unlock(&handoff->lock);
}

/* What is handed over is detached; nothing was done with it yet. */
static int32_t hand_over(struct request *request)
{
    (void)request;
    return REQUEST_WOULD_SLEEP;
}

/* A source is to be stopped: blocking locks at once, all else after some grace. */
static void cancel(struct filesystem *filesystem, const void *source, bool all)
{
    struct vhostfs_handoff *handoff = handoff_of(filesystem);
    pthread_mutex_lock(&handoff->lock);
    uint32_t count = handoff->slot_count; /* notes of cancellation come behind */
    bool any = false;
    for (uint32_t i = 0; i < count; i++) {
        struct handoff_slot *slot = &handoff->slots[i];
        const struct request *request = slot->request;
        if (request == NULL || request->source != source || slot->cancelled || slot->answered)
            continue;
        if (!all && request->in.opcode != FUSE_SETLKW)
            continue;
        slot->cancelled = true;
        any = true;
        if (!fuse_is_unanswered(request->in.opcode))
            note(handoff, VHOSTFS_HANDOFF_CANCEL, token_of(handoff, slot), 0);
    }
    bool first = any && wakes(handoff);
    pthread_mutex_unlock(&handoff->lock);
    if (first)
        wake(handoff);
}

/* Hand requests back, each to its source. */
static void complete_each(struct request *requests, int32_t result)
{
    while (requests != NULL) {
        struct request *request = requests;
        requests = request->next;
        request->next = NULL;
        request->result = fuse_is_unanswered(request->in.opcode) ? REQUEST_NO_REPLY : result;
        request->complete(request);
    }
}

void handoff_refuse(struct request *requests)
{
    complete_each(requests, -EIO);
}

struct request *handoff_take_back(struct handoff_slot *slot)
{
    struct request *request = slot->request;
    slot->request = NULL;
    slot->answered = true;
    if (slot->taken) {
        slot->kept = request->memory;
        memory_table_get(slot->kept);
    } else {
        slot->kind = VHOSTFS_HANDOFF_CANCEL;
        slot->value = slot->extra = 0;
    }
    return request;
}

/* All requests of a source, or of any where source is NULL, that no thread moves data for. */
static void give_up(struct filesystem *filesystem, const void *source)
{
    struct vhostfs_handoff *handoff = handoff_of(filesystem);
    struct request *given_up = NULL;
    pthread_mutex_lock(&handoff->lock);
    for (uint32_t i = 0; i < handoff->slot_count; i++) {
        struct handoff_slot *slot = &handoff->slots[i];
        if (slot->request == NULL || slot->answered || slot->users > 0)
            continue;
        if (source != NULL && slot->request->source != source)
            continue;
        struct request *request = handoff_take_back(slot);
        request->next = given_up;
        given_up = request;
    }
    pthread_mutex_unlock(&handoff->lock);
    handoff_refuse(given_up);
}

/* Read what was written to the eventfd. Whether more is to come. Under the lock. */
static bool read_writes(struct vhostfs_handoff *handoff)
{
    eventfd_t written = 0;
    if (handoff->writes > 0 && eventfd_read(handoff->wake_fd, &written) == 0)
        handoff->writes -= (uint32_t)written;
    return handoff->writes > 0;
}

/* Close the eventfd when the last who was about to write to it has done so: from now on nobody begins to. */
static void close_eventfd(struct vhostfs_handoff *handoff)
{
    struct pollfd poll_fd = {.fd = handoff->wake_fd, .events = POLLIN};
    if (poll_fd.fd < 0)
        return;
    pthread_mutex_lock(&handoff->lock);
    while (read_writes(handoff)) {
        pthread_mutex_unlock(&handoff->lock);
        poll(&poll_fd, 1, -1);
        pthread_mutex_lock(&handoff->lock);
    }
    handoff->wake_fd = -1;
    pthread_mutex_unlock(&handoff->lock);
    close(poll_fd.fd);
}

void vhostfs_handoff_close(vhostfs_handoff *handoff)
{
    pthread_mutex_lock(&handoff->lock);
    handoff->closed = true;
    pthread_mutex_unlock(&handoff->lock);
    close_eventfd(handoff);
    vhostfs_handoff_flush(handoff);
    give_up(&handoff->filesystem, NULL);
}

/* ---- The session's life ---- */

static void begin(struct filesystem *filesystem, uint64_t flags)
{
    struct vhostfs_handoff *handoff = handoff_of(filesystem);
    pthread_mutex_lock(&handoff->lock);
    if (!handoff->closed)
        note_life(handoff, VHOSTFS_HANDOFF_BEGIN, flags, handoff->session->beginning_minor);
    bool first = wakes(handoff);
    pthread_mutex_unlock(&handoff->lock);
    if (first)
        wake(handoff);
}

static void end(struct filesystem *filesystem)
{
    struct vhostfs_handoff *handoff = handoff_of(filesystem);
    pthread_mutex_lock(&handoff->lock);
    if (!handoff->closed)
        note_life(handoff, VHOSTFS_HANDOFF_END, 0, 0);
    bool first = wakes(handoff);
    pthread_mutex_unlock(&handoff->lock);
    if (first)
        wake(handoff);
}

/* No thread is left that could ask, and Python takes no more. */
static void destroy(struct filesystem *filesystem)
{
    struct vhostfs_handoff *handoff = handoff_of(filesystem);
    for (uint32_t i = 0; i < handoff->slot_count; i++)
        memory_table_put(handoff->slots[i].kept);
    free(handoff->slots);
    if (handoff->wake_fd >= 0)
        close(handoff->wake_fd);
    pthread_mutex_destroy(&handoff->lock);
    free(handoff);
}

int handoff_create(struct session *session, uint16_t mount, uint64_t opcodes,
                   struct vhostfs_handoff **handoff)
{
    struct vhostfs_handoff *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return -ENOMEM;
    made->filesystem = (struct filesystem){.operations = made->operations,
                                           .begin = begin,
                                           .end = end,
                                           .submit = submit,
                                           .submit_copy = submit_copy,
                                           .cancel = cancel,
                                           .give_up = give_up,
                                           .destroy = destroy};
    for (uint32_t opcode = 0; opcode < FUSE_OPCODES; opcode++) {
        if ((opcodes >> opcode & 1) != 0)
            made->operations[opcode] = hand_over;
    }
    made->session = session;
    made->mount = mount;
    made->first_free = made->oldest = made->newest = NO_SLOT;
    pthread_mutex_init(&made->lock, NULL);
    made->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (made->wake_fd < 0 || !grow(made)) {
        int error = made->wake_fd < 0 ? -errno : -ENOMEM;
        destroy(&made->filesystem);
        return error;
    }
    *handoff = made;
    return 0;
}

/* ---- Taking ---- */

int vhostfs_handoff_fd(const vhostfs_handoff *handoff)
{
    return handoff->wake_fd;
}

/* Write a request's record with its bytes. Their size; 0 where they do not fit. */
static size_t write_request(uint8_t *to, size_t size, const struct request *request,
                            struct vhostfs_handoff_record *record)
{
    size_t bytes = sizeof(request->in) + request->arguments_size;
    size_t whole = (sizeof(*record) + bytes + 7) & ~(size_t)7;
    if (whole > size)
        return 0;
    record->size = (uint32_t)bytes;
    record->room = reply_room(request);
    record->data = request->in.len - request->readable_position;
    memcpy(to, record, sizeof(*record));
    memcpy(to + sizeof(*record), &request->in, sizeof(request->in));
    memcpy(to + sizeof(*record) + sizeof(request->in), request->arguments, request->arguments_size);
    return whole;
}

/* Write the record of the oldest slot and take it off the list, under the lock. Bytes; 0 where they do not fit. What gets
 * no answer is handed back by `unanswered`. */
static size_t take_one(struct vhostfs_handoff *handoff, uint8_t *to, size_t size, struct request **unanswered)
{
    struct handoff_slot *slot = &handoff->slots[handoff->oldest];
    struct request *request = slot->request;
    struct vhostfs_handoff_record record = {.kind = slot->kind, .token = slot->value, .room = slot->extra};
    bool answered = request != NULL && !fuse_is_unanswered(request->in.opcode);
    size_t used = sizeof(record);
    if (request != NULL) {
        record.token = answered ? token_of(handoff, slot) : 0;
        used = write_request(to, size, request, &record);
    } else if (size >= sizeof(record)) {
        memcpy(to, &record, sizeof(record));
    } else {
        used = 0;
    }
    if (used == 0)
        return 0;
    handoff->oldest = slot->next;
    if (handoff->oldest == NO_SLOT)
        handoff->newest = NO_SLOT;
    slot->taken = true;
    if (request != NULL && !answered) {
        request->next = *unanswered;
        *unanswered = request;
        handoff->copies -= request->complete == free_copies;
    }
    if (!answered)
        handoff_free_slot(handoff, slot);
    return used;
}

/* Fill a buffer, under the lock. Bytes used; what gets no answer is handed back by `unanswered`. */
static size_t take_locked(struct vhostfs_handoff *handoff, uint8_t *buffer, size_t size, uint32_t most,
                          struct request **unanswered)
{
    size_t used = 0;
    for (uint32_t taken = 0; taken < most && handoff->oldest != NO_SLOT; taken++) {
        size_t step = take_one(handoff, buffer + used, size - used, unanswered);
        if (step == 0)
            break;
        used += step;
    }
    if (handoff->oldest == NO_SLOT) {
        handoff->woken = false;
        /* A submitter may come to its write only after all was taken: it is read then. */
        read_writes(handoff);
    }
    return used;
}

int64_t vhostfs_handoff_take(vhostfs_handoff *handoff, uint8_t *buffer, size_t size, uint32_t most)
{
    if (size < LARGEST_RECORD)
        return -EINVAL;
    struct request *unanswered = NULL;
    pthread_mutex_lock(&handoff->lock);
    size_t used = take_locked(handoff, buffer, size, most, &unanswered);
    pthread_mutex_unlock(&handoff->lock);
    complete_each(unanswered, REQUEST_NO_REPLY);
    return (int64_t)used;
}

bool handoff_attend(struct vhostfs_handoff *handoff)
{
    pthread_mutex_lock(&handoff->lock);
    handoff->attended = true;
    bool waits = handoff->oldest != NO_SLOT;
    pthread_mutex_unlock(&handoff->lock);
    return waits;
}

int64_t handoff_take_attended(struct vhostfs_handoff *handoff, uint8_t *buffer, size_t size, uint32_t most)
{
    if (size < LARGEST_RECORD)
        return -EINVAL;
    struct request *unanswered = NULL;
    pthread_mutex_lock(&handoff->lock);
    size_t used = take_locked(handoff, buffer, size, most, &unanswered);
    handoff->attended = false;
    bool left = handoff->oldest != NO_SLOT && wakes(handoff);
    pthread_mutex_unlock(&handoff->lock);
    if (left)
        wake(handoff);
    complete_each(unanswered, REQUEST_NO_REPLY);
    return (int64_t)used;
}
