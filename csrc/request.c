/* Requests: the one copy in, the cursor over it, and the reply; the contracts are in request.h. */
#include "request.h"
#include "epoch.h"
#include "memory.h"
#include "mount_tree.h"
#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Copy `size` bytes from the start of a vector list; they are known to be there. */
static void copy_in(const struct iovec *vector, void *target, size_t size)
{
    uint8_t *to = target;
    while (size > 0) {
        size_t step = vector->iov_len < size ? vector->iov_len : size;
        memcpy(to, vector->iov_base, step);
        to += step;
        size -= step;
        vector++;
    }
}

/* Vectors over `size` bytes from `offset` on. Count, or -EIO where the list is shorter. */
static int slice(const struct iovec *from, uint32_t count, size_t offset, size_t size, struct iovec *vector)
{
    int used = 0;
    for (uint32_t i = 0; i < count && size > 0; i++) {
        if (offset >= from[i].iov_len) {
            offset -= from[i].iov_len;
            continue;
        }
        size_t step = from[i].iov_len - offset;
        if (step > size)
            step = size;
        vector[used].iov_base = (uint8_t *)from[i].iov_base + offset;
        vector[used].iov_len = step;
        used++;
        size -= step;
        offset = 0;
    }
    return size == 0 ? used : -EIO;
}

int request_begin(struct request *request, uint8_t *buffer)
{
    const struct chain *chain = &request->chain;
    memset(&request->in, 0, sizeof(request->in));
    request->arguments = buffer;
    request->arguments_size = 0;
    request->arguments_position = 0;
    request->readable_position = 0;
    request->filesystem = NULL;
    request->tree_step = TREE_NONE;
    request->used_length = 0;
    request->pins = 0;
    request->transfer.size = 0;
    if (chain->readable_size < sizeof(struct fuse_in_header))
        return -EIO;
    size_t first = sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in);
    if (first > chain->readable_size)
        first = chain->readable_size;
    copy_in(chain->readable, buffer, first);
    memcpy(&request->in, buffer, sizeof(request->in));
    size_t size = request->in.len;
    if (size < sizeof(struct fuse_in_header) || size > chain->readable_size)
        return -EIO;
    if ((size_t)request->in.total_extlen * 8 > size - sizeof(struct fuse_in_header))
        return -EIO;
    size_t copied = size < first ? size : first;
    if (request->in.opcode != FUSE_WRITE && size > first) {
        if (size > sizeof(struct fuse_in_header) + REQUEST_ARGUMENTS_SIZE)
            return -E2BIG;
        struct iovec rest[CHAIN_VECTORS];
        int count = slice(chain->readable, chain->readable_count, first, size - first, rest);
        if (count < 0)
            return count;
        copy_in(rest, buffer + first, size - first);
        copied = size;
    }
    request->arguments = buffer + sizeof(struct fuse_in_header);
    request->arguments_size = copied - sizeof(struct fuse_in_header);
    request->readable_position = copied;
    return 0;
}

static void mark_reply_dirty(struct request *request, size_t size)
{
    const struct iovec *vector = request->chain.writable;
    for (; size > 0; vector++) {
        size_t step = vector->iov_len < size ? vector->iov_len : size;
        memory_mark_dirty(request->memory, vector->iov_base, step);
        size -= step;
    }
}

/* Store bytes at an offset into the writable part, header included. False: they do not fit. */
static bool store(struct request *request, size_t offset, const void *bytes, size_t size)
{
    if (offset > request->chain.writable_size || size > request->chain.writable_size - offset)
        return false;
    const uint8_t *from = bytes;
    for (const struct iovec *vector = request->chain.writable; size > 0; vector++) {
        if (offset >= vector->iov_len) {
            offset -= vector->iov_len;
            continue;
        }
        size_t step = vector->iov_len - offset;
        if (step > size)
            step = size;
        memcpy((uint8_t *)vector->iov_base + offset, from, step);
        from += step;
        size -= step;
        offset = 0;
    }
    return true;
}

static void drop_pins(struct request *request)
{
    for (uint32_t i = 0; i < request->pins; i++)
        atomic_fetch_sub_explicit(request->pinned[i], 1, memory_order_release);
    request->pins = 0;
}

void request_finish(struct request *request, int32_t result)
{
    if (request->tree_step != TREE_NONE || result == -ENOSYS)
        result = mount_tree_settle(request, result);
    drop_pins(request);
    request->used_length = 0;
    if (result == REQUEST_NO_REPLY)
        return;
    struct fuse_out_header out = {
        .len = (uint32_t)sizeof(out), .error = result < 0 ? result : 0, .unique = request->in.unique};
    if (result > 0)
        out.len += (uint32_t)result;
    if (!store(request, 0, &out, sizeof(out)))
        return;
    request->used_length = out.len;
    if (request->log_writes)
        mark_reply_dirty(request, out.len);
}

