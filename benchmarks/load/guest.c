/* A guest that only asks: its memory, its requests, and the loop that keeps them under way. */
#define _GNU_SOURCE 1
#include "guest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TABLE_ENTRIES (4 + BLOCK_PAGES)

/* ---- Memory
 * ----------------------------------------------------------------------------------------------------- */

static uint64_t take_page(struct guest *guest)
{
    return guest->free_pages[--guest->free_count];
}

static uint8_t *host_of(const struct guest *guest, uint64_t offset)
{
    return guest->memory + offset;
}

/* Small things lie page by page as well; a table of a whole block's pages needs two that are neighbours. */
static void give_memory(struct guest *guest, struct slot *slot, uint64_t tables, uint32_t pages)
{
    uint64_t request = take_page(guest);
    uint64_t reply = take_page(guest);
    slot->table = (struct vring_descriptor *)(void *)host_of(guest, tables);
    slot->table_address = guest->guest_address + tables;
    slot->request = host_of(guest, request);
    slot->request_address = guest->guest_address + request;
    slot->reply = host_of(guest, reply);
    slot->reply_address = guest->guest_address + reply;
    for (uint32_t i = 0; i < pages; i++) {
        uint64_t page = take_page(guest);
        slot->pages[i] = host_of(guest, page);
        slot->page_addresses[i] = guest->guest_address + page;
    }
}

static bool shuffle_pages(struct guest *guest, uint64_t from, uint64_t size, uint64_t seed)
{
    size_t count = (size - from) / PAGE_SIZE;
    guest->free_pages = malloc(count * sizeof(*guest->free_pages));
    if (guest->free_pages == NULL)
        return false;
    for (size_t i = 0; i < count; i++)
        guest->free_pages[i] = from + i * PAGE_SIZE;
    for (size_t i = count - 1; i > 0; i--) {
        size_t other = next_random(&seed) % (i + 1);
        uint64_t page = guest->free_pages[i];
        guest->free_pages[i] = guest->free_pages[other];
        guest->free_pages[other] = page;
    }
    guest->free_count = count;
    return true;
}

static bool create_slots(struct guest *guest, uint64_t size, uint64_t seed)
{
    /* Tables come first, two pages each; what follows is shuffled. */
    uint64_t slots = (uint64_t)(guest->ring_count - 1) * SLOTS_MAX + FORGETS;
    uint64_t table = 0;
    uint64_t needed = slots * (2 + 2 + BLOCK_PAGES) * PAGE_SIZE;
    if (size < needed || !shuffle_pages(guest, slots * 2 * PAGE_SIZE, size, seed))
        return false;
    for (uint32_t queue = 0; queue + 1 < guest->ring_count; queue++) {
        for (uint32_t i = 0; i < SLOTS_MAX; i++, table += 2 * PAGE_SIZE) {
            struct slot *slot = &guest->slots[queue][i];
            give_memory(guest, slot, table, BLOCK_PAGES);
            slot->head = (uint16_t)i;
            slot->random = seed + queue * SLOTS_MAX + i + 1;
            slot->listing = malloc(READDIR_SIZE);
            if (slot->listing == NULL)
                return false;
        }
    }
    for (uint32_t i = 0; i < FORGETS; i++, table += 2 * PAGE_SIZE) {
        give_memory(guest, &guest->forgets[i], table, 0);
        guest->forgets[i].head = (uint16_t)i;
        guest->free_forgets[guest->free_forget_count++] = i;
    }
    return true;
}

guest *guest_create(uint8_t *memory, uint64_t guest_address, uint64_t size, const struct guest_ring *rings,
                    uint32_t ring_count, uint64_t seed)
{
    struct guest *guest = calloc(1, sizeof(*guest));
    if (guest == NULL || ring_count < 2 || ring_count > 1 + QUEUES_MAX)
        goto out;
    guest->memory = memory;
    guest->guest_address = guest_address;
    guest->ring_count = ring_count;
    guest->next_unique = 2;
    pthread_mutex_init(&guest->forget_lock, NULL);
    for (uint32_t i = 0; i < ring_count; i++) {
        if (ring_begin(&guest->rings[i], &rings[i]) != 0)
            goto out;
    }
    if (create_slots(guest, size, seed))
        return guest;
out:
    guest_destroy(guest);
    return NULL;
}

