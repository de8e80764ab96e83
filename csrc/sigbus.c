/* The registry of mapped ranges and the handler that repairs them; the contract is in sigbus.h.
 *
 * The handler reads the registry without a lock: slots live in chunks that are never freed, and a slot's base
 * is written last when it is taken and first when it is given back. A fault in a range means that somebody
 * still uses it, so the slot that matters cannot be in change; the others are only compared.
 */
#define _GNU_SOURCE 1
#include "sigbus.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RANGES_PER_CHUNK 128

struct sigbus_range {
    _Atomic uintptr_t base; /* 0: free */
    _Atomic size_t length;
    _Atomic bool gone;
};

struct chunk {
    struct sigbus_range ranges[RANGES_PER_CHUNK];
    _Atomic(struct chunk *) next;
};

_Atomic uint64_t sigbus_repairs;

static struct chunk first_chunk;
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t installed = PTHREAD_ONCE_INIT;
static int install_error;
static struct sigaction previous;

/* The range that holds an address, with its base and length; NULL: none. Safe in a signal handler. */
static struct sigbus_range *find(uintptr_t address, uintptr_t *base, size_t *length)
{
    for (struct chunk *chunk = &first_chunk; chunk != NULL;
         chunk = atomic_load_explicit(&chunk->next, memory_order_acquire)) {
        for (size_t i = 0; i < RANGES_PER_CHUNK; i++) {
            struct sigbus_range *range = &chunk->ranges[i];
            *base = atomic_load_explicit(&range->base, memory_order_acquire);
            if (*base == 0 || address < *base)
                continue;
            *length = atomic_load_explicit(&range->length, memory_order_acquire);
            if (address - *base >= *length)
                continue;
            if (atomic_load_explicit(&range->base, memory_order_acquire) == *base)
                return range;
        }
    }
    return NULL;
}

_Static_assert(sizeof(void *) == 8, "SYS_mmap takes its arguments in registers, its offset in bytes");

static bool repair(void *address)
{
    uintptr_t base = 0;
    size_t length = 0;
    struct sigbus_range *range = find((uintptr_t)address, &base, &length);
    if (range == NULL)
        return false;
    /* The system call itself: sanitizers put something of their own before mmap that a signal handler may not
     * call. */
    long mapped = syscall(SYS_mmap, base, length, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (mapped == -1)
        return false;
    atomic_store_explicit(&range->gone, true, memory_order_release);
    atomic_fetch_add_explicit(&sigbus_repairs, 1, memory_order_release);
    return true;
}

static void hand_on(int number, siginfo_t *info, void *context)
{
    if ((previous.sa_flags & SA_SIGINFO) != 0) {
        previous.sa_sigaction(number, info, context);
        return;
    }
    if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
        return;
    }
    if (previous.sa_handler == SIG_IGN && info->si_code <= 0)
        return;
    /* The default action: when this handler returns, the fault happens again or the signal is raised again. */
    signal(SIGBUS, SIG_DFL);
    if (info->si_code <= 0)
        raise(SIGBUS);
}

static void handle(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    /* A code above 0 is the kernel's own: a fault at si_addr, not a signal that somebody sent. */
    if (info->si_code <= 0 || !repair(info->si_addr))
        hand_on(number, info, context);
    errno = saved;
}

static void install(void)
{
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &previous) != 0)
        install_error = -errno;
}

int sigbus_install(void)
{
    pthread_once(&installed, install);
    return install_error;
}

/* Under the lock: a free slot, in a new chunk where need be. */
static struct sigbus_range *free_range(void)
{
    struct chunk *chunk = &first_chunk;
    for (;;) {
        for (size_t i = 0; i < RANGES_PER_CHUNK; i++) {
            if (atomic_load_explicit(&chunk->ranges[i].base, memory_order_relaxed) == 0)
                return &chunk->ranges[i];
        }
        struct chunk *next = atomic_load_explicit(&chunk->next, memory_order_relaxed);
        if (next == NULL) {
            next = calloc(1, sizeof(*next));
            if (next == NULL)
                return NULL;
            atomic_store_explicit(&chunk->next, next, memory_order_release);
        }
        chunk = next;
    }
}

struct sigbus_range *sigbus_register(void *base, size_t length)
{
    pthread_mutex_lock(&registry_lock);
    struct sigbus_range *range = free_range();
    if (range != NULL) {
        atomic_store_explicit(&range->gone, false, memory_order_relaxed);
        atomic_store_explicit(&range->length, length, memory_order_release);
        atomic_store_explicit(&range->base, (uintptr_t)base, memory_order_release);
    }
    pthread_mutex_unlock(&registry_lock);
    return range;
}

void sigbus_unregister(struct sigbus_range *range)
{
    pthread_mutex_lock(&registry_lock);
    atomic_store_explicit(&range->base, 0, memory_order_release);
    pthread_mutex_unlock(&registry_lock);
}

bool sigbus_gone(const struct sigbus_range *range)
{
    return atomic_load_explicit(&range->gone, memory_order_acquire);
}
