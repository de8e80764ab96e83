/* The tree of mounts: waypoints, and requests before they are dispatched. The contract is in mount_tree.h; answers are in
 * mount_tree_answers.c. */
#include "mount_tree.h"
#include "pseudo.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NAME_LIMIT 255

/* ---- Waypoints, under the lock ---- */

uint64_t mount_tree_pseudo_nodeid(const struct mount_tree *tree, const struct waypoint *waypoint)
{
    bool is_root = waypoint == tree->waypoints[0] && waypoint->mount == TREE_NO_MOUNT;
    return is_root ? FUSE_ROOT_ID : make_nodeid(PSEUDO_MOUNT, waypoint->index);
}

static bool is_at(const struct mount_tree *tree, const struct waypoint *waypoint, uint64_t nodeid)
{
    if (waypoint->mount != TREE_NO_MOUNT && nodeid == make_nodeid(waypoint->mount, FUSE_ROOT_ID))
        return true;
    return nodeid != 0 && (nodeid == waypoint->nodeid || nodeid == mount_tree_pseudo_nodeid(tree, waypoint));
}

struct waypoint *mount_tree_find(const struct mount_tree *tree, uint64_t nodeid)
{
    for (uint32_t i = 0; i < tree->count; i++) {
        if (is_at(tree, tree->waypoints[i], nodeid))
            return tree->waypoints[i];
    }
    return NULL;
}

static struct waypoint *find_child(const struct mount_tree *tree, const struct waypoint *parent,
                                   const char *name, size_t length)
{
    for (uint32_t i = 0; i < tree->count; i++) {
        struct waypoint *child = tree->waypoints[i];
        if (child->parent == parent && child->length == length && memcmp(child->name, name, length) == 0)
            return child;
    }
    return NULL;
}

struct waypoint *mount_tree_child(const struct mount_tree *tree, const struct waypoint *parent,
                                  const char *name)
{
    return find_child(tree, parent, name, strlen(name));
}

struct waypoint *mount_tree_waypoint(const struct mount_tree *tree, uint64_t index)
{
    for (uint32_t i = 0; i < tree->count; i++) {
        if (tree->waypoints[i]->index == index)
            return tree->waypoints[i];
    }
    return NULL;
}

static struct waypoint *find_mount(const struct mount_tree *tree, uint16_t mount)
{
    for (uint32_t i = 0; i < tree->count; i++) {
        if (tree->waypoints[i]->mount == mount)
            return tree->waypoints[i];
    }
    return NULL;
}

static bool has_children(const struct mount_tree *tree, const struct waypoint *waypoint)
{
    for (uint32_t i = 0; i < tree->count; i++) {
        if (tree->waypoints[i]->parent == waypoint)
            return true;
    }
    return false;
}

/* ---- The filter ---- */

static uint32_t filter_bit(uint64_t nodeid)
{
    return (uint32_t)(nodeid * 0x9e3779b97f4a7c15ULL >> 55);
}

_Static_assert(TREE_FILTER_WORDS * 64 == 1 << (64 - 55), "a bit has its place");

/* Whether names in a directory may be waypoints. The guest learns of a nodeid after it was noted here: the used
 * ring's barrier, or its own, is between. */
static bool may_lead(const struct mount_tree *tree, uint64_t nodeid)
{
    uint32_t bit = filter_bit(nodeid);
    return (atomic_load_explicit(&tree->filter[bit / 64], memory_order_relaxed) >> bit % 64 & 1) != 0;
}

static void mark(uint64_t *words, uint64_t nodeid)
{
    uint32_t bit = filter_bit(nodeid);
    words[bit / 64] |= 1ULL << bit % 64;
}

