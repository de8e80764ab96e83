/* A guest that asks for anything: makes requests of every operation out of bytes, with nodeids and handles that it was given and
 * with any others, in pieces and rooms of all sizes. What chooses the bytes, a fuzzer or a sequence of numbers, is the
 * test's.
 */
#pragma once
#include "loopback.h"

/* How many nodeids, and how many handles, such a guest remembers. */
#define WILD_KNOWN 8

/* Bytes to choose by, consumed from the front; zeros when they are used up. */
struct wild_choices {
    const uint8_t *bytes;
    size_t left;
};

struct wild_handle {
    uint64_t fh;
    uint64_t nodeid; /* that it was opened for */
};

struct wild_guest {
    struct loopback_thread thread;
    uint64_t nodeids[WILD_KNOWN];              /* the first is the root's */
    struct wild_handle handles[2][WILD_KNOWN]; /* of files, of directories */
    size_t nodeid_count;
    size_t handle_count;
};

/* Create a loopback for such guests, with options by `how`: all that can be negotiated is, or nothing; with bit 3 the directory is
 * also mounted at "/a", "/a/b" and "/c/d", as mounts 1 to 3. */
void wild_loopback_create(struct loopback *loopback, uint8_t how);
/* Mount it once more, in a loopback with that bit. The mount. */
uint16_t wild_loopback_mount(struct loopback *loopback, const char *path);
/* Begin as the calling thread; it knows the root alone. End: the thread is as every other again, then detached. */
void wild_guest_begin(struct wild_guest *guest, struct loopback *loopback);
void wild_guest_end(struct wild_guest *guest);
/* Send one request. The loopback checks the reply. */
void wild_guest_request(struct wild_guest *guest, struct wild_choices *choices);
uint8_t wild_choice(struct wild_choices *choices);
