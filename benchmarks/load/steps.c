/* What each step asks, and what its reply has to be. */
#define _GNU_SOURCE 1
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static enum verdict wrong(struct queue_run *run, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(run->wrong, sizeof(run->wrong), format, arguments);
    va_end(arguments);
    return VERDICT_WRONG;
}

static void *arguments_of(struct slot *slot)
{
    return slot->request + sizeof(struct fuse_in_header);
}

static const void *payload_of(const struct slot *slot)
{
    return slot->reply + sizeof(struct fuse_out_header);
}

static uint32_t write_name(struct slot *slot, uint32_t offset, const char *prefix, uint64_t number)
{
    char *name = (char *)arguments_of(slot) + offset;
    return offset + (uint32_t)sprintf(name, "%s%05llu", prefix, (unsigned long long)number) + 1;
}

static void choose_file(const struct queue_run *run, struct slot *slot)
{
    slot->file = (uint32_t)(next_random(&slot->random) % run->material->file_count);
    slot->node = run->material->files[slot->file];
}

/* ---- Files of data
 * -------------------------------------------------------------------------------------------- */

void fill_page(uint8_t *page, uint64_t number)
{
    uint64_t word = number * 0x9E3779B97F4A7C15U + 1;
    for (size_t at = 0; at < PAGE_SIZE; at += sizeof(word))
        memcpy(page + at, &word, sizeof(word));
}

/* A page that was written holds its number and how often it was written, at its begin and its end. */
static void stamp(uint8_t *page, uint64_t number, uint32_t generation)
{
    uint64_t words[2] = {number, generation};
    memcpy(page, words, sizeof(words));
    memcpy(page + PAGE_SIZE - sizeof(words), words, sizeof(words));
}

/* Each slot has its share of the blocks, so that no block is under way twice. */
static void choose_block(const struct queue_run *run, struct slot *slot)
{
    const struct workload *workload = run->workload;
    uint64_t slots = (uint64_t)workload->depth * workload->queues;
    uint64_t blocks = run->material->data_size / workload->block / slots;
    uint64_t turn = workload->random ? next_random(&slot->random) : slot->forward++;
    slot->offset = ((turn % blocks) * slots + slot->number) * workload->block;
}

static void prepare_read(const struct queue_run *run, struct slot *slot, struct parts *parts)
{
    choose_block(run, slot);
    struct fuse_read_in in = {
        .fh = run->material->read_handle, .offset = slot->offset, .size = run->workload->block};
    memcpy(arguments_of(slot), &in, sizeof(in));
    *parts = (struct parts){.opcode = FUSE_READ,
                            .node = run->material->read_file,
                            .arguments = sizeof(in),
                            .read_bytes = run->workload->block};
}

static enum verdict check_read(struct queue_run *run, struct slot *slot, uint32_t length)
{
    if (length != run->workload->block)
        return wrong(run, "READ of %u bytes returned %u", run->workload->block, length);
    for (uint32_t i = 0; i < length / PAGE_SIZE; i++) {
        uint64_t word = (slot->offset / PAGE_SIZE + i) * 0x9E3779B97F4A7C15U + 1;
        if (memcmp(slot->pages[i], &word, sizeof(word)) != 0 ||
            memcmp(slot->pages[i] + PAGE_SIZE - sizeof(word), &word, sizeof(word)) != 0)
            return wrong(run, "READ at %llu returned another content", (unsigned long long)slot->offset);
        memset(slot->pages[i], 0, sizeof(word));
    }
    return VERDICT_NEXT;
}

static void prepare_write_at(struct slot *slot, struct parts *parts, uint64_t node, uint64_t handle,
                             uint32_t size)
{
    struct fuse_write_in in = {.fh = handle, .offset = slot->offset, .size = size};
    memcpy(arguments_of(slot), &in, sizeof(in));
    *parts = (struct parts){.opcode = FUSE_WRITE,
                            .node = node,
                            .arguments = sizeof(in),
                            .write_bytes = size,
                            .reply = sizeof(struct fuse_write_out)};
}

