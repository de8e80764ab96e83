/* Fuzzes a ring and the memory behind it: whatever the guest wrote, vectors stay inside its memory, and a
 * request is answered or refused.
 *
 * Input: one byte of flags, two of size, four of base; the rest is guest memory, the ring at its start. The
 * memory is two regions with a hole between them.
 */
#define _GNU_SOURCE 1
#include "check.h"
#include "mock_driver.h"

#include <errno.h>

#define REGION_SIZE 16384
#define HOLE_SIZE 4096
#define RING_SIZE 64
#define DRIVER_AREA 1024
#define DEVICE_AREA 2048

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct guest guest;
static struct virtqueue ring;

static void begin_once(void)
{
    if (guest.device != NULL)
        return;
    guest_create(&guest, &(struct guest_options){.size = 2 * REGION_SIZE, .queues = 2, .pool_threads = 1});
    struct vhostfs_region regions[] = {guest_region(&guest, 0, REGION_SIZE),
                                       guest_region(&guest, REGION_SIZE, REGION_SIZE)};
    regions[0].guest_address = 0;
    regions[1].guest_address = REGION_SIZE + HOLE_SIZE;
    CHECK_EQUAL(vhostfs_memory_replace(guest.device, regions, 2), 0);
    atomic_store(&guest.device->session.minor, FUSE_KERNEL_MINOR_VERSION);
    atomic_store(&guest.device->log.log_writes, true);
}

static void check_vectors(const struct iovec *vectors, uint32_t count, size_t size)
{
    const struct memory_table *memory = ring.memory;
    CHECK(count <= CHAIN_VECTORS);
    size_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        size_t inside = 0;
        /* The regions may lie side by side in the host. */
        for (uint32_t j = 0; j < memory->count; j++) {
            const uint8_t *from = vectors[i].iov_base;
            const uint8_t *to = from + vectors[i].iov_len;
            const uint8_t *begin = memory->regions[j].host;
            const uint8_t *end = begin + memory->regions[j].size;
            from = from < begin ? begin : from;
            to = to > end ? end : to;
            inside += to > from ? (size_t)(to - from) : 0;
        }
        CHECK_EQUAL(inside, vectors[i].iov_len);
        sum += vectors[i].iov_len;
    }
    CHECK_EQUAL(sum, size);
}

static void answer(struct request *request, enum virtqueue_result result)
{
    static _Alignas(8) uint8_t arguments[sizeof(struct fuse_in_header) + REQUEST_ARGUMENTS_SIZE];
    int32_t answer = request_begin(request, arguments);
    if (answer == 0 && result == VIRTQUEUE_CHAIN)
        answer = session_dispatch(request->session, request);
    if (answer == REQUEST_WOULD_SLEEP) {
        struct request *detached = request_detach(request);
        CHECK(detached != NULL);
        request_free(detached);
        answer = -EIO;
    }
    request_finish(request, result == VIRTQUEUE_CHAIN ? answer : -EIO);
    CHECK(request->used_length <= request->chain.writable_size);
}

static void set_ring_up(const uint8_t *data)
{
    uint32_t base = 0;
    memcpy(&base, data + 3, sizeof(base));
    ring = (struct virtqueue){
        .memory = guest.device->memory,
        .packed = (data[0] & 1) != 0,
        .event_index = (data[0] & 2) != 0,
        .at = {.descriptors = guest.device->memory->regions[0].host,
               .driver = guest.device->memory->regions[0].host + DRIVER_AREA,
               .device = guest.device->memory->regions[0].host + DEVICE_AREA},
    };
    ring.size = ring.packed ? data[1] % RING_SIZE + 1U : 1U << (data[1] % 7);
    atomic_store(&ring.log_used, (data[0] & 4) != 0);
    virtqueue_begin(&ring, base);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    begin_once();
    if (size < 7 || size > 7 + 2 * REGION_SIZE)
        return 0;
    memset(guest.host, 0, guest.size);
    memcpy(guest.host, data + 7, size - 7);
    set_ring_up(data);
    static struct iovec readable[CHAIN_VECTORS];
    static struct iovec writable[CHAIN_VECTORS];
    struct epoch_reader reader;
    epoch_add_reader(&guest.device->session.epochs, &reader);
    for (int served = 0; served < 200; served++) {
        struct request request = {
            .chain = {.readable = readable, .writable = writable},
            .session = &guest.device->session,
            .memory = ring.memory,
            .reader = &reader,
            .log_writes = (data[0] & 8) != 0,
        };
        enum virtqueue_result result = virtqueue_pop(&ring, &request.chain);
        if (result == VIRTQUEUE_EMPTY || result == VIRTQUEUE_BROKEN)
            break;
        check_vectors(readable, request.chain.readable_count, request.chain.readable_size);
        check_vectors(writable, request.chain.writable_count, request.chain.writable_size);
        if ((data[2] & 1) != 0 && served % 3 == 0) {
            virtqueue_unpop(&ring);
            continue;
        }
        answer(&request, result);
        virtqueue_push(&ring, request.chain.head, request.chain.slots, request.used_length);
        if (!virtqueue_crowded(&ring))
            virtqueue_publish(&ring);
    }
    virtqueue_publish(&ring);
    virtqueue_enable_notifications(&ring);
    epoch_remove_reader(&guest.device->session.epochs, &reader);
    return 0;
}
