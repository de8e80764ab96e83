/* The guest's side of virtqueues; the contract is in mock_driver.h. */
#define _GNU_SOURCE 1
#include "mock_driver.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ---- The file system ---- */

static _Atomic uint32_t sleeping;
static sem_t wake_one;

static int32_t mock_getattr(struct request *request)
{
    struct fuse_attr_out out = {.attr = {.ino = request->in.nodeid, .mode = 0100644}};
    return reply_bytes(request, &out, sizeof(out));
}

static int32_t mock_read(struct request *request)
{
    const struct fuse_read_in *in = request_argument(request, sizeof(*in));
    struct iovec vectors[CHAIN_VECTORS];
    int count = in != NULL ? reply_vectors(request, 0, in->size, vectors) : -EIO;
    if (count < 0)
        return count;
    uint64_t offset = in->offset;
    for (int i = 0; i < count; i++) {
        for (size_t j = 0; j < vectors[i].iov_len; j++)
            ((uint8_t *)vectors[i].iov_base)[j] = (uint8_t)offset++;
    }
    return (int32_t)in->size;
}

static int32_t mock_write(struct request *request)
{
    const struct fuse_write_in *in = request_argument(request, sizeof(*in));
    struct iovec vectors[CHAIN_VECTORS];
    int count = in != NULL ? request_data_vectors(request, in->size, vectors) : -EIO;
    if (count < 0)
        return count;
    struct fuse_write_out out = {0};
    for (int i = 0; i < count; i++) {
        for (size_t j = 0; j < vectors[i].iov_len; j++)
            out.size += ((const uint8_t *)vectors[i].iov_base)[j];
    }
    return reply_bytes(request, &out, sizeof(out));
}

static int32_t mock_fsync(struct request *request)
{
    if (!request_may_sleep(request))
        return REQUEST_WOULD_SLEEP;
    atomic_fetch_add(&sleeping, 1);
    while (sem_wait(&wake_one) != 0)
        CHECK_EQUAL(errno, EINTR);
    atomic_fetch_sub(&sleeping, 1);
    return 0;
}

static int32_t mock_setlkw(struct request *request)
{
    if (!request_may_sleep(request))
        return REQUEST_WOULD_SLEEP;
    atomic_fetch_add(&sleeping, 1);
    while (!request_cancelled(request))
        poll(NULL, 0, -1); /* only a signal ends it */
    atomic_fetch_sub(&sleeping, 1);
    return -EINTR;
}

_Atomic int mock_pipe = -1;

static int32_t mock_outcome(struct request *request, int32_t moved)
{
    (void)request;
    return moved == MOCK_PIECE ? moved : REQUEST_WOULD_SLEEP;
}

static int32_t mock_readlink(struct request *request)
{
    if (!request_may_sleep(request)) {
        request->transfer = (struct request_transfer){
            .fd = mock_pipe, .size = MOCK_PIECE, .offset = UINT64_MAX, .outcome = mock_outcome};
        return REQUEST_WOULD_SLEEP;
    }
    uint8_t piece[MOCK_PIECE];
    ssize_t got = -1;
    atomic_fetch_add(&sleeping, 1);
    while (got < 0 && !atomic_load(request->cancelled))
        got = read(mock_pipe, piece, sizeof(piece));
    atomic_fetch_sub(&sleeping, 1);
    return got < 0 ? -EINTR : reply_bytes(request, piece, sizeof(piece));
}

static int32_t mock_forget(struct request *request)
{
    (void)request;
    return REQUEST_NO_REPLY;
}

static _Atomic uint32_t batches_of_forgets;

static int32_t mock_batch_forget(struct request *request)
{
    (void)request;
    atomic_fetch_add(&batches_of_forgets, 1);
    return REQUEST_NO_REPLY;
}

uint32_t mock_batches_of_forgets(void)
{
    return atomic_exchange(&batches_of_forgets, 0);
}