/* Under the lock. Each word changes at once, so that what stays is always found. */
static void rebuild_filter(struct mount_tree *tree)
{
    uint64_t words[TREE_FILTER_WORDS] = {0};
    for (uint32_t i = 1; i < tree->count; i++) {
        const struct waypoint *leads = tree->waypoints[i]->parent;
        mark(words, mount_tree_pseudo_nodeid(tree, leads));
        if (leads->nodeid != 0)
            mark(words, leads->nodeid);
        if (leads->mount != TREE_NO_MOUNT)
            mark(words, make_nodeid(leads->mount, FUSE_ROOT_ID));
    }
    for (size_t i = 0; i < TREE_FILTER_WORDS; i++)
        atomic_store_explicit(&tree->filter[i], words[i], memory_order_relaxed);
}

/* ---- Paths ---- */

static struct waypoint *append(struct mount_tree *tree, struct waypoint *parent, const char *name,
                               size_t length)
{
    struct waypoint *made = calloc(1, sizeof(*made) + length + 1);
    if (made == NULL)
        return NULL;
    made->parent = parent;
    made->index = tree->next_index++;
    made->mount = TREE_NO_MOUNT;
    made->length = length;
    memcpy(made->name, name, length);
    tree->waypoints[tree->count++] = made;
    return made;
}

/* Remove a waypoint and those above it that lead nowhere any more. Under the lock. */
static void prune(struct mount_tree *tree, struct waypoint *waypoint)
{
    while (waypoint->parent != NULL && waypoint->mount == TREE_NO_MOUNT && !has_children(tree, waypoint)) {
        struct waypoint *parent = waypoint->parent;
        uint32_t place = 0;
        while (tree->waypoints[place] != waypoint)
            place++;
        tree->count--;
        memmove(&tree->waypoints[place], &tree->waypoints[place + 1],
                (tree->count - place) * sizeof(struct waypoint *));
        free(waypoint);
        waypoint = parent;
    }
}

/* The next component of a path; its length is 0 at the end. */
static const char *next_component(const char *path, size_t *length)
{
    while (*path == '/')
        path++;
    *length = strcspn(path, "/");
    return path;
}

static int check_path(const char *path)
{
    if (path[0] != '/')
        return -EINVAL;
    size_t length;
    for (path = next_component(path, &length); length > 0; path = next_component(path + length, &length)) {
        if (length > NAME_LIMIT)
            return -ENAMETOOLONG;
        if (path[0] == '.' && (length == 1 || (length == 2 && path[1] == '.')))
            return -EINVAL;
    }
    return 0;
}

/* The waypoint of a path, made where there is none. Under the lock; *error where it returns NULL. */
static struct waypoint *make_path(struct mount_tree *tree, const char *path, int *error)
{
    struct waypoint *at = tree->waypoints[0];
    size_t length;
    for (path = next_component(path, &length); length > 0; path = next_component(path + length, &length)) {
        struct waypoint *next = find_child(tree, at, path, length);
        *error = next == NULL && tree->count == TREE_WAYPOINTS ? -ENOSPC : -ENOMEM;
        if (next == NULL && tree->count < TREE_WAYPOINTS)
            next = append(tree, at, path, length);
        if (next == NULL) {
            prune(tree, at);
            return NULL;
        }
        at = next;
    }
    return at;
}

int mount_tree_add(struct mount_tree *tree, const char *path, uint16_t mount)
{
    int error = check_path(path);
    if (error != 0)
        return error;
    pthread_mutex_lock(&tree->lock);
    struct waypoint *at = make_path(tree, path, &error);
    if (at != NULL) {
        bool taken = at->parent == NULL || at->mount != TREE_NO_MOUNT || find_mount(tree, mount) != NULL;
        error = taken ? -EBUSY : 0;
    }
    if (error == 0) {
        at->mount = mount;
        at->nodeid = 0;
    } else if (at != NULL) {
        prune(tree, at);
    }
    rebuild_filter(tree);
    pthread_mutex_unlock(&tree->lock);
    return error;
}