void guest_destroy(struct guest *guest)
{
    if (guest == NULL)
        return;
    for (uint32_t queue = 0; queue < QUEUES_MAX; queue++) {
        for (uint32_t i = 0; i < SLOTS_MAX; i++)
            free(guest->slots[queue][i].listing);
    }
    free(guest->generations);
    free(guest->free_pages);
    free(guest);
}

/* ---- Requests
 * --------------------------------------------------------------------------------------------------- */

struct table_end {
    struct slot *slot;
    uint32_t count;
};

static void add(struct table_end *end, uint64_t address, uint32_t length, uint16_t flags)
{
    if (length == 0)
        return;
    end->slot->table[end->count] = (struct vring_descriptor){.address = address,
                                                             .length = length,
                                                             .flags = flags | DESCRIPTOR_NEXT,
                                                             .next = (uint16_t)(end->count + 1)};
    end->count++;
}

static void add_pages(struct table_end *end, uint32_t bytes, uint16_t flags)
{
    for (uint32_t i = 0; bytes > 0; i++) {
        uint32_t length = bytes < PAGE_SIZE ? bytes : PAGE_SIZE;
        add(end, end->slot->page_addresses[i], length, flags);
        bytes -= length;
    }
}

/* In Linux's order: in header, arguments, pages; out header, arguments, pages. */
void slot_offer(struct guest *guest, struct ring *ring, struct slot *slot, const struct parts *parts)
{
    struct fuse_in_header header = {.len = (uint32_t)sizeof(header) + parts->arguments + parts->write_bytes,
                                    .opcode = parts->opcode,
                                    .unique = slot->unique,
                                    .nodeid = parts->node,
                                    .pid = 1};
    memcpy(slot->request, &header, sizeof(header));
    memset(slot->reply, 0xEE, sizeof(struct fuse_out_header));
    struct table_end end = {.slot = slot};
    add(&end, slot->request_address, sizeof(header), 0);
    add(&end, slot->request_address + sizeof(header), parts->arguments, 0);
    add_pages(&end, parts->write_bytes, 0);
    if (parts->opcode != FUSE_FORGET) {
        add(&end, slot->reply_address, sizeof(struct fuse_out_header), DESCRIPTOR_WRITE);
        add(&end, slot->reply_address + sizeof(struct fuse_out_header), parts->reply, DESCRIPTOR_WRITE);
        add_pages(&end, parts->read_bytes, DESCRIPTOR_WRITE);
    }
    slot->table[end.count - 1].flags &= (uint16_t)~DESCRIPTOR_NEXT;
    slot->page_bytes = parts->read_bytes;
    ring_offer(ring, slot->head, slot->table_address, end.count);
    (void)guest;
}

static void reap_forgets(struct guest *guest)
{
    uint16_t head = 0;
    uint32_t length = 0;
    while (ring_take(&guest->rings[0], &head, &length))
        guest->free_forgets[guest->free_forget_count++] = head;
}

void guest_forget(struct guest *guest, uint64_t node)
{
    pthread_mutex_lock(&guest->forget_lock);
    reap_forgets(guest);
    while (guest->free_forget_count == 0) {
        if (ring_wait(&guest->rings[0]) != 0)
            break;
        reap_forgets(guest);
    }
    struct slot *slot = &guest->forgets[guest->free_forgets[--guest->free_forget_count]];
    struct fuse_forget_in in = {.nlookup = 1};
    memcpy(slot->request + sizeof(struct fuse_in_header), &in, sizeof(in));
    slot->unique = 0;
    slot_offer(guest, &guest->rings[0], slot,
               &(struct parts){.opcode = FUSE_FORGET, .node = node, .arguments = sizeof(in)});
    pthread_mutex_unlock(&guest->forget_lock);
}

/* A reply's header, held to Linux's rules. NULL: in order. */
static const char *header_fault(const struct slot *slot, const struct fuse_out_header *header, uint32_t used)
{
    if (header->len != used)
        return "the used length is not the reply's";
    if (header->unique != slot->unique)
        return "the reply has another request's unique";
    if (used < sizeof(*header) || header->error > 0 || header->error <= -512)
        return "the reply's header is malformed";
    if (header->error != 0 && used != sizeof(*header))
        return "an error comes with more than its header";
    return NULL;
}