static operation *const mock_operations[FUSE_OPCODES] = {
    [FUSE_GETATTR] = mock_getattr,   [FUSE_READ] = mock_read,
    [FUSE_WRITE] = mock_write,       [FUSE_FSYNC] = mock_fsync,
    [FUSE_SETLKW] = mock_setlkw,     [FUSE_FORGET] = mock_forget,
    [FUSE_READLINK] = mock_readlink, [FUSE_BATCH_FORGET] = mock_batch_forget,
};

static void mock_begin(struct filesystem *filesystem, uint64_t flags)
{
    (void)filesystem;
    (void)flags;
}

static void mock_end(struct filesystem *filesystem)
{
    (void)filesystem;
}

static void mock_destroy(struct filesystem *filesystem)
{
    free(filesystem);
}

static struct filesystem *make_mock(void)
{
    struct filesystem *made = aligned_alloc(alignof(struct filesystem), sizeof(struct filesystem));
    CHECK(made != NULL);
    *made = (struct filesystem){
        .operations = mock_operations, .begin = mock_begin, .end = mock_end, .destroy = mock_destroy};
    return made;
}

void guest_mount_mock(struct guest *guest, uint16_t mount)
{
    CHECK_EQUAL(session_mount(&guest->device->session, mount, make_mock()), 0);
}

uint32_t mock_sleeping(void)
{
    return atomic_load(&sleeping);
}

void mock_await_sleepers(uint32_t count)
{
    for (int i = 0; i < WAIT_MILLISECONDS && mock_sleeping() != count; i++)
        usleep(1000);
    CHECK_EQUAL(mock_sleeping(), count);
}

void mock_wake(void)
{
    sem_post(&wake_one);
}

/* ---- The guest ---- */

struct vhostfs_region guest_region(const struct guest *guest, uint64_t offset, uint64_t size)
{
    return (struct vhostfs_region){
        .guest_address = GUEST_BASE + offset,
        .size = size,
        .user_address = GUEST_USER + offset,
        .offset = offset,
        .fd = guest->fd,
    };
}

void guest_create(struct guest *guest, const struct guest_options *options)
{
    *guest = (struct guest){.size = options->size, .allocated = 0};
    sem_init(&wake_one, 0, 0);
    guest->fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(guest->fd >= 0);
    CHECK_EQUAL(ftruncate(guest->fd, (off_t)guest->size), 0);
    guest->host = mmap(NULL, guest->size, PROT_READ | PROT_WRITE, MAP_SHARED, guest->fd, 0);
    CHECK(guest->host != MAP_FAILED);
    struct vhostfs_device_options device = {
        .queues = options->queues,
        .pool_threads = options->pool_threads,
        .poll_nanoseconds = options->poll_nanoseconds,
        .io_uring = options->io_uring,
    };
    struct vhostfs_session_options session = {
        .init_flags = UINT64_MAX, .max_write = 1 << 20, .max_readahead = 1 << 20, .max_pages = 256};
    CHECK_EQUAL(vhostfs_device_create(&device, &session, &guest->device), 0);
    guest_mount_mock(guest, 0);
    CHECK_EQUAL(vhostfs_device_set_features(guest->device, options->features | VHOST_USER_FEATURE_PROTOCOL),
                0);
    struct vhostfs_region region = guest_region(guest, 0, guest->size);
    CHECK_EQUAL(vhostfs_memory_add(guest->device, &region), 0);
}

void guest_destroy(struct guest *guest)
{
    vhostfs_device_destroy(guest->device);
    munmap(guest->host, guest->size);
    close(guest->fd);
}

uint64_t guest_allocate(struct guest *guest, size_t size, size_t alignment)
{
    size_t at = (guest->allocated + alignment - 1) / alignment * alignment;
    CHECK(at + size <= guest->size);
    guest->allocated = at + size;
    memset(guest->host + at, 0, size);
    return GUEST_BASE + at;
}

void *guest_at(const struct guest *guest, uint64_t address)
{
    return guest->host + (address - GUEST_BASE);
}

