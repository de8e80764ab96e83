/* Handles: what the guest has open; the contract is in handles.h. */
#define _GNU_SOURCE 1
#include "passthrough.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* Slots lie in chunks, each twice as large as the one before: found by number with one shift. */
#define FIRST_CHUNK 64U
#define CHUNKS 20
/* Descriptors that the process keeps a mount for everything but nodes and handles, if its guest opens all it
 * can. */
#define DESCRIPTORS_RESERVED 64
#define HANDLES_AT_LEAST 16

/* What all mounts of the process have set aside, so that no guest's open files starve another's nodes. */
static _Atomic uint64_t mounts;
static _Atomic uint64_t set_aside;

struct handle_slot {
    _Atomic(struct handle *) handle;
    uint32_t generation; /* of the last fh given out; under the table's lock */
    uint32_t next_free;
};

struct handle_table {
    struct passthrough *share;
    pthread_mutex_t lock;
    _Atomic(struct handle_slot *) chunks[CHUNKS];
    _Atomic uint32_t used; /* slots below were given out at least once; the first is never */
    uint32_t free;         /* under lock: the first free slot, 0: none */
    uint32_t open; /* descriptors counted: of handles, until they are closed, and lock owners; under lock */
    uint64_t process_limit; /* descriptors that the process may have */
};

static struct handle_slot *slot_at(struct handle_table *table, uint32_t number)
{
    if (number == 0 || number >= atomic_load_explicit(&table->used, memory_order_acquire))
        return NULL;
    uint32_t position = number + FIRST_CHUNK;
    uint32_t chunk = 31U - (uint32_t)__builtin_clz(position) - (uint32_t)__builtin_ctz(FIRST_CHUNK);
    return &atomic_load_explicit(&table->chunks[chunk],
                                 memory_order_acquire)[position - (FIRST_CHUNK << chunk)];
}

/* Most handles of a mount: its part of what the process may open and the mounts have not set aside. */
static uint64_t handle_limit(const struct handle_table *table)
{
    uint64_t aside = atomic_load_explicit(&set_aside, memory_order_relaxed);
    uint64_t left = table->process_limit > aside ? table->process_limit - aside : 0;
    uint64_t part = left / atomic_load_explicit(&mounts, memory_order_relaxed);
    return part > HANDLES_AT_LEAST ? part : HANDLES_AT_LEAST;
}

/* Under the lock: make one more slot. Its number, or 0: no memory. */
static uint32_t fresh_slot(struct handle_table *table)
{
    uint32_t number = atomic_load_explicit(&table->used, memory_order_relaxed);
    uint32_t position = number + FIRST_CHUNK;
    uint32_t chunk = 31U - (uint32_t)__builtin_clz(position) - (uint32_t)__builtin_ctz(FIRST_CHUNK);
    if (chunk >= CHUNKS)
        return 0;
    if (atomic_load_explicit(&table->chunks[chunk], memory_order_relaxed) == NULL) {
        struct handle_slot *slots = calloc((size_t)FIRST_CHUNK << chunk, sizeof(*slots));
        if (slots == NULL)
            return 0;
        atomic_store_explicit(&table->chunks[chunk], slots, memory_order_release);
    }
    atomic_store_explicit(&table->used, number + 1, memory_order_release);
    return number;
}

bool handle_count_descriptor(struct handle_table *table)
{
    pthread_mutex_lock(&table->lock);
    bool room = table->open < handle_limit(table);
    table->open += room;
    pthread_mutex_unlock(&table->lock);
    return room;
}

bool handle_has_room(struct handle_table *table)
{
    pthread_mutex_lock(&table->lock);
    bool room = table->open < handle_limit(table);
    pthread_mutex_unlock(&table->lock);
    return room;
}

void handle_discount_descriptor(struct handle_table *table)
{
    pthread_mutex_lock(&table->lock);
    table->open--;
    pthread_mutex_unlock(&table->lock);
}

/* Give the handle, whose descriptor is counted, a slot and its fh. 0 or -ENOMEM. */
static int publish(struct handle_table *table, struct handle *handle)
{
    pthread_mutex_lock(&table->lock);
    uint32_t number = table->free;
    if (number != 0)
        table->free = slot_at(table, number)->next_free;
    else
        number = fresh_slot(table);
    if (number != 0) {
        struct handle_slot *slot = slot_at(table, number);
        slot->generation++;
        handle->fh = (uint64_t)slot->generation << 32 | number;
        atomic_store_explicit(&slot->handle, handle, memory_order_release);
    }
    pthread_mutex_unlock(&table->lock);
    return number != 0 ? 0 : -ENOMEM;
}

static void give_slot_back(struct handle_table *table, uint32_t number)
{
    pthread_mutex_lock(&table->lock);
    slot_at(table, number)->next_free = table->free;
    table->free = number;
    pthread_mutex_unlock(&table->lock);
}

