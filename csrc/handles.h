/* Handles: what the guest has open, by fh. Slots as for nodes: O(1), no lock to find one, retired by epochs.
 *
 * fh is generation << 32 | slot, so that a closed or invented one is EBADF.
 */
#pragma once
#include "epoch.h"
#include "request.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct handle_table;

enum handle_kind {
    HANDLE_FILE,
    HANDLE_DIRECTORY,
};

/* What a directory handle remembers between two READDIRs, so that the next needs no seek and no entry is read
 * twice. */
struct directory_stream {
    pthread_mutex_t lock;
    uint8_t *buffer; /* of getdents64; NULL until first read */
    uint32_t filled; /* bytes */
    uint32_t position;
    uint64_t next_offset; /* the cookie that the guest will send to go on at `position` */
};

struct handle {
    struct epoch_retired retired;
    struct handle_table *table;
    _Atomic uint32_t pins;
    uint32_t kind; /* enum handle_kind */
    uint64_t fh;
    int fd;                   /* owned */
    int flags;                /* open(2) flags as they reached the host */
    _Atomic uint32_t reading; /* what passthrough_data.c found out about reading without sleeping */
    uint64_t nodeid;
    struct directory_stream stream;
};

/* Make a handle that owns fd (closed on failure too). The fh in *fh; 0 or a negative errno (ENFILE, ENOMEM). */
int handle_create(struct request *request, int fd, enum handle_kind kind, int flags, uint64_t nodeid,
                  uint64_t *fh);
/* The handle of an fh, held for the request. NULL: closed, invented or of the other kind; answer EBADF. */
struct handle *handle_find(struct request *request, uint64_t fh, enum handle_kind kind);
/* Close a handle: it is not found from now on; its fd is closed when nobody uses it. false: no such. */
bool handle_close(struct request *request, uint64_t fh, enum handle_kind kind);
/* The descriptor of any handle of a node, good until the epoch ends; -1: there is none. Looks at every
 * handle. */
int handle_any_descriptor(struct request *request, uint64_t nodeid);

/* Count a descriptor that is kept for the guest beside its handles, which count their own: each mount has its
 * part of what the process may open, and none takes the others'. False: there is no room. */
bool handle_count_descriptor(struct handle_table *table);
/* Whether there is room for a handle: asked before an open that changes something. */
bool handle_has_room(struct handle_table *table);
void handle_discount_descriptor(struct handle_table *table);