struct vhostfs_event guest_event(struct guest *guest)
{
    struct pollfd ready = {.fd = vhostfs_device_event_fd(guest->device), .events = POLLIN};
    CHECK_EQUAL(poll(&ready, 1, WAIT_MILLISECONDS), 1);
    struct vhostfs_event event;
    vhostfs_device_next_event(guest->device, &event);
    return event;
}

struct vhostfs_event guest_event_of(struct guest *guest, enum vhostfs_event_kind kind)
{
    struct vhostfs_event event;
    do
        event = guest_event(guest);
    while (event.kind != (uint32_t)kind);
    return event;
}

/* ---- The driver ---- */

struct split_available {
    uint16_t flags;
    uint16_t index;
    uint16_t ring[];
};

struct split_used {
    uint16_t flags;
    uint16_t index;
    struct {
        uint32_t id;
        uint32_t length;
    } ring[];
};

struct split_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct packed_slot {
    uint64_t address;
    uint32_t length;
    uint16_t id;
    uint16_t flags;
};

#define FLAG_AVAILABLE 0x80
#define FLAG_USED 0x8000

static bool need_event(uint16_t event, uint16_t now, uint16_t before)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

void driver_attach(struct driver *driver, uint32_t base)
{
    vhostfs_device *device = driver->guest->device;
    uint32_t index = driver->index;
    uint64_t to_user = GUEST_USER - GUEST_BASE;
    CHECK_EQUAL(vhostfs_queue_set_size(device, index, driver->options.size), 0);
    CHECK_EQUAL(vhostfs_queue_set_base(device, index, base), 0);
    CHECK_EQUAL(vhostfs_queue_set_addresses(device, index, 0, driver->descriptors + to_user,
                                            driver->used + to_user, driver->available + to_user, 0),
                0);
    CHECK_EQUAL(vhostfs_queue_set_error(device, index, dup(driver->error)), 0);
    CHECK_EQUAL(vhostfs_queue_set_call(device, index, dup(driver->call)), 0);
    CHECK_EQUAL(vhostfs_queue_set_kick(device, index, dup(driver->kick)), 0);
    CHECK_EQUAL(vhostfs_queue_set_enabled(device, index, 1), 0);
}

void driver_create(struct driver *driver, struct guest *guest, uint32_t index,
                   const struct driver_options *options)
{
    *driver =
        (struct driver){.guest = guest, .index = index, .options = *options, .free_count = options->size};
    size_t available = 0;
    size_t used = 0;
    size_t descriptors = 0;
    virtqueue_sizes(options->packed, options->size, &descriptors, &available, &used);
    driver->descriptors = guest_allocate(guest, descriptors, 16);
    driver->available = guest_allocate(guest, available, 4);
    driver->used = guest_allocate(guest, used, 4);
    driver->slots = guest_allocate(guest, (size_t)options->size * DRIVER_SLOT, 4096);
    driver->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    driver->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    driver->error = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    driver->next_id = calloc(options->size, sizeof(uint16_t));
    driver->length_of = calloc(options->size, sizeof(uint16_t));
    driver->unique_of = calloc(options->size, sizeof(uint64_t));
    driver->unique = 2;
    for (uint32_t i = 0; i < options->size; i++)
        driver->next_id[i] = (uint16_t)(i + 1);
    driver->wrap = true;
    driver->seen_wrap = true;
    if (!options->packed) {
        uint16_t base = (uint16_t)options->base;
        driver->next = driver->kicked = driver->seen = base;
        ((struct split_available *)guest_at(guest, driver->available))->index = base;
        ((struct split_used *)guest_at(guest, driver->used))->index = base;
        ((struct split_available *)guest_at(guest, driver->available))->ring[options->size] = base;
    } else {
        uint16_t *event = guest_at(guest, driver->available);
        event[0] = 0x8000;
        event[1] = options->event_index ? 2 : 0;
    }
    driver_attach(driver, options->base);
}