struct request *request_detach(const struct request *request)
{
    const struct chain *chain = &request->chain;
    size_t vectors = (size_t)chain->readable_count + chain->writable_count;
    size_t at_vectors = (sizeof(struct request) + 7) & ~(size_t)7;
    size_t at_arguments = at_vectors + vectors * sizeof(struct iovec);
    struct request *copy = malloc(at_arguments + request->arguments_size);
    if (copy == NULL)
        return NULL;
    *copy = *request;
    copy->chain.readable = (struct iovec *)(void *)((uint8_t *)copy + at_vectors);
    copy->chain.writable = copy->chain.readable + chain->readable_count;
    memcpy(copy->chain.readable, chain->readable, chain->readable_count * sizeof(struct iovec));
    memcpy(copy->chain.writable, chain->writable, chain->writable_count * sizeof(struct iovec));
    uint8_t *arguments = (uint8_t *)copy + at_arguments;
    memcpy(arguments, request->arguments, request->arguments_size);
    copy->arguments = arguments;
    copy->arguments_position = 0;
    copy->reader = NULL;
    copy->on_pool = true;
    copy->pins = 0;
    memory_table_get(copy->memory);
    return copy;
}

void request_free(struct request *request)
{
    memory_table_put(request->memory);
    free(request);
}

const void *request_argument(struct request *request, size_t size)
{
    if (size > request_left(request))
        return NULL;
    const uint8_t *argument = request->arguments + request->arguments_position;
    request->arguments_position += size;
    return argument;
}

const char *request_string(struct request *request)
{
    const uint8_t *string = request->arguments + request->arguments_position;
    const uint8_t *end = memchr(string, 0, request_left(request));
    if (end == NULL)
        return NULL;
    request->arguments_position += (size_t)(end - string) + 1;
    return (const char *)string;
}

size_t request_left(const struct request *request)
{
    return request->arguments_size - request->arguments_position;
}

int request_data_vectors(const struct request *request, size_t size, struct iovec *vector)
{
    /* in.len bounds the request, however much the chain holds behind it. */
    if (size > request->in.len - request->readable_position)
        return -EIO;
    return slice(request->chain.readable, request->chain.readable_count, request->readable_position, size,
                 vector);
}

bool request_supplementary_group(const struct request *request, uint32_t *group)
{
    size_t size = (size_t)request->in.total_extlen * 8;
    if (size == 0 || size > request->arguments_size)
        return false;
    const uint8_t *extension = request->arguments + request->arguments_size - size;
    while (size >= sizeof(struct fuse_ext_header)) {
        struct fuse_ext_header header;
        memcpy(&header, extension, sizeof(header));
        if (header.size < sizeof(header) || header.size > size)
            return false;
        if (header.type == FUSE_EXT_GROUPS && header.size >= sizeof(header) + 2 * sizeof(uint32_t)) {
            uint32_t groups[2]; /* their number, and the first: Linux sends at most one */
            memcpy(groups, extension + sizeof(header), sizeof(groups));
            *group = groups[1];
            return groups[0] >= 1;
        }
        size_t step = ((size_t)header.size + 7) & ~(size_t)7;
        if (step > size)
            return false;
        extension += step;
        size -= step;
    }
    return false;
}

bool request_may_sleep(struct request *request)
{
    if (!request->on_pool)
        return false;
    if (request->inside_epoch) {
        request_pin(request, &request->filesystem->pins);
        epoch_leave(&request->session->epochs, request->reader);
        request->inside_epoch = false;
    }
    return true;
}

void request_again(struct request *request)
{
    struct epoch_domain *epochs = &request->session->epochs;
    drop_pins(request);
    request->arguments_position = 0;
    if (!request->on_pool || request->inside_epoch)
        epoch_leave(epochs, request->reader);
    epoch_enter(epochs, request->reader);
    request->inside_epoch = request->on_pool;
}

void request_pin(struct request *request, _Atomic uint32_t *pins)
{
    if (!request->on_pool)
        return;
    if (request->pins == REQUEST_PINS)
        abort(); /* no operation looks at more objects: a fault of ours, never of a guest */
    atomic_fetch_add_explicit(pins, 1, memory_order_relaxed);
    request->pinned[request->pins++] = pins;
}

size_t reply_room(const struct request *request)
{
    size_t header = sizeof(struct fuse_out_header);
    return request->chain.writable_size > header ? request->chain.writable_size - header : 0;
}

int32_t reply_bytes(struct request *request, const void *payload, size_t size)
{
    return reply_at(request, 0, payload, size) ? (int32_t)size : -EIO;
}

bool reply_at(struct request *request, size_t offset, const void *bytes, size_t size)
{
    if (offset > SIZE_MAX - sizeof(struct fuse_out_header))
        return false;
    return store(request, sizeof(struct fuse_out_header) + offset, bytes, size);
}

bool reply_back(const struct request *request, size_t offset, void *bytes, size_t size)
{
    struct iovec vector[CHAIN_VECTORS];
    if (size == 0 || reply_vectors(request, offset, size, vector) < 0)
        return size == 0;
    copy_in(vector, bytes, size);
    return true;
}

int reply_vectors(const struct request *request, size_t offset, size_t size, struct iovec *vector)
{
    size_t room = reply_room(request);
    if (offset > room || size > room - offset)
        return -EIO;
    return slice(request->chain.writable, request->chain.writable_count,
                 sizeof(struct fuse_out_header) + offset, size, vector);
}