int32_t guest_call(struct guest *guest, uint32_t opcode, uint64_t nodeid, const void *arguments,
                   uint32_t size, void *reply, uint32_t reply_size)
{
    struct slot *slot = &guest->slots[0][0];
    struct ring *ring = &guest->rings[1];
    if (size > PAGE_SIZE - sizeof(struct fuse_in_header) ||
        reply_size > PAGE_SIZE - sizeof(struct fuse_out_header))
        return -EINVAL;
    memcpy(slot->request + sizeof(struct fuse_in_header), arguments, size);
    slot->unique = guest->next_unique += 2;
    slot_offer(guest, ring, slot,
               &(struct parts){.opcode = opcode, .node = nodeid, .arguments = size, .reply = reply_size});
    uint16_t head = 0;
    uint32_t used = 0;
    while (!ring_take(ring, &head, &used)) {
        int error = ring_wait(ring);
        if (error != 0)
            return error;
    }
    struct fuse_out_header header;
    memcpy(&header, slot->reply, sizeof(header));
    if (header_fault(slot, &header, used) != NULL)
        return -EPROTO;
    if (header.error != 0)
        return header.error;
    memcpy(reply, slot->reply + sizeof(header), used - sizeof(header));
    return (int32_t)(used - sizeof(header));
}

/* ---- The loop
 * ---------------------------------------------------------------------------------------------------- */

/* Send the slot's next request. False: its cycles are over. */
static bool advance(struct queue_run *run, struct slot *slot, uint64_t now)
{
    struct parts parts;
    for (;;) {
        if (slot->step == slot->step_count) {
            slot->step = 0;
            run->cycles += !slot->background;
        }
        if (slot->step == 0 && now >= run->until)
            return false;
        if (step_prepare(run, slot, &parts))
            break;
        slot->step++;
    }
    /* Each queue has its own uniques; they are even, as Linux's are. */
    slot->unique += (uint64_t)2 * SLOTS_MAX;
    slot->offered_at = now;
    slot_offer(run->guest, &run->guest->rings[1 + run->queue], slot, &parts);
    return true;
}

static bool complete(struct queue_run *run, struct slot *slot, uint32_t used, uint64_t now)
{
    struct fuse_out_header header;
    memcpy(&header, slot->reply, sizeof(header));
    const char *fault = header_fault(slot, &header, used);
    if (fault != NULL) {
        snprintf(run->wrong, sizeof(run->wrong), "step %u: %s", slot->steps[slot->step], fault);
        return false;
    }
    if (!slot->background) {
        latencies_add(&run->latencies, now - slot->offered_at);
        run->requests++;
    }
    enum verdict verdict = step_check(run, slot, header.error, used - (uint32_t)sizeof(header));
    slot->step += verdict == VERDICT_NEXT;
    return verdict != VERDICT_WRONG;
}

static void begin_slots(struct queue_run *run)
{
    const struct workload *workload = run->workload;
    for (uint32_t i = 0; i < workload->depth; i++) {
        struct slot *slot = &run->guest->slots[run->queue][i];
        slot->background = workload->background_count > 0 && run->queue == 0 && i == 0;
        slot->steps = slot->background ? workload->background : workload->steps;
        slot->step_count = slot->background ? workload->background_count : workload->step_count;
        slot->step = 0;
        slot->number = i * workload->queues + run->queue;
        slot->unique = ((uint64_t)(run->queue + 1) << 32) + 2 * i;
    }
}

static void *run_queue(void *argument)
{
    struct queue_run *run = argument;
    struct ring *ring = &run->guest->rings[1 + run->queue];
    uint32_t under_way = 0;
    /* From here on: who is short of processors may get this thread late. */
    uint64_t begin = clock_now();
    run->until = begin + run->nanoseconds;
    begin_slots(run);
    for (uint32_t i = 0; i < run->workload->depth; i++)
        under_way += advance(run, &run->guest->slots[run->queue][i], clock_now());
    while (under_way > 0 && !atomic_load_explicit(run->failed, memory_order_relaxed)) {
        uint16_t head = 0;
        uint32_t used = 0;
        if (!ring_take(ring, &head, &used)) {
            run->error = ring_wait(ring);
            if (run->error != 0)
                atomic_store(run->failed, true);
            continue;
        }
        uint64_t now = clock_now();
        struct slot *slot = &run->guest->slots[run->queue][head % SLOTS_MAX];
        if (!complete(run, slot, used, now)) {
            atomic_store(run->failed, true);
            break;
        }
        under_way -= !advance(run, slot, now);
    }
    run->nanoseconds = clock_now() - begin;
    return NULL;
}

