/* The guest's inside: its memory, its slots for requests, and what they share. */
#pragma once
#include "ring.h"

#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#define PAGE_SIZE 4096
#define BLOCK_MAX (1 << 20)
#define BLOCK_PAGES (BLOCK_MAX / PAGE_SIZE)
#define SLOTS_MAX 32
#define QUEUES_MAX 4
#define FORGETS 64
#define READDIR_SIZE 32768 /* what glibc asks for, and Linux passes on */

/* A place for one request, and the cycle that goes on in it. */
struct slot {
    uint16_t head;
    uint32_t number; /* among all slots of the workload */
    bool background;
    struct vring_descriptor *table;
    uint64_t table_address;
    uint8_t *request;
    uint64_t request_address;
    uint8_t *reply;
    uint64_t reply_address;
    uint8_t *pages[BLOCK_PAGES];
    uint64_t page_addresses[BLOCK_PAGES];

    const uint32_t *steps;
    uint32_t step_count;
    uint32_t step;
    bool busy;
    uint64_t unique;
    uint64_t offered_at;
    uint32_t page_bytes; /* that the request reads into its pages */
    /* What the cycle has come to. */
    uint64_t random;
    uint32_t file;
    uint64_t node;
    uint64_t handle;
    uint64_t cursor;  /* in a directory */
    uint32_t entries; /* of a directory, seen */
    uint64_t offset;  /* in a file of data */
    uint64_t forward;
    uint64_t made;
    uint32_t mode;
    uint8_t *listing; /* READDIR_SIZE, a reply's pages put together */
};

struct latencies {
    uint64_t counts[64 * 32];
    uint64_t worst;
};

struct guest {
    uint8_t *memory;
    uint64_t guest_address;
    uint64_t *free_pages; /* shuffled offsets */
    size_t free_count;
    struct ring rings[1 + QUEUES_MAX];
    uint32_t ring_count;
    struct slot slots[QUEUES_MAX][SLOTS_MAX];
    uint64_t next_unique;
    /* FORGET: chains that never change but for what they name. Under the lock, as all queues share them. */
    pthread_mutex_t forget_lock;
    struct slot forgets[FORGETS];
    uint32_t free_forgets[FORGETS];
    uint32_t free_forget_count;
    /* What a daemon told us once. */
    atomic_bool no_flush;
    /* For guest_verify: how often each page of the file of data was written. */
    uint32_t *generations;
    uint64_t generation_count;
};

/* One queue's thread. */
struct queue_run {
    struct guest *guest;
    const struct workload *workload;
    const struct material *material;
    uint32_t queue;       /* ring index - 1 */
    uint64_t nanoseconds; /* to run for; then: that it ran */
    uint64_t until;
    atomic_bool *failed;
    struct latencies latencies;
    uint64_t cycles;
    uint64_t requests;
    int error;
    char wrong[240];
};

/* What a request consists of, beyond its header. */
struct parts {
    uint32_t opcode;
    uint64_t node;
    uint32_t arguments;   /* bytes behind the in header, in slot->request */
    uint32_t write_bytes; /* that the device reads from the pages */
    uint32_t reply;       /* bytes behind the out header, in slot->reply */
    uint32_t read_bytes;  /* that the device writes into the pages */
};

enum verdict {
    VERDICT_NEXT,  /* the step is done */
    VERDICT_AGAIN, /* the step goes on with another request */
    VERDICT_WRONG, /* run->wrong says why */
};

/* Fill slot->request for the current step. False: the step is to be left out. */
bool step_prepare(struct queue_run *run, struct slot *slot, struct parts *parts);
/* Judge a reply whose header is in order: its error (0 or negative) and the bytes behind its header. */
enum verdict step_check(struct queue_run *run, struct slot *slot, int32_t error, uint32_t length);

/* Put a request into its slot's table and offer it. */
void slot_offer(struct guest *guest, struct ring *ring, struct slot *slot, const struct parts *parts);
void guest_forget(struct guest *guest, uint64_t node);

uint64_t clock_now(void);
uint64_t next_random(uint64_t *state);
void latencies_add(struct latencies *latencies, uint64_t nanoseconds);
void latencies_merge(struct latencies *into, const struct latencies *from);
uint64_t latencies_percentile(const struct latencies *latencies, double share);