void driver_destroy(struct driver *driver)
{
    close(driver->kick);
    close(driver->call);
    close(driver->error);
    free(driver->next_id);
    free(driver->length_of);
    free(driver->unique_of);
}

uint16_t driver_next_id(const struct driver *driver)
{
    return driver->free_head;
}

void driver_write_table(const struct driver *driver, const struct buffer *buffers, uint32_t count,
                        uint64_t table)
{
    struct split_descriptor *split = guest_at(driver->guest, table);
    struct packed_slot *packed = guest_at(driver->guest, table);
    for (uint32_t i = 0; i < count; i++) {
        bool last = i + 1 == count;
        uint16_t flags = (uint16_t)(buffers[i].flags | (buffers[i].writable ? DESCRIPTOR_WRITE : 0));
        if (driver->options.packed) {
            packed[i] = (struct packed_slot){
                .address = buffers[i].address, .length = buffers[i].length, .flags = flags, .id = 0xdead};
            continue;
        }
        flags |= last ? 0 : DESCRIPTOR_NEXT;
        split[i] = (struct split_descriptor){.address = buffers[i].address,
                                             .length = buffers[i].length,
                                             .flags = flags,
                                             .next = last ? 0xbeef : (uint16_t)(i + 1)};
    }
}

static void add_split(struct driver *driver, const struct buffer *buffers, uint32_t count)
{
    struct split_descriptor *table = guest_at(driver->guest, driver->descriptors);
    uint16_t head = driver->free_head;
    uint16_t at = head;
    for (uint32_t i = 0; i < count; i++) {
        uint16_t next = driver->next_id[at];
        uint16_t flags = (uint16_t)(buffers[i].flags | (buffers[i].writable ? DESCRIPTOR_WRITE : 0));
        if (i + 1 < count)
            flags |= DESCRIPTOR_NEXT;
        table[at] = (struct split_descriptor){
            .address = buffers[i].address, .length = buffers[i].length, .flags = flags, .next = next};
        at = next;
    }
    driver->free_head = at;
    driver->length_of[head] = (uint16_t)count;
    struct split_available *available = guest_at(driver->guest, driver->available);
    available->ring[driver->next % driver->options.size] = head;
    driver->next++;
    driver->added++;
}

static void add_packed(struct driver *driver, const struct buffer *buffers, uint32_t count)
{
    struct packed_slot *ring = guest_at(driver->guest, driver->descriptors);
    uint16_t id = driver->free_head;
    driver->free_head = driver->next_id[id];
    driver->length_of[id] = (uint16_t)count;
    uint16_t head = driver->next;
    uint16_t head_flags = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint16_t flags = (uint16_t)(buffers[i].flags | (buffers[i].writable ? DESCRIPTOR_WRITE : 0));
        flags |= driver->wrap ? FLAG_AVAILABLE : FLAG_USED;
        if (i + 1 < count)
            flags |= DESCRIPTOR_NEXT;
        struct packed_slot *slot = &ring[driver->next];
        slot->address = buffers[i].address;
        slot->length = buffers[i].length;
        slot->id = id;
        if (i == 0)
            head_flags = flags;
        else
            slot->flags = flags;
        if (++driver->next == driver->options.size) {
            driver->next = 0;
            driver->wrap = !driver->wrap;
        }
    }
    __atomic_store_n(&ring[head].flags, head_flags, __ATOMIC_RELEASE);
    driver->added += count;
}

bool driver_add(struct driver *driver, const struct buffer *buffers, uint32_t count, uint64_t table)
{
    struct buffer indirect = {
        .address = table, .length = count * DESCRIPTOR_SIZE, .flags = DESCRIPTOR_INDIRECT};
    if (table != 0) {
        driver_write_table(driver, buffers, count, table);
        buffers = &indirect;
        count = 1;
    }
    if (count > driver->free_count)
        return false;
    driver->free_count -= count;
    if (driver->options.packed)
        add_packed(driver, buffers, count);
    else
        add_split(driver, buffers, count);
    return true;
}

