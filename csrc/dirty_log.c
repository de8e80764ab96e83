/* The dirty log; the contract is in dirty_log.h. */
#include "dirty_log.h"
#include "mapping.h"

#include <stddef.h>

void dirty_log_init(struct dirty_log *log)
{
    pthread_rwlock_init(&log->lock, NULL);
    log->mapping = NULL;
    log->size = 0;
    atomic_init(&log->log_writes, false);
}

void dirty_log_destroy(struct dirty_log *log)
{
    if (log->mapping != NULL)
        mapping_put(log->mapping);
    pthread_rwlock_destroy(&log->lock);
}

int dirty_log_set(struct dirty_log *log, int fd, uint64_t size, uint64_t offset)
{
    struct mapping *mapping = NULL;
    if (fd >= 0) {
        int error = mapping_create(fd, offset, size, &mapping);
        if (error != 0)
            return error;
    }
    pthread_rwlock_wrlock(&log->lock);
    struct mapping *old = log->mapping;
    log->mapping = mapping;
    log->size = mapping != NULL ? size : 0;
    pthread_rwlock_unlock(&log->lock);
    if (old != NULL)
        mapping_put(old);
    return 0;
}

void dirty_log_mark(struct dirty_log *log, uint64_t guest_address, uint64_t size)
{
    if (size == 0 || size - 1 > UINT64_MAX - guest_address)
        return;
    uint64_t page = guest_address / DIRTY_LOG_PAGE;
    uint64_t last = (guest_address + (size - 1)) / DIRTY_LOG_PAGE;
    pthread_rwlock_rdlock(&log->lock);
    if (log->mapping != NULL) {
        _Atomic uint8_t *bytes = (_Atomic uint8_t *)log->mapping->start;
        for (; page <= last && page / 8 < log->size; page++)
            atomic_fetch_or_explicit(&bytes[page / 8], (uint8_t)(1U << (page % 8)), memory_order_relaxed);
    }
    pthread_rwlock_unlock(&log->lock);
}

bool dirty_log_gone(struct dirty_log *log)
{
    pthread_rwlock_rdlock(&log->lock);
    bool gone = log->mapping != NULL && mapping_gone(log->mapping);
    pthread_rwlock_unlock(&log->lock);
    return gone;
}