static void prepare_write(const struct queue_run *run, struct slot *slot, struct parts *parts)
{
    const struct material *material = run->material;
    if (slot->background) {
        slot->offset = (slot->forward++ % 256) * PAGE_SIZE;
        prepare_write_at(slot, parts, material->background_file, material->background_handle, PAGE_SIZE);
        return;
    }
    choose_block(run, slot);
    for (uint32_t i = 0; i < run->workload->block / PAGE_SIZE; i++) {
        uint64_t number = slot->offset / PAGE_SIZE + i;
        stamp(slot->pages[i], number, ++run->guest->generations[number]);
    }
    prepare_write_at(slot, parts, material->write_file, material->write_handle, run->workload->block);
}

static enum verdict check_write(struct queue_run *run, struct slot *slot, uint32_t size)
{
    struct fuse_write_out out;
    memcpy(&out, payload_of(slot), sizeof(out));
    if (out.size != size)
        return wrong(run, "WRITE of %u bytes wrote %u", size, out.size);
    return VERDICT_NEXT;
}

/* ---- Directories
 * ------------------------------------------------------------------------------------------------ */

static void prepare_readdirplus(struct slot *slot, struct parts *parts, uint64_t node)
{
    struct fuse_read_in in = {.fh = slot->handle, .offset = slot->cursor, .size = READDIR_SIZE};
    memcpy(arguments_of(slot), &in, sizeof(in));
    *parts = (struct parts){
        .opcode = FUSE_READDIRPLUS, .node = node, .arguments = sizeof(in), .read_bytes = READDIR_SIZE};
}

static bool is_dot(const struct fuse_dirent *entry)
{
    return entry->namelen <= 2 && memcmp(entry->name, "..", entry->namelen) == 0;
}

static enum verdict check_entry(struct queue_run *run, const struct fuse_direntplus *entry)
{
    if (is_dot(&entry->dirent))
        return VERDICT_NEXT;
    unsigned number = 0;
    char name[16] = {0};
    if (entry->dirent.namelen != 10)
        return wrong(run, "READDIRPLUS returned a name of %u bytes", entry->dirent.namelen);
    memcpy(name, entry->dirent.name, 10);
    if (sscanf(name, "file-%5u", &number) != 1 || number >= run->material->file_count)
        return wrong(run, "READDIRPLUS returned the name %s", name);
    if (entry->entry_out.nodeid != run->material->files[number] || entry->entry_out.attr.size != 100 + number)
        return wrong(run, "READDIRPLUS returned another node for %s", name);
    return VERDICT_NEXT;
}

static enum verdict check_readdirplus(struct queue_run *run, struct slot *slot, uint32_t length)
{
    if (length > READDIR_SIZE)
        return wrong(run, "READDIRPLUS returned %u bytes", length);
    if (length == 0) {
        if (slot->entries != run->material->file_count)
            return wrong(run, "READDIRPLUS returned %u entries", slot->entries);
        return VERDICT_NEXT;
    }
    for (uint32_t at = 0; at < length; at += PAGE_SIZE)
        memcpy(slot->listing + at, slot->pages[at / PAGE_SIZE],
               length - at < PAGE_SIZE ? length - at : PAGE_SIZE);
    uint32_t at = 0;
    while (at + sizeof(struct fuse_direntplus) <= length) {
        const struct fuse_direntplus *entry = (const void *)(slot->listing + at);
        at += (uint32_t)FUSE_DIRENTPLUS_SIZE(entry);
        if (at > length)
            return wrong(run, "READDIRPLUS returned a part of an entry");
        if (check_entry(run, entry) != VERDICT_NEXT)
            return VERDICT_WRONG;
        slot->entries += !is_dot(&entry->dirent);
        slot->cursor = entry->dirent.off;
    }
    return at == length ? VERDICT_AGAIN : wrong(run, "READDIRPLUS returned a part of an entry");
}

/* ---- Requests
 * ----------------------------------------------------------------------------------------------------- */

static void prepare_lookup(struct slot *slot, struct parts *parts, uint64_t parent, const char *prefix,
                           uint64_t number)
{
    *parts = (struct parts){.opcode = FUSE_LOOKUP,
                            .node = parent,
                            .arguments = write_name(slot, 0, prefix, number),
                            .reply = sizeof(struct fuse_entry_out)};
}

static void prepare_open(struct slot *slot, struct parts *parts, uint32_t opcode, uint64_t node,
                         uint32_t flags)
{
    struct fuse_open_in in = {.flags = flags};
    memcpy(arguments_of(slot), &in, sizeof(in));
    *parts = (struct parts){
        .opcode = opcode, .node = node, .arguments = sizeof(in), .reply = sizeof(struct fuse_open_out)};
}