int mount_tree_remove(struct mount_tree *tree, uint16_t mount)
{
    pthread_mutex_lock(&tree->lock);
    struct waypoint *at = find_mount(tree, mount);
    int error = at != NULL && has_children(tree, at) ? -EBUSY : 0;
    if (at != NULL && error == 0) {
        at->mount = TREE_NO_MOUNT;
        prune(tree, at);
        rebuild_filter(tree);
    }
    pthread_mutex_unlock(&tree->lock);
    return error;
}

/* ---- The tree's life ---- */

struct mount_tree *mount_tree_create(struct session *session, bool has_root)
{
    struct mount_tree *tree = calloc(1, sizeof(*tree));
    if (tree == NULL)
        return NULL;
    tree->session = session;
    tree->next_index = FUSE_ROOT_ID;
    pthread_mutex_init(&tree->lock, NULL);
    struct waypoint *root = append(tree, NULL, "", 0);
    if (root == NULL) {
        mount_tree_destroy(tree);
        return NULL;
    }
    root->mount = has_root ? 0 : TREE_NO_MOUNT;
    pseudo_init(tree);
    return tree;
}

void mount_tree_destroy(struct mount_tree *tree)
{
    for (uint32_t i = 0; i < tree->count; i++)
        free(tree->waypoints[i]);
    pthread_mutex_destroy(&tree->lock);
    free(tree);
}

void mount_tree_end(struct mount_tree *tree)
{
    pthread_mutex_lock(&tree->lock);
    for (uint32_t i = 0; i < tree->count; i++)
        tree->waypoints[i]->nodeid = tree->waypoints[i]->lookups = 0;
    rebuild_filter(tree);
    pthread_mutex_unlock(&tree->lock);
}

/* ---- Before the dispatch ---- */

/* A string of the arguments that begins at an offset, or NULL. */
static const char *peek_string(const struct request *request, size_t offset)
{
    if (offset >= request->arguments_size)
        return NULL;
    const uint8_t *string = request->arguments + offset;
    return memchr(string, 0, request->arguments_size - offset) != NULL ? (const char *)string : NULL;
}

static uint64_t peek_number(const struct request *request, size_t offset)
{
    uint64_t number = request->in.nodeid; /* where there is none, the mount says EIO */
    if (offset + sizeof(number) <= request->arguments_size)
        memcpy(&number, request->arguments + offset, sizeof(number));
    return number;
}

void mount_tree_rewrite(struct request *request, uint32_t opcode, uint64_t nodeid, const void *arguments,
                        size_t size)
{
    request->in.opcode = opcode;
    request->in.nodeid = nodeid;
    request->in.total_extlen = 0;
    request->in.len = (uint32_t)(sizeof(request->in) + size);
    request->arguments = arguments;
    request->arguments_size = size;
    request->arguments_position = 0;
    request->readable_position = request->in.len; /* no data behind */
}

static void ask_for_root(struct request *request, uint16_t mount)
{
    static const struct fuse_getattr_in in;
    mount_tree_rewrite(request, FUSE_GETATTR, make_nodeid(mount, FUSE_ROOT_ID), &in, sizeof(in));
    request->tree_step = TREE_ROOT_ENTRY;
}

/* Lead out of a mount, or of a pseudo directory, to what is above it. */
static void lead_up(const struct mount_tree *tree, struct request *request, const struct waypoint *above)
{
    static const char dot[] = ".";
    if (above->mount != TREE_NO_MOUNT) {
        ask_for_root(request, above->mount);
    } else if (above->nodeid != 0) {
        mount_tree_rewrite(request, FUSE_LOOKUP, above->nodeid, dot, sizeof(dot));
        request->tree_step = TREE_NOTE_ENTRY;
        request->waypoint = above->index;
    } else {
        mount_tree_rewrite(request, FUSE_LOOKUP, mount_tree_pseudo_nodeid(tree, above), dot, sizeof(dot));
    }
}

