/* The guest's memory: regions mapped from the front-end's descriptors, and the dirty log.
 *
 * A table is immutable and counted; changing a region publishes a new one. A queue thread holds a reference
 * to the table it translates with, a detached request one of its own, so a mapping outlives every pointer
 * into it.
 */
#pragma once
#include "core.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct dirty_log;
struct mapping;

/* More than any front-end's slots (QEMU: 512). */
#define MEMORY_REGIONS 1024

struct memory_region {
    uint64_t guest_address;
    uint64_t size;
    uint64_t user_address;
    uint8_t *host; /* of guest_address */
    struct mapping *mapping;
};

struct memory_table {
    _Atomic uint32_t references;
    uint32_t count;
    struct dirty_log *log;          /* the device's; outlives its tables */
    struct memory_region regions[]; /* by guest address, without overlap */
};

/* A table without regions. NULL: no memory. */
struct memory_table *memory_table_create(struct dirty_log *log);
/* A new table: that one and a region more, or one less, or these regions alone. 0 and a table that the caller
 * owns, or -EINVAL (size 0 or wraps, beyond the end of the file), -EEXIST (overlaps a region), -ENOENT (no
 * such region), -ENOSPC (more than MEMORY_REGIONS), -ENOMEM, or what mmap says. */
int memory_table_add(const struct memory_table *table, const struct vhostfs_region *region,
                     struct memory_table **changed);
int memory_table_remove(const struct memory_table *table, const struct vhostfs_region *region,
                        struct memory_table **changed);
int memory_table_replace(const struct memory_table *table, const struct vhostfs_region *regions,
                         uint32_t count, struct memory_table **changed);

void memory_table_get(struct memory_table *table); /* NULL is fine, for both */
void memory_table_put(struct memory_table *table);
/* Some of it, or the dirty log, has vanished (SIGBUS was repaired). */
bool memory_table_gone(const struct memory_table *table);
/* Host address of guest-physical bytes; `length` (in: wanted) becomes what is contiguous there. NULL:
 * unmapped. */
void *memory_translate(const struct memory_table *table, uint64_t guest_address, size_t *length);
/* Host address of `size` bytes at an address of the front-end's own (rings). NULL: not in one region. */
void *memory_translate_user(const struct memory_table *table, uint64_t user_address, size_t size);
/* Mark the pages that hold these host bytes as written, where a log is set. */
void memory_mark_dirty(struct memory_table *table, const void *host, size_t size);

/* Index of the region that holds an address; the count where none does. */
uint32_t memory_find(const struct memory_table *table, uint64_t guest_address);
/* memory_translate that looks first at the region of the last call, whose index the caller keeps. */
static inline void *memory_translate_near(const struct memory_table *table, uint32_t *near,
                                          uint64_t guest_address, size_t *length)
{
    if (*near >= table->count ||
        guest_address - table->regions[*near].guest_address >= table->regions[*near].size) {
        *near = memory_find(table, guest_address);
        if (*near >= table->count)
            return NULL;
    }
    const struct memory_region *region = &table->regions[*near];
    uint64_t offset = guest_address - region->guest_address;
    if (*length > region->size - offset)
        *length = region->size - offset;
    return region->host + offset;
}