static void prepare_release(struct slot *slot, struct parts *parts, uint32_t opcode, uint64_t node)
{
    struct fuse_release_in in = {.fh = slot->handle};
    memcpy(arguments_of(slot), &in, sizeof(in));
    *parts = (struct parts){.opcode = opcode, .node = node, .arguments = sizeof(in)};
}

static void prepare_create(const struct queue_run *run, struct slot *slot, struct parts *parts)
{
    struct fuse_create_in in = {.flags = O_RDWR | O_CREAT | O_EXCL, .mode = S_IFREG | 0644, .umask = 022};
    memcpy(arguments_of(slot), &in, sizeof(in));
    slot->made++;
    *parts = (struct parts){.opcode = FUSE_CREATE,
                            .node = run->material->new_directory,
                            .arguments = write_name(slot, sizeof(in), "new-", slot->number),
                            .reply = sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out)};
}

static void prepare_setattr(struct slot *slot, struct parts *parts, const struct fuse_setattr_in *in)
{
    memcpy(arguments_of(slot), in, sizeof(*in));
    *parts = (struct parts){.opcode = FUSE_SETATTR,
                            .node = slot->node,
                            .arguments = sizeof(*in),
                            .reply = sizeof(struct fuse_attr_out)};
}

static void prepare_fixed(struct slot *slot, struct parts *parts, uint32_t opcode, const void *in,
                          uint32_t size, uint32_t reply)
{
    memcpy(arguments_of(slot), in, size);
    *parts = (struct parts){.opcode = opcode, .node = slot->node, .arguments = size, .reply = reply};
}

bool step_prepare(struct queue_run *run, struct slot *slot, struct parts *parts)
{
    const struct material *material = run->material;
    switch (slot->steps[slot->step]) {
    case STEP_GETATTR:
        choose_file(run, slot);
        prepare_fixed(slot, parts, FUSE_GETATTR, &(struct fuse_getattr_in){0}, sizeof(struct fuse_getattr_in),
                      sizeof(struct fuse_attr_out));
        return true;
    case STEP_LOOKUP:
        choose_file(run, slot);
        prepare_lookup(slot, parts, material->directory, "file-", slot->file);
        return true;
    case STEP_LOOKUP_NONE:
        prepare_lookup(slot, parts, material->directory, "none-", next_random(&slot->random) % 100000);
        return true;
    case STEP_LOOKUP_COLD:
        choose_file(run, slot);
        prepare_lookup(slot, parts, material->cold_directory, "file-", slot->file);
        return true;
    case STEP_OPEN:
        choose_file(run, slot);
        prepare_open(slot, parts, FUSE_OPEN, slot->node, O_RDONLY);
        return true;
    case STEP_FLUSH:
        if (atomic_load_explicit(&run->guest->no_flush, memory_order_relaxed))
            return false;
        prepare_fixed(slot, parts, FUSE_FLUSH, &(struct fuse_flush_in){.fh = slot->handle},
                      sizeof(struct fuse_flush_in), 0);
        return true;
    case STEP_RELEASE:
        prepare_release(slot, parts, FUSE_RELEASE, slot->node);
        return true;
    case STEP_CREATE:
        prepare_create(run, slot, parts);
        return true;
    case STEP_UNLINK:
        *parts = (struct parts){.opcode = FUSE_UNLINK,
                                .node = material->new_directory,
                                .arguments = write_name(slot, 0, "new-", slot->number)};
        return true;
    case STEP_WRITE_NEW:
        slot->offset = 0;
        prepare_write_at(slot, parts, slot->node, slot->handle, PAGE_SIZE);
        return true;
    case STEP_OPENDIR:
        slot->cursor = 0;
        slot->entries = 0;
        prepare_open(slot, parts, FUSE_OPENDIR, material->directory, O_RDONLY | O_DIRECTORY);
        return true;
    case STEP_READDIRPLUS:
        prepare_readdirplus(slot, parts, material->directory);
        return true;
    case STEP_RELEASEDIR:
        prepare_release(slot, parts, FUSE_RELEASEDIR, material->directory);
        return true;
    case STEP_READ:
        prepare_read(run, slot, parts);
        return true;
    case STEP_READ_SMALL:
        *parts = (struct parts){.opcode = FUSE_READ,
                                .node = slot->node,
                                .arguments = sizeof(struct fuse_read_in),
                                .read_bytes = PAGE_SIZE};
        memcpy(arguments_of(slot), &(struct fuse_read_in){.fh = slot->handle, .size = PAGE_SIZE},
               sizeof(struct fuse_read_in));
        return true;
    case STEP_WRITE:
        prepare_write(run, slot, parts);
        return true;
    case STEP_CHMOD:
        choose_file(run, slot);
        slot->mode = S_IFREG | (next_random(&slot->random) % 2 ? 0600 : 0644);
        prepare_setattr(slot, parts, &(struct fuse_setattr_in){.valid = FATTR_MODE, .mode = slot->mode});
        return true;
    case STEP_UTIME:
        prepare_setattr(
            slot, parts,
            &(struct fuse_setattr_in){.valid = FATTR_ATIME | FATTR_MTIME, .atime = 1, .mtime = 2});
        return true;
    case STEP_STATFS:
        *parts = (struct parts){
            .opcode = FUSE_STATFS, .node = FUSE_ROOT_ID, .reply = sizeof(struct fuse_statfs_out)};
        return true;
    case STEP_GETXATTR:
        choose_file(run, slot);
        struct fuse_getxattr_in in = {.size = 256};
        memcpy(arguments_of(slot), &in, sizeof(in));
        memcpy((uint8_t *)arguments_of(slot) + sizeof(in), "user.benchmark", sizeof("user.benchmark"));
        *parts = (struct parts){.opcode = FUSE_GETXATTR,
                                .node = slot->node,
                                .arguments = sizeof(in) + sizeof("user.benchmark"),
                                .reply = 256};
        return true;
    case STEP_FSYNC:
        prepare_fixed(slot, parts, FUSE_FSYNC, &(struct fuse_fsync_in){.fh = material->background_handle},
                      sizeof(struct fuse_fsync_in), 0);
        parts->node = material->background_file;
        return true;
    case STEP_UNKNOWN:
        choose_file(run, slot);
        prepare_fixed(slot, parts, FUSE_BMAP, &(struct fuse_bmap_in){.blocksize = PAGE_SIZE},
                      sizeof(struct fuse_bmap_in), sizeof(struct fuse_bmap_out));
        return true;
    default:
        return false;
    }
}