static void lead_down(const struct mount_tree *tree, struct request *request, const struct waypoint *below)
{
    if (below->mount != TREE_NO_MOUNT) {
        ask_for_root(request, below->mount);
    } else if (session_find(tree->session, nodeid_mount(request->in.nodeid)) != &tree->pseudo) {
        request->tree_step = TREE_NOTE_ENTRY;
        request->waypoint = below->index;
    }
}

static void route_lookup(struct mount_tree *tree, struct request *request)
{
    const char *name = peek_string(request, 0);
    if (name == NULL)
        return;
    bool up = strcmp(name, "..") == 0;
    if (!up && !may_lead(tree, request->in.nodeid))
        return;
    pthread_mutex_lock(&tree->lock);
    const struct waypoint *at = mount_tree_find(tree, request->in.nodeid);
    if (at != NULL && up && at->parent != NULL && request->in.nodeid != at->nodeid)
        lead_up(tree, request, at->parent);
    const struct waypoint *below = at != NULL && !up ? mount_tree_child(tree, at, name) : NULL;
    if (below != NULL)
        lead_down(tree, request, below);
    pthread_mutex_unlock(&tree->lock);
}

static void route_listing(struct mount_tree *tree, struct request *request)
{
    if (!may_lead(tree, request->in.nodeid))
        return;
    pthread_mutex_lock(&tree->lock);
    const struct waypoint *at = mount_tree_find(tree, request->in.nodeid);
    if (at != NULL && session_find(tree->session, nodeid_mount(request->in.nodeid)) != &tree->pseudo) {
        request->tree_step = TREE_LISTING;
        request->waypoint = at->index;
    }
    pthread_mutex_unlock(&tree->lock);
}

/* A mount that does not know STATX tells what GETATTR tells. */
static void route_statx(const struct mount_tree *tree, struct request *request)
{
    const struct filesystem *filesystem = session_find(tree->session, nodeid_mount(request->in.nodeid));
    if (filesystem == NULL || filesystem->operations[FUSE_STATX] != NULL ||
        request->arguments_size < sizeof(struct fuse_getattr_in))
        return;
    /* struct fuse_statx_in begins as fuse_getattr_in does. */
    mount_tree_rewrite(request, FUSE_GETATTR, request->in.nodeid, request->arguments,
                       sizeof(struct fuse_getattr_in));
    request->tree_step = TREE_STATX;
}

_Static_assert(offsetof(struct fuse_statx_in, fh) == offsetof(struct fuse_getattr_in, fh), "fuse.h");

/* Under the lock. False: all is as it was. */
static bool count_forgotten(struct mount_tree *tree, uint64_t nodeid, uint64_t lookups)
{
    bool gone = false;
    for (uint32_t i = 0; i < tree->count; i++) {
        struct waypoint *waypoint = tree->waypoints[i];
        if (nodeid == 0 || waypoint->nodeid != nodeid)
            continue;
        waypoint->lookups -= lookups < waypoint->lookups ? lookups : waypoint->lookups;
        if (waypoint->lookups > 0)
            continue;
        waypoint->nodeid = 0;
        gone = true;
    }
    return gone;
}

static void forget(struct mount_tree *tree, uint64_t nodeid, uint64_t lookups)
{
    if (!may_lead(tree, nodeid))
        return;
    pthread_mutex_lock(&tree->lock);
    if (count_forgotten(tree, nodeid, lookups))
        rebuild_filter(tree);
    pthread_mutex_unlock(&tree->lock);
}

void mount_tree_forget(struct mount_tree *tree, struct request *request)
{
    request->arguments_position = 0;
    const struct fuse_batch_forget_in *in = request_argument(request, sizeof(*in));
    for (uint32_t i = 0; in != NULL && i < in->count; i++) {
        const struct fuse_forget_one *one = request_argument(request, sizeof(*one));
        if (one == NULL)
            break;
        forget(tree, one->nodeid, one->nlookup);
    }
    request->arguments_position = 0;
}