static void free_handle(struct handle *handle)
{
    close(handle->fd);
    handle_discount_descriptor(handle->table);
    pthread_mutex_destroy(&handle->stream.lock);
    free(handle->stream.buffer);
    free(handle);
}

static bool release_handle(struct epoch_retired *retired)
{
    struct handle *handle = (struct handle *)(void *)retired;
    /* Acquire, pairs with the release in request_finish. */
    if (atomic_load_explicit(&handle->pins, memory_order_acquire) != 0)
        return false;
    struct passthrough *share = handle->table->share;
    free_handle(handle);
    filesystem_released(&share->filesystem);
    return true;
}

_Static_assert(offsetof(struct handle, retired) == 0, "a handle starts with what is retired");

int handle_create(struct request *request, int fd, enum handle_kind kind, int flags, uint64_t nodeid,
                  uint64_t *fh)
{
    struct handle_table *table = passthrough_of(request)->handles;
    if (!handle_count_descriptor(table)) {
        close(fd);
        return -ENFILE;
    }
    struct handle *handle = calloc(1, sizeof(*handle));
    if (handle == NULL) {
        close(fd);
        handle_discount_descriptor(table);
        return -ENOMEM;
    }
    handle->table = table;
    handle->kind = kind;
    handle->fd = fd;
    handle->flags = flags;
    handle->nodeid = nodeid;
    pthread_mutex_init(&handle->stream.lock, NULL);
    int error = publish(table, handle);
    if (error != 0) {
        free_handle(handle);
        return error;
    }
    *fh = handle->fh;
    return 0;
}

struct handle *handle_find(struct request *request, uint64_t fh, enum handle_kind kind)
{
    struct handle_slot *slot = slot_at(passthrough_of(request)->handles, (uint32_t)fh);
    if (slot == NULL)
        return NULL;
    struct handle *handle = atomic_load_explicit(&slot->handle, memory_order_acquire);
    if (handle == NULL || handle->fh != fh || handle->kind != (uint32_t)kind)
        return NULL;
    request_pin(request, &handle->pins);
    return handle;
}

int handle_any_descriptor(struct request *request, uint64_t nodeid)
{
    struct handle_table *table = passthrough_of(request)->handles;
    uint32_t used = atomic_load_explicit(&table->used, memory_order_acquire);
    for (uint32_t number = 1; number < used; number++) {
        const struct handle *handle =
            atomic_load_explicit(&slot_at(table, number)->handle, memory_order_acquire);
        if (handle != NULL && handle->nodeid == nodeid)
            return handle->fd;
    }
    return -1;
}

bool handle_close(struct request *request, uint64_t fh, enum handle_kind kind)
{
    struct handle_table *table = passthrough_of(request)->handles;
    struct handle_slot *slot = slot_at(table, (uint32_t)fh);
    if (slot == NULL)
        return false;
    struct handle *handle = atomic_load_explicit(&slot->handle, memory_order_acquire);
    if (handle == NULL || handle->fh != fh || handle->kind != (uint32_t)kind)
        return false;
    if (!atomic_compare_exchange_strong(&slot->handle, &handle, NULL))
        return false;
    give_slot_back(table, (uint32_t)fh);
    filesystem_retire(&table->share->filesystem, &request->session->epochs, &handle->retired, release_handle);
    return true;
}

int handle_table_create(struct passthrough *share, struct handle_table **result)
{
    struct handle_table *table = calloc(1, sizeof(*table));
    if (table == NULL)
        return -ENOMEM;
    table->share = share;
    struct rlimit limit;
    table->process_limit = getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : 0;
    atomic_fetch_add(&mounts, 1);
    atomic_fetch_add(&set_aside, share->options.descriptor_budget + DESCRIPTORS_RESERVED);
    atomic_init(&table->used, 1);
    pthread_mutex_init(&table->lock, NULL);
    *result = table;
    return 0;
}

void handle_table_end(struct handle_table *table)
{
    uint32_t used = atomic_load_explicit(&table->used, memory_order_acquire);
    for (uint32_t number = 1; number < used; number++) {
        struct handle *handle = atomic_exchange(&slot_at(table, number)->handle, NULL);
        if (handle == NULL)
            continue;
        give_slot_back(table, number);
        filesystem_retire(&table->share->filesystem, &table->share->session->epochs, &handle->retired,
                          release_handle);
    }
}

void handle_table_destroy(struct handle_table *table)
{
    atomic_fetch_sub(&mounts, 1);
    atomic_fetch_sub(&set_aside, table->share->options.descriptor_budget + DESCRIPTORS_RESERVED);
    for (size_t i = 0; i < CHUNKS; i++)
        free(atomic_load(&table->chunks[i]));
    pthread_mutex_destroy(&table->lock);
    free(table);
}