/* ---- Replies
 * -------------------------------------------------------------------------------------------------------- */

static enum verdict check_known_entry(struct queue_run *run, struct slot *slot)
{
    struct fuse_entry_out out;
    memcpy(&out, payload_of(slot), sizeof(out));
    if (out.nodeid != slot->node || out.attr.size != 100 + slot->file)
        return wrong(run, "LOOKUP of file %u returned another node", slot->file);
    return VERDICT_NEXT;
}

static enum verdict check_cold_entry(struct queue_run *run, struct slot *slot)
{
    struct fuse_entry_out out;
    memcpy(&out, payload_of(slot), sizeof(out));
    if (out.nodeid == 0 || out.attr.size != 100 + slot->file)
        return wrong(run, "LOOKUP of the unknown file %u returned another", slot->file);
    guest_forget(run->guest, out.nodeid);
    return VERDICT_NEXT;
}

static enum verdict check_missing(struct queue_run *run, struct slot *slot, int32_t error)
{
    struct fuse_entry_out out = {0};
    if (error == 0)
        memcpy(&out, payload_of(slot), sizeof(out));
    if (error == -ENOENT || (error == 0 && out.nodeid == 0))
        return VERDICT_NEXT;
    return wrong(run, "LOOKUP of a missing name returned error %d, node %llu", error,
                 (unsigned long long)out.nodeid);
}

static enum verdict take_open(struct queue_run *run, struct slot *slot, size_t offset)
{
    struct fuse_open_out out;
    memcpy(&out, (const uint8_t *)payload_of(slot) + offset, sizeof(out));
    slot->handle = out.fh;
    if ((out.open_flags & FOPEN_NOFLUSH) != 0)
        atomic_store(&run->guest->no_flush, true);
    return VERDICT_NEXT;
}

static enum verdict take_created(struct queue_run *run, struct slot *slot)
{
    struct fuse_entry_out out;
    memcpy(&out, payload_of(slot), sizeof(out));
    if (out.nodeid == 0 || out.attr.size != 0 || out.attr.mode != (S_IFREG | 0644))
        return wrong(run, "CREATE returned size %llu, mode %o", (unsigned long long)out.attr.size,
                     out.attr.mode);
    slot->node = out.nodeid;
    return take_open(run, slot, sizeof(out));
}

