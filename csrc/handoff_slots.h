/* Between handoff.c, the way to Python, and handoff_answers.c, the way back. Under the handoff's lock, where nothing
 * else is said. */
#pragma once
#include "handoff.h"

#define NO_SLOT UINT32_MAX

/* The slot that a token names, or NULL: it was answered. */
struct handoff_slot *handoff_find(struct vhostfs_handoff *handoff, uint64_t token);
/* The slot is free again; its token names nothing any more. */
void handoff_free_slot(struct vhostfs_handoff *handoff, struct handoff_slot *slot);
/* Take its request from a slot. What Python may have views of stays until Python answers; one that it has not seen yet
 * becomes a note without meaning. */
struct request *handoff_take_back(struct handoff_slot *slot);
/* Answer EIO to requests, linked by next, that no slot has any more. Outside of the lock. */
void handoff_refuse(struct request *requests);
