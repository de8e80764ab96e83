/* File transfers that the host's kernel does by itself, by io_uring: what a queue thread would sleep for is
 * under way while it serves other requests.
 *
 * A ring belongs to one queue thread, which makes it, hands it detached requests whose `transfer` says what to
 * read, and takes them back. Handing over has two steps, so that requests that come together go together: a
 * request is staged, and a system call submits all that are. Neither an open file nor vectors need stay after
 * that: the kernel holds the file, and has copied the vectors.
 *
 * The kernel does a transfer's last part, the copy into guest memory, on the thread that owns the ring when it
 * enters the kernel for that (IORING_SETUP_DEFER_TASKRUN): uring_next has it done.
 */
#pragma once
#include "request.h"

struct uring;

/* Most transfers under way in a ring. */
#define URING_IN_FLIGHT 256

/* Make a ring of the calling thread's. `wake_fd`, an eventfd, is signalled when there is something to take.
 * NULL where the host has no io_uring, forbids it, or has one older than Linux 6.1. */
struct uring *uring_create(int wake_fd);
/* Nothing is under way in it. NULL: nothing. */
void uring_destroy(struct uring *ring);

/* Take a detached request, to read what its `transfer` says into its reply. False: there is no room. */
bool uring_stage(struct uring *ring, struct request *request);
/* Whether something is staged. */
bool uring_has_staged(const struct uring *ring);
/* Submit what is staged; while the files of its transfers are open. What the kernel does not take goes back to
 * the caller, as a list. */
struct request *uring_submit(struct uring *ring);

/* Whether something can be taken; asks memory only. */
bool uring_has_done(const struct uring *ring);
/* Take back a request: bytes moved, or a negative errno, in `moved`. NULL: none is done. */
struct request *uring_next(struct uring *ring, int32_t *moved);
/* Whether there are transfers that were submitted and not taken. */
bool uring_is_busy(const struct uring *ring);
/* Sleep until something can be taken. False: a signal ended it (threads_cancel_sleep). */
bool uring_wait(struct uring *ring);
/* Ask the kernel to give up what it can of that which is under way. */
void uring_cancel(struct uring *ring);