static enum verdict check_attributes(struct queue_run *run, const struct slot *slot, uint32_t step)
{
    struct fuse_attr_out out;
    memcpy(&out, payload_of(slot), sizeof(out));
    if (step == STEP_UTIME ? out.attr.mtime != 2 : out.attr.size != 100 + slot->file)
        return wrong(run, "the attributes of file %u are another's", slot->file);
    if (step == STEP_CHMOD && out.attr.mode != slot->mode && run->workload->depth == 1)
        return wrong(run, "SETATTR of mode %o returned %o", slot->mode, out.attr.mode);
    return VERDICT_NEXT;
}

static enum verdict check_statfs(struct queue_run *run, const struct slot *slot)
{
    struct fuse_statfs_out out;
    memcpy(&out, payload_of(slot), sizeof(out));
    return out.st.bsize != 0 && out.st.namelen == 255 ? VERDICT_NEXT : wrong(run, "STATFS returned nothing");
}

/* Bytes that a good reply has behind its header; UINT32_MAX: any number. */
static uint32_t expected_length(uint32_t step, const struct queue_run *run)
{
    switch (step) {
    case STEP_GETATTR:
    case STEP_CHMOD:
    case STEP_UTIME:
        return sizeof(struct fuse_attr_out);
    case STEP_LOOKUP:
    case STEP_LOOKUP_COLD:
        return sizeof(struct fuse_entry_out);
    case STEP_CREATE:
        return sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out);
    case STEP_OPEN:
    case STEP_OPENDIR:
        return sizeof(struct fuse_open_out);
    case STEP_WRITE:
    case STEP_WRITE_NEW:
        return sizeof(struct fuse_write_out);
    case STEP_STATFS:
        return sizeof(struct fuse_statfs_out);
    case STEP_GETXATTR:
        return run->material->xattr_size;
    case STEP_LOOKUP_NONE:
    case STEP_READDIRPLUS:
    case STEP_READ:
    case STEP_READ_SMALL:
        return UINT32_MAX;
    default:
        return 0;
    }
}

enum verdict step_check(struct queue_run *run, struct slot *slot, int32_t error, uint32_t length)
{
    uint32_t step = slot->steps[slot->step];
    if (step == STEP_LOOKUP_NONE)
        return check_missing(run, slot, error);
    if (step == STEP_UNKNOWN)
        return error == -ENOSYS ? VERDICT_NEXT : wrong(run, "BMAP returned %d", error);
    if (step == STEP_FLUSH && error == -ENOSYS) {
        atomic_store(&run->guest->no_flush, true);
        return VERDICT_NEXT;
    }
    if (error != 0)
        return wrong(run, "step %u returned error %d", step, error);
    uint32_t expected = expected_length(step, run);
    if (expected != UINT32_MAX && expected != length)
        return wrong(run, "step %u returned %u bytes instead of %u", step, length, expected);
    switch (step) {
    case STEP_GETATTR:
    case STEP_CHMOD:
    case STEP_UTIME:
        return check_attributes(run, slot, step);
    case STEP_LOOKUP:
        return check_known_entry(run, slot);
    case STEP_LOOKUP_COLD:
        return check_cold_entry(run, slot);
    case STEP_OPEN:
    case STEP_OPENDIR:
        return take_open(run, slot, 0);
    case STEP_CREATE:
        return take_created(run, slot);
    case STEP_UNLINK:
        guest_forget(run->guest, slot->node);
        return VERDICT_NEXT;
    case STEP_WRITE_NEW:
        return check_write(run, slot, PAGE_SIZE);
    case STEP_WRITE:
        return check_write(run, slot, slot->background ? PAGE_SIZE : run->workload->block);
    case STEP_READ:
        return check_read(run, slot, length);
    case STEP_READ_SMALL:
        return length == 100 + slot->file ? VERDICT_NEXT : wrong(run, "READ returned %u bytes", length);
    case STEP_READDIRPLUS:
        return check_readdirplus(run, slot, length);
    case STEP_STATFS:
        return check_statfs(run, slot);
    default:
        return VERDICT_NEXT;
    }
}