static bool split_wants_kick(const struct driver *driver, uint16_t before)
{
    const struct split_used *used = guest_at(driver->guest, driver->used);
    if (!driver->options.event_index)
        return (__atomic_load_n(&used->flags, __ATOMIC_RELAXED) & 1) == 0;
    const uint16_t *event = (const uint16_t *)(const void *)&used->ring[driver->options.size];
    return need_event(__atomic_load_n(event, __ATOMIC_RELAXED), driver->next, before);
}

static bool packed_wants_kick(const struct driver *driver)
{
    const uint16_t *event = guest_at(driver->guest, driver->used);
    uint16_t flags = __atomic_load_n(&event[1], __ATOMIC_ACQUIRE);
    if (flags != 2)
        return flags == 0;
    uint16_t at = __atomic_load_n(&event[0], __ATOMIC_RELAXED);
    uint16_t offset = at & 0x7fff;
    if ((at >> 15) != driver->wrap)
        offset = (uint16_t)(offset - driver->options.size);
    return need_event(offset, driver->next, (uint16_t)(driver->next - driver->added));
}

void driver_kick(struct driver *driver)
{
    bool wanted = false;
    uint16_t before = driver->kicked;
    if (!driver->options.packed) {
        struct split_available *available = guest_at(driver->guest, driver->available);
        __atomic_store_n(&available->index, driver->next, __ATOMIC_RELEASE);
    }
    atomic_thread_fence(memory_order_seq_cst);
    wanted = driver->options.packed ? packed_wants_kick(driver) : split_wants_kick(driver, before);
    driver->kicked = driver->next;
    driver->added = 0;
    if (wanted) {
        eventfd_write(driver->kick, 1);
        driver->kicks++;
    }
}

static bool take_split(struct driver *driver, uint16_t *id, uint32_t *length)
{
    const struct split_used *used = guest_at(driver->guest, driver->used);
    if (__atomic_load_n(&used->index, __ATOMIC_ACQUIRE) == driver->seen)
        return false;
    *id = (uint16_t)used->ring[driver->seen % driver->options.size].id;
    *length = used->ring[driver->seen % driver->options.size].length;
    driver->seen++;
    CHECK(*id < driver->options.size);
    uint16_t last = *id;
    for (uint32_t i = 1; i < driver->length_of[*id]; i++)
        last = driver->next_id[last];
    driver->next_id[last] = driver->free_head;
    driver->free_head = *id;
    driver->free_count += driver->length_of[*id];
    return true;
}

static bool take_packed(struct driver *driver, uint16_t *id, uint32_t *length)
{
    const struct packed_slot *ring = guest_at(driver->guest, driver->descriptors);
    uint16_t flags = __atomic_load_n(&ring[driver->seen].flags, __ATOMIC_ACQUIRE);
    bool used = (flags & FLAG_USED) != 0;
    if (((flags & FLAG_AVAILABLE) != 0) != used || used != driver->seen_wrap)
        return false;
    *id = ring[driver->seen].id;
    *length = ring[driver->seen].length;
    CHECK(*id < driver->options.size);
    CHECK_EQUAL((flags & DESCRIPTOR_WRITE) != 0, *length > 0);
    uint32_t next = (uint32_t)driver->seen + driver->length_of[*id];
    driver->seen_wrap = driver->seen_wrap != (next >= driver->options.size);
    driver->seen = (uint16_t)(next >= driver->options.size ? next - driver->options.size : next);
    driver->next_id[*id] = driver->free_head;
    driver->free_head = *id;
    driver->free_count += driver->length_of[*id];
    return true;
}

bool driver_take(struct driver *driver, uint16_t *id, uint32_t *length)
{
    return driver->options.packed ? take_packed(driver, id, length) : take_split(driver, id, length);
}

