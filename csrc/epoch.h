/* Epochs: what one thread takes out of a table is freed only when no other can still be looking at it.
 *
 * A reader (a queue thread, a pool thread) enters once per batch of requests and leaves before it sleeps; in
 * between it may use any node or handle that it finds, without a lock and without writing to memory that
 * others read. Who unlinks an object retires it; its release function runs when every reader that was inside
 * at that time has left.
 */
#pragma once
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Embedded in what is to be freed late. */
struct epoch_retired {
    struct epoch_retired *next;
    uint64_t epoch;
    /* Frees the object; runs without any lock, on whichever thread reclaims. False: still pinned, ask again
     * later. */
    bool (*release)(struct epoch_retired *retired);
};

struct epoch_reader {
    alignas(64) _Atomic uint64_t entered; /* the epoch at entry; 0: outside */
    struct epoch_reader *next;
};

/* Objects that wait to be freed before nothing more is begun: some 30 MB of nodes and names. */
#define EPOCH_BACKLOG 131072

struct epoch_domain {
    alignas(64) _Atomic uint64_t current;
    _Atomic bool waiting;              /* something is retired: leaving readers try to reclaim */
    _Atomic uint64_t backlog;          /* how much; written under lock */
    _Atomic uint64_t descriptors;      /* among that, of nodes that gave them up; counted by their owner */
    uint64_t most_backlog;             /* EPOCH_BACKLOG; set before there are readers */
    _Atomic uint64_t most_descriptors; /* the sum of what their owners may have waiting */
    alignas(64) pthread_mutex_t lock;
    struct epoch_reader *readers; /* under lock */
    struct epoch_retired *oldest; /* under lock; oldest first */
    struct epoch_retired *newest;
};

void epoch_domain_init(struct epoch_domain *domain);
/* All readers must have been removed. Releases what is left. */
void epoch_domain_destroy(struct epoch_domain *domain);

/* A reader belongs to one thread, which alone enters and leaves. */
void epoch_add_reader(struct epoch_domain *domain, struct epoch_reader *reader);
void epoch_remove_reader(struct epoch_domain *domain, struct epoch_reader *reader);
void epoch_enter(struct epoch_domain *domain, struct epoch_reader *reader);
void epoch_leave(struct epoch_domain *domain, struct epoch_reader *reader);

/* Outside, where epoch_crowded says so: reclaim what can be, and sleep for a moment where that was too little. */
void epoch_wait_for_readers(struct epoch_domain *domain);

/* True where so much waits for a reader that is still inside (in a lookup that the host does not answer) that
 * who would begin something should wait, outside: what is retired meanwhile stays as long as that reader. */
static inline bool epoch_crowded(const struct epoch_domain *domain)
{
    return atomic_load_explicit(&domain->backlog, memory_order_relaxed) > domain->most_backlog ||
           atomic_load_explicit(&domain->descriptors, memory_order_relaxed) >
               atomic_load_explicit(&domain->most_descriptors, memory_order_relaxed);
}

/* The object must be unreachable for readers that enter from now on. May be called inside or outside. */
void epoch_retire(struct epoch_domain *domain, struct epoch_retired *retired,
                  bool (*release)(struct epoch_retired *retired));
/* Release everything, also what releasing retires in turn. No reader may be left, and nothing pinned. */
void epoch_drain(struct epoch_domain *domain);
/* Release what no reader can see any more, also what that lets go in turn: afterwards nobody may come by for
 * hours. */
void epoch_reclaim(struct epoch_domain *domain);
