/* One range of a descriptor's file, mapped shared: guest memory, or the dirty log. Counted, watched for
 * SIGBUS. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sigbus_range;

struct mapping {
    _Atomic uint32_t references;
    void *base; /* as mapped: aligned down to a page, or a huge page */
    size_t length;
    uint8_t *start; /* of the bytes that were asked for */
    struct sigbus_range *range;
};

/* Map `size` bytes from `offset` on, any alignment. -EINVAL: nothing, wraps, or beyond the end of a regular
 * file; else what mmap says (-EACCES: not open for writing). The descriptor stays the caller's and is not
 * needed afterwards. */
int mapping_create(int fd, uint64_t offset, uint64_t size, struct mapping **mapping);
void mapping_get(struct mapping *mapping);
void mapping_put(struct mapping *mapping);
/* Its file was cut short under it; what is there now is anonymous memory. */
bool mapping_gone(const struct mapping *mapping);