/* Ask to be called for the next returned chain. */
static void ask_for_call(struct driver *driver)
{
    if (driver->options.event_index) {
        if (driver->options.packed) {
            uint16_t *event = guest_at(driver->guest, driver->available);
            __atomic_store_n(&event[0], (uint16_t)(driver->seen | (driver->seen_wrap ? 0x8000 : 0)),
                             __ATOMIC_RELAXED);
            __atomic_store_n(&event[1], 2, __ATOMIC_RELEASE);
        } else {
            struct split_available *available = guest_at(driver->guest, driver->available);
            __atomic_store_n(&available->ring[driver->options.size], driver->seen, __ATOMIC_RELAXED);
        }
    }
    atomic_thread_fence(memory_order_seq_cst);
}

void driver_await(struct driver *driver, uint16_t *id, uint32_t *length)
{
    while (!driver_take(driver, id, length)) {
        ask_for_call(driver);
        if (driver_take(driver, id, length))
            return;
        struct pollfd ready = {.fd = driver->call, .events = POLLIN};
        CHECK_EQUAL(poll(&ready, 1, WAIT_MILLISECONDS), 1);
        eventfd_t count;
        eventfd_read(driver->call, &count);
        driver->calls++;
    }
}

/* What other threads than the ring's answer is answered elsewhere: the device has memory mapped at addresses of its
 * own, so ThreadSanitizer does not see that the driver stands between such a reply and the queue thread's next
 * one in the same place. */
static uint32_t reply_offset(uint32_t opcode, uint64_t nodeid)
{
    bool elsewhere = opcode == FUSE_FSYNC || opcode == FUSE_DESTROY || nodeid >> 48 != 0;
    return elsewhere ? DRIVER_REPLY_AT + DRIVER_POOL_ROOM : DRIVER_REPLY_AT;
}

bool driver_request(struct driver *driver, uint32_t opcode, uint64_t nodeid, const void *body, size_t size,
                    uint32_t room)
{
    CHECK(size + sizeof(struct fuse_in_header) <= DRIVER_REPLY_AT && room <= DRIVER_POOL_ROOM);
    uint32_t count = room > 0 ? 2 : 1;
    if (driver->free_count < count)
        return false;
    uint16_t id = driver_next_id(driver);
    uint64_t slot = driver->slots + (uint64_t)id * DRIVER_SLOT;
    struct fuse_in_header in = {
        .len = (uint32_t)(sizeof(in) + size), .opcode = opcode, .unique = driver->unique, .nodeid = nodeid};
    memcpy(guest_at(driver->guest, slot), &in, sizeof(in));
    if (size > 0)
        memcpy((uint8_t *)guest_at(driver->guest, slot) + sizeof(in), body, size);
    struct buffer buffers[2] = {
        {.address = slot, .length = in.len},
        {.address = slot + reply_offset(opcode, nodeid), .length = room, .writable = true},
    };
    driver->unique_of[id] = driver->unique;
    driver->unique += 2;
    return driver_add(driver, buffers, count, 0);
}

const struct fuse_out_header *driver_reply(const struct driver *driver, uint16_t id, uint32_t length)
{
    uint64_t slot = driver->slots + (uint64_t)id * DRIVER_SLOT;
    const struct fuse_in_header *in = guest_at(driver->guest, slot);
    const struct fuse_out_header *out = guest_at(driver->guest, slot + reply_offset(in->opcode, in->nodeid));
    CHECK_EQUAL(out->len, length);
    CHECK_EQUAL(out->unique, driver->unique_of[id]);
    return out;
}

int32_t driver_call(struct driver *driver, uint32_t opcode, uint64_t nodeid, const void *body, size_t size)
{
    uint16_t id = 0;
    uint32_t length = 0;
    CHECK(driver_request(driver, opcode, nodeid, body, size, DRIVER_POOL_ROOM));
    driver_kick(driver);
    driver_await(driver, &id, &length);
    return driver_reply(driver, id, length)->error;
}

void driver_init(struct driver *driver)
{
    struct fuse_init_in in = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION};
    CHECK_EQUAL(driver_call(driver, FUSE_INIT, 0, &in, sizeof(in)), 0);
}
