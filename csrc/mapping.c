/* Mapped ranges; the contract is in mapping.h. */
#include "mapping.h"
#include "sigbus.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Huge pages: the offset and the length of mmap and munmap have to be multiples of them. */
static int alignment_of(int fd, uint64_t *alignment)
{
    *alignment = (uint64_t)sysconf(_SC_PAGESIZE);
    struct statfs filesystem;
    if (fstatfs(fd, &filesystem) != 0)
        return -errno;
    if (filesystem.f_type == HUGETLBFS_MAGIC && filesystem.f_bsize > 0)
        *alignment = (uint64_t)filesystem.f_bsize;
    return 0;
}

/* Refuse early what would only be found by SIGBUS. */
static int check_size(int fd, uint64_t end)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return -errno;
    if (S_ISREG(status.st_mode) && (status.st_size < 0 || end > (uint64_t)status.st_size))
        return -EINVAL;
    return 0;
}

int mapping_create(int fd, uint64_t offset, uint64_t size, struct mapping **mapping)
{
    if (size == 0 || size > PTRDIFF_MAX || offset > PTRDIFF_MAX - size)
        return -EINVAL;
    uint64_t alignment = 0;
    int error = alignment_of(fd, &alignment);
    if (error == 0)
        error = check_size(fd, offset + size);
    if (error != 0)
        return error;
    uint64_t from = offset - offset % alignment;
    uint64_t length = offset + size - from;
    length += (alignment - length % alignment) % alignment;
    struct mapping *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return -ENOMEM;
    void *base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)from);
    if (base == MAP_FAILED) {
        error = -errno;
        goto no_mapping;
    }
    madvise(base, length, MADV_DONTDUMP);
    made->range = sigbus_register(base, length);
    if (made->range == NULL) {
        error = -ENOMEM;
        goto no_range;
    }
    atomic_init(&made->references, 1);
    made->base = base;
    made->length = length;
    made->start = (uint8_t *)base + (offset - from);
    *mapping = made;
    return 0;
no_range:
    munmap(base, length);
no_mapping:
    free(made);
    return error;
}

void mapping_get(struct mapping *mapping)
{
    atomic_fetch_add_explicit(&mapping->references, 1, memory_order_relaxed);
}

void mapping_put(struct mapping *mapping)
{
    if (atomic_fetch_sub_explicit(&mapping->references, 1, memory_order_acq_rel) != 1)
        return;
    sigbus_unregister(mapping->range);
    munmap(mapping->base, mapping->length);
    free(mapping);
}

bool mapping_gone(const struct mapping *mapping)
{
    return sigbus_gone(mapping->range);
}
