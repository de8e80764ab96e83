/* The data plane's own threads: named, without signals but the one that ends a sleep. */
#pragma once
#include <pthread.h>

/* Install the handler of the cancel signal, once a process: it does nothing but end a system call with EINTR.
 */
int threads_install_cancel(void);
/* Start a thread with signals blocked, all but faults and the cancel signal. 0 or a negative errno. */
int threads_start(pthread_t *thread, const char *name, void *(*run)(void *argument), void *argument);
/* A condition whose waits end by CLOCK_MONOTONIC. */
void threads_condition(pthread_cond_t *condition);
/* End the sleep of a thread that was started so and is not joined yet. It may be about to sleep: ask again. */
void threads_cancel_sleep(pthread_t thread);
