/* Memory tables; the contracts are in memory.h. */
#include "memory.h"
#include "dirty_log.h"
#include "mapping.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct memory_table *allocate(struct dirty_log *log, uint32_t count)
{
    struct memory_table *table = calloc(1, sizeof(*table) + count * sizeof(table->regions[0]));
    if (table == NULL)
        return NULL;
    atomic_init(&table->references, 1);
    table->log = log;
    return table;
}

struct memory_table *memory_table_create(struct dirty_log *log)
{
    return allocate(log, 0);
}

void memory_table_get(struct memory_table *table)
{
    if (table != NULL)
        atomic_fetch_add_explicit(&table->references, 1, memory_order_relaxed);
}

void memory_table_put(struct memory_table *table)
{
    if (table == NULL || atomic_fetch_sub_explicit(&table->references, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < table->count; i++)
        mapping_put(table->regions[i].mapping);
    free(table);
}

static int check_region(const struct vhostfs_region *region)
{
    uint64_t last = region->size - 1;
    if (region->size == 0 || region->guest_address > UINT64_MAX - last ||
        region->user_address > UINT64_MAX - last)
        return -EINVAL;
    return 0;
}

static bool overlaps(const struct memory_region *one, const struct vhostfs_region *other)
{
    return one->guest_address <= other->guest_address + (other->size - 1) &&
           other->guest_address <= one->guest_address + (one->size - 1);
}

/* Map a region into its sorted place of a table that has room for it and that nobody else sees yet. */
static int insert(struct memory_table *table, const struct vhostfs_region *region)
{
    int error = check_region(region);
    if (error != 0)
        return error;
    uint32_t place = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        if (overlaps(&table->regions[i], region))
            return -EEXIST;
        if (table->regions[i].guest_address < region->guest_address)
            place = i + 1;
    }
    struct mapping *mapping = NULL;
    error = mapping_create(region->fd, region->offset, region->size, &mapping);
    if (error != 0)
        return error;
    memmove(&table->regions[place + 1], &table->regions[place],
            (table->count - place) * sizeof(table->regions[0]));
    table->regions[place] = (struct memory_region){
        .guest_address = region->guest_address,
        .size = region->size,
        .user_address = region->user_address,
        .host = mapping->start,
        .mapping = mapping,
    };
    table->count++;
    return 0;
}

static void append(struct memory_table *table, const struct memory_region *region)
{
    mapping_get(region->mapping);
    table->regions[table->count++] = *region;
}

int memory_table_add(const struct memory_table *table, const struct vhostfs_region *region,
                     struct memory_table **changed)
{
    if (table->count >= MEMORY_REGIONS)
        return -ENOSPC;
    struct memory_table *made = allocate(table->log, table->count + 1);
    if (made == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < table->count; i++)
        append(made, &table->regions[i]);
    int error = insert(made, region);
    if (error != 0) {
        memory_table_put(made);
        return error;
    }
    *changed = made;
    return 0;
}

static bool same_region(const struct memory_region *one, const struct vhostfs_region *other)
{
    return one->guest_address == other->guest_address && one->size == other->size &&
           one->user_address == other->user_address;
}

int memory_table_remove(const struct memory_table *table, const struct vhostfs_region *region,
                        struct memory_table **changed)
{
    struct memory_table *made = allocate(table->log, table->count);
    if (made == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < table->count; i++) {
        if (!same_region(&table->regions[i], region))
            append(made, &table->regions[i]);
    }
    if (made->count == table->count) {
        memory_table_put(made);
        return -ENOENT;
    }
    *changed = made;
    return 0;
}

int memory_table_replace(const struct memory_table *table, const struct vhostfs_region *regions,
                         uint32_t count, struct memory_table **changed)
{
    if (count > MEMORY_REGIONS)
        return -ENOSPC;
    struct memory_table *made = allocate(table->log, count);
    if (made == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++) {
        int error = insert(made, &regions[i]);
        if (error != 0) {
            memory_table_put(made);
            return error;
        }
    }
    *changed = made;
    return 0;
}

bool memory_table_gone(const struct memory_table *table)
{
    for (uint32_t i = 0; i < table->count; i++) {
        if (mapping_gone(table->regions[i].mapping))
            return true;
    }
    return dirty_log_gone(table->log);
}

uint32_t memory_find(const struct memory_table *table, uint64_t guest_address)
{
    uint32_t low = 0;
    uint32_t high = table->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct memory_region *region = &table->regions[middle];
        if (guest_address < region->guest_address)
            high = middle;
        else if (guest_address - region->guest_address >= region->size)
            low = middle + 1;
        else
            return middle;
    }
    return table->count;
}

void *memory_translate(const struct memory_table *table, uint64_t guest_address, size_t *length)
{
    uint32_t near = table->count;
    return memory_translate_near(table, &near, guest_address, length);
}

void *memory_translate_user(const struct memory_table *table, uint64_t user_address, size_t size)
{
    for (uint32_t i = 0; i < table->count; i++) {
        const struct memory_region *region = &table->regions[i];
        uint64_t offset = user_address - region->user_address;
        if (offset < region->size && size <= region->size - offset)
            return region->host + offset;
    }
    return NULL;
}

/* The region whose mapped bytes hold a host address; NULL: none. */
static const struct memory_region *find_host(const struct memory_table *table, uintptr_t host)
{
    for (uint32_t i = 0; i < table->count; i++) {
        if (host - (uintptr_t)table->regions[i].host < table->regions[i].size)
            return &table->regions[i];
    }
    return NULL;
}

void memory_mark_dirty(struct memory_table *table, const void *host, size_t size)
{
    uintptr_t at = (uintptr_t)host;
    /* A vector may cross from one region into the next where the host has them side by side. */
    while (size > 0) {
        const struct memory_region *region = find_host(table, at);
        if (region == NULL)
            return;
        uint64_t offset = at - (uintptr_t)region->host;
        size_t step = size < region->size - offset ? size : region->size - offset;
        dirty_log_mark(table->log, region->guest_address + offset, step);
        at += step;
        size -= step;
    }
}
