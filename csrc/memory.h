/* The guest's memory: regions mapped from the front-end's descriptors, and the dirty log.
 *
 * A table is immutable and counted; changing a region publishes a new one. A queue thread holds a reference to the table
 * it translates with, a detached request one of its own, so a mapping outlives every pointer into it.
 */
#pragma once
#include "core.h"
#include <stdbool.h>
#include <stddef.h>

struct memory_table;

void memory_table_get(struct memory_table *table);
void memory_table_put(struct memory_table *table); /* NULL is fine */
/* Host address of guest-physical bytes; `length` (in: wanted) becomes what is contiguous there. NULL: unmapped. */
void *memory_translate(const struct memory_table *table, uint64_t guest_address, size_t *length);
/* Host address of `size` bytes at an address of the front-end's own (rings). NULL: not in one region. */
void *memory_translate_user(const struct memory_table *table, uint64_t user_address, size_t size);
/* Mark the pages that hold these host bytes as written, where a log is set. */
void memory_mark_dirty(struct memory_table *table, const void *host, size_t size);