void mount_tree_note(struct mount_tree *tree, uint64_t index, uint64_t nodeid)
{
    pthread_mutex_lock(&tree->lock);
    struct waypoint *waypoint = mount_tree_waypoint(tree, index);
    if (waypoint != NULL && waypoint->mount == TREE_NO_MOUNT) {
        waypoint->lookups = waypoint->nodeid == nodeid ? waypoint->lookups + 1 : 1;
        if (waypoint->nodeid != nodeid) {
            waypoint->nodeid = nodeid;
            rebuild_filter(tree);
        }
    }
    pthread_mutex_unlock(&tree->lock);
}

static bool is_waypoint(struct mount_tree *tree, uint64_t nodeid, const char *name)
{
    if (name == NULL || !may_lead(tree, nodeid))
        return false;
    pthread_mutex_lock(&tree->lock);
    const struct waypoint *at = mount_tree_find(tree, nodeid);
    bool found = at != NULL && mount_tree_child(tree, at, name) != NULL;
    pthread_mutex_unlock(&tree->lock);
    return found;
}

/* The error of a name that is to be made or removed, or 0. */
static int32_t check_name(struct mount_tree *tree, const struct request *request, size_t offset,
                          int32_t error)
{
    return is_waypoint(tree, request->in.nodeid, peek_string(request, offset)) ? error : 0;
}

static int32_t check_other(const struct request *request, size_t offset)
{
    return nodeid_mount(peek_number(request, offset)) != nodeid_mount(request->in.nodeid) ? -EXDEV : 0;
}

static int32_t check_rename(struct mount_tree *tree, const struct request *request, size_t head)
{
    if (check_other(request, 0) != 0)
        return -EXDEV;
    const char *name = peek_string(request, head);
    if (name == NULL)
        return 0;
    const char *new_name = peek_string(request, head + strlen(name) + 1);
    bool busy =
        is_waypoint(tree, request->in.nodeid, name) || is_waypoint(tree, peek_number(request, 0), new_name);
    return busy ? -EBUSY : 0;
}

bool mount_tree_route(struct mount_tree *tree, struct request *request, int32_t *result)
{
    *result = 0;
    switch (request->in.opcode) {
    case FUSE_LOOKUP:
        route_lookup(tree, request);
        break;
    case FUSE_READDIRPLUS:
        route_listing(tree, request);
        break;
    case FUSE_STATX:
        route_statx(tree, request);
        break;
    case FUSE_FORGET:
        forget(tree, request->in.nodeid, peek_number(request, 0));
        break;
    case FUSE_UNLINK:
    case FUSE_RMDIR:
        *result = check_name(tree, request, 0, -EBUSY);
        break;
    case FUSE_RENAME:
        *result = check_rename(tree, request, sizeof(struct fuse_rename_in));
        break;
    case FUSE_RENAME2:
        *result = check_rename(tree, request, sizeof(struct fuse_rename2_in));
        break;
    case FUSE_LINK:
        *result = check_other(request, 0);
        if (*result == 0)
            *result = check_name(tree, request, sizeof(struct fuse_link_in), -EEXIST);
        break;
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64:
        *result = check_other(request, offsetof(struct fuse_copy_file_range_in, nodeid_out));
        break;
    case FUSE_SYMLINK:
        *result = check_name(tree, request, 0, -EEXIST);
        break;
    case FUSE_MKDIR:
        *result = check_name(tree, request, sizeof(struct fuse_mkdir_in), -EEXIST);
        break;
    case FUSE_MKNOD:
        *result = check_name(tree, request, sizeof(struct fuse_mknod_in), -EEXIST);
        break;
    case FUSE_CREATE:
        *result = check_name(tree, request, sizeof(struct fuse_create_in), -EEXIST);
        break;
    default:
        break;
    }
    return *result != 0;
}
