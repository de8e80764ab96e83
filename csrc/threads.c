/* Threads of the data plane; the contract is in threads.h. */
#define _GNU_SOURCE 1
#include "threads.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>

/* Of the real-time signals, one that neither the C library nor Python takes for itself. */
#define CANCEL_SIGNAL (SIGRTMIN + 7)

static pthread_once_t installed = PTHREAD_ONCE_INIT;
static int install_error;

static void ignore(int number)
{
    (void)number;
}

static void install(void)
{
    struct sigaction action = {.sa_handler = ignore}; /* no SA_RESTART: that is the point */
    sigemptyset(&action.sa_mask);
    if (sigaction(CANCEL_SIGNAL, &action, NULL) != 0)
        install_error = -errno;
}

int threads_install_cancel(void)
{
    pthread_once(&installed, install);
    return install_error;
}

static void blocked_signals(sigset_t *set)
{
    static const int faults[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigfillset(set);
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        sigdelset(set, faults[i]);
    sigdelset(set, CANCEL_SIGNAL);
}

int threads_start(pthread_t *thread, const char *name, void *(*run)(void *argument), void *argument)
{
    sigset_t blocked;
    sigset_t before;
    blocked_signals(&blocked);
    /* Blocked here already, so that the new thread never runs without. */
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int error = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        return -error;
    pthread_setname_np(*thread, name);
    return 0;
}

void threads_cancel_sleep(pthread_t thread)
{
    pthread_kill(thread, CANCEL_SIGNAL);
}

void threads_condition(pthread_cond_t *condition)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &monotonic);
    pthread_condattr_destroy(&monotonic);
}
