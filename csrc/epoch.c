/* Epoch-based reclamation; the contract is in epoch.h. */
#define _GNU_SOURCE 1
#include "epoch.h"

#include <stddef.h>
#include <time.h>

/* How often it is looked whether readers that are held up have left. */
#define PAUSE_NANOSECONDS 1000000

void epoch_domain_init(struct epoch_domain *domain)
{
    atomic_init(&domain->current, 1);
    atomic_init(&domain->waiting, false);
    atomic_init(&domain->backlog, 0);
    atomic_init(&domain->descriptors, 0);
    domain->most_backlog = EPOCH_BACKLOG;
    atomic_init(&domain->most_descriptors, 0);
    pthread_mutex_init(&domain->lock, NULL);
    domain->readers = NULL;
    domain->oldest = NULL;
    domain->newest = NULL;
}

void epoch_domain_destroy(struct epoch_domain *domain)
{
    epoch_drain(domain);
    pthread_mutex_destroy(&domain->lock);
}

void epoch_add_reader(struct epoch_domain *domain, struct epoch_reader *reader)
{
    atomic_init(&reader->entered, 0);
    pthread_mutex_lock(&domain->lock);
    reader->next = domain->readers;
    domain->readers = reader;
    pthread_mutex_unlock(&domain->lock);
}

void epoch_remove_reader(struct epoch_domain *domain, struct epoch_reader *reader)
{
    pthread_mutex_lock(&domain->lock);
    struct epoch_reader **link = &domain->readers;
    while (*link != NULL && *link != reader)
        link = &(*link)->next;
    if (*link != NULL)
        *link = reader->next;
    pthread_mutex_unlock(&domain->lock);
}

void epoch_enter(struct epoch_domain *domain, struct epoch_reader *reader)
{
    uint64_t now = atomic_load_explicit(&domain->current, memory_order_acquire);
    atomic_store_explicit(&reader->entered, now, memory_order_relaxed);
    /* Barrier "seen before used", pairs with the one in epoch_retire: our entry is visible before we follow
     * any pointer, or we do not see the retired object at all. */
    atomic_thread_fence(memory_order_seq_cst);
}

void epoch_leave(struct epoch_domain *domain, struct epoch_reader *reader)
{
    atomic_store_explicit(&reader->entered, 0, memory_order_release);
    if (atomic_load_explicit(&domain->waiting, memory_order_relaxed))
        epoch_reclaim(domain);
}

/* Under the lock. */
static void count_backlog(struct epoch_domain *domain, uint64_t change)
{
    uint64_t backlog = atomic_load_explicit(&domain->backlog, memory_order_relaxed) + change;
    atomic_store_explicit(&domain->backlog, backlog, memory_order_relaxed);
}

void epoch_retire(struct epoch_domain *domain, struct epoch_retired *retired,
                  bool (*release)(struct epoch_retired *retired))
{
    retired->release = release;
    retired->next = NULL;
    /* Barrier "unlinked before counted", pairs with the one in epoch_enter. */
    atomic_thread_fence(memory_order_seq_cst);
    pthread_mutex_lock(&domain->lock);
    retired->epoch = atomic_fetch_add_explicit(&domain->current, 1, memory_order_acq_rel) + 1;
    if (domain->newest != NULL)
        domain->newest->next = retired;
    else
        domain->oldest = retired;
    domain->newest = retired;
    atomic_store_explicit(&domain->waiting, true, memory_order_relaxed);
    count_backlog(domain, 1);
    pthread_mutex_unlock(&domain->lock);
}

/* The oldest entry among readers inside; UINT64_MAX where there is none. Under the lock. */
static uint64_t oldest_entry(const struct epoch_domain *domain)
{
    uint64_t oldest = UINT64_MAX;
    for (const struct epoch_reader *reader = domain->readers; reader != NULL; reader = reader->next) {
        uint64_t entered = atomic_load_explicit(&reader->entered, memory_order_acquire);
        if (entered != 0 && entered < oldest)
            oldest = entered;
    }
    return oldest;
}

/* Take the retired objects that no reader can see off the list. */
static struct epoch_retired *take_unseen(struct epoch_domain *domain)
{
    pthread_mutex_lock(&domain->lock);
    atomic_thread_fence(memory_order_seq_cst);
    uint64_t limit = oldest_entry(domain);
    struct epoch_retired *taken = domain->oldest;
    struct epoch_retired *last = NULL;
    struct epoch_retired *next = taken;
    uint64_t count = 0;
    while (next != NULL && next->epoch <= limit) {
        last = next;
        next = next->next;
        count++;
    }
    count_backlog(domain, -count);
    if (last == NULL)
        taken = NULL;
    else
        last->next = NULL;
    domain->oldest = next;
    if (next == NULL)
        domain->newest = NULL;
    atomic_store_explicit(&domain->waiting, next != NULL, memory_order_relaxed);
    pthread_mutex_unlock(&domain->lock);
    return taken;
}

/* Release what no reader can see; what is pinned is retired again. Whether anything was released. */
static bool release_unseen(struct epoch_domain *domain)
{
    bool released = false;
    struct epoch_retired *retired = take_unseen(domain);
    while (retired != NULL) {
        struct epoch_retired *next = retired->next;
        if (retired->release(retired))
            released = true;
        else
            epoch_retire(domain, retired, retired->release);
        retired = next;
    }
    return released;
}

void epoch_reclaim(struct epoch_domain *domain)
{
    while (release_unseen(domain) && atomic_load_explicit(&domain->waiting, memory_order_relaxed))
        ;
}

void epoch_drain(struct epoch_domain *domain)
{
    while (atomic_load_explicit(&domain->waiting, memory_order_relaxed))
        epoch_reclaim(domain);
}

void epoch_wait_for_readers(struct epoch_domain *domain)
{
    static const struct timespec pause = {.tv_nsec = PAUSE_NANOSECONDS};
    epoch_reclaim(domain);
    if (epoch_crowded(domain))
        nanosleep(&pause, NULL);
}
