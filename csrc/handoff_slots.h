/* Between handoff.c, the way to Python, and handoff_answers.c, the way back. All under the handoff's lock. */
#pragma once
#include "handoff.h"

#define NO_SLOT UINT32_MAX

/* The slot that a token names, or NULL: it was answered. */
struct handoff_slot *handoff_find(struct vhostfs_handoff *handoff, uint64_t token);
/* The slot is free again; its token names nothing any more. */
void handoff_free_slot(struct vhostfs_handoff *handoff, struct handoff_slot *slot);