static bool prepare_generations(struct guest *guest, uint64_t data_size)
{
    if (guest->generations != NULL)
        return true;
    guest->generation_count = data_size / PAGE_SIZE;
    guest->generations = calloc(guest->generation_count, sizeof(*guest->generations));
    return guest->generations != NULL;
}

static void sum_up(struct outcome *outcome, struct queue_run *runs, uint32_t queues)
{
    struct latencies *all = &runs[0].latencies;
    for (uint32_t i = 0; i < queues; i++) {
        outcome->cycles += runs[i].cycles;
        outcome->requests += runs[i].requests;
        if (runs[i].nanoseconds > outcome->nanoseconds)
            outcome->nanoseconds = runs[i].nanoseconds;
        if (i > 0)
            latencies_merge(all, &runs[i].latencies);
        if (outcome->wrong[0] == '\0')
            memcpy(outcome->wrong, runs[i].wrong, sizeof(outcome->wrong));
    }
    outcome->median = latencies_percentile(all, 0.5);
    outcome->percentile_99 = latencies_percentile(all, 0.99);
    outcome->worst = all->worst;
}

static bool acceptable(const struct guest *guest, const struct workload *workload)
{
    return workload->queues >= 1 && workload->queues < guest->ring_count && workload->depth >= 1 &&
           workload->depth <= SLOTS_MAX && workload->block <= BLOCK_MAX && workload->step_count >= 1 &&
           workload->step_count <= sizeof(workload->steps) / sizeof(workload->steps[0]) &&
           workload->background_count <= sizeof(workload->background) / sizeof(workload->background[0]);
}

int guest_run(struct guest *guest, const struct workload *workload, const struct material *material,
              uint64_t nanoseconds, struct outcome *outcome)
{
    if (!acceptable(guest, workload))
        return -EINVAL;
    struct queue_run *runs = calloc(workload->queues, sizeof(*runs));
    if (runs == NULL || !prepare_generations(guest, material->data_size)) {
        free(runs);
        return -ENOMEM;
    }
    *outcome = (struct outcome){0};
    atomic_bool failed = false;
    pthread_t threads[QUEUES_MAX];
    int error = 0;
    uint32_t started = 0;
    for (uint32_t i = 0; i < workload->queues; i++) {
        struct ring *ring = &guest->rings[1 + i];
        ring->calls = 0;
        ring->kicks = 0;
        runs[i].guest = guest;
        runs[i].workload = workload;
        runs[i].material = material;
        runs[i].queue = i;
        runs[i].nanoseconds = nanoseconds;
        runs[i].failed = &failed;
    }
    for (; started < workload->queues && error == 0; started += error == 0)
        error = -pthread_create(&threads[started], NULL, run_queue, &runs[started]);
    for (uint32_t i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        if (error == 0)
            error = runs[i].error;
        outcome->calls += guest->rings[1 + i].calls;
        outcome->kicks += guest->rings[1 + i].kicks;
    }
    sum_up(outcome, runs, workload->queues);
    free(runs);
    return error;
}

int guest_verify(struct guest *guest, int32_t fd)
{
    for (uint64_t number = 0; number < guest->generation_count; number++) {
        uint64_t expected[2] = {number, guest->generations[number]};
        uint64_t ends[2][2];
        off_t at = (off_t)(number * PAGE_SIZE);
        if (expected[1] == 0)
            continue;
        if (pread(fd, ends[0], sizeof(ends[0]), at) != sizeof(ends[0]) ||
            pread(fd, ends[1], sizeof(ends[1]), at + PAGE_SIZE - (off_t)sizeof(ends[1])) != sizeof(ends[1]))
            return -EIO;
        if (memcmp(ends[0], expected, sizeof(expected)) != 0 ||
            memcmp(ends[1], expected, sizeof(expected)) != 0)
            return -EIO;
        guest->generations[number] = 0;
    }
    return 0;
}
