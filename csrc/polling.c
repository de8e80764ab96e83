/* How long to poll; the contract is in polling.h. */
#include "polling.h"

#define FIRST_WINDOW 8U     /* part of the longest window that is tried first */
#define LONGEST_PAUSE 1023U /* sleeps */
/* A sleep takes longer than the work was away: waking up takes its time, too. */
#define WAKING 2U

void polling_begin(struct polling *polling, uint64_t most)
{
    *polling = (struct polling){.most = most};
}

uint64_t polling_window(struct polling *polling)
{
    polling->in_vain = false;
    if (polling->window == 0)
        return 0;
    if (polling->pause > 0) {
        polling->pause--;
        return 0;
    }
    polling->in_vain = true;
    return polling->window;
}

void polling_found(struct polling *polling)
{
    polling->in_vain = false;
    polling->penalty /= 2;
}

static void grow(struct polling *polling)
{
    uint64_t first = (polling->most + FIRST_WINDOW - 1) / FIRST_WINDOW;
    uint64_t grown = polling->window == 0 ? first : polling->window * 2;
    polling->window = grown < polling->most ? grown : polling->most;
}

/* A poll of full length found nothing, and soon after we slept there was something. */
static void hold_back(struct polling *polling)
{
    uint32_t penalty = polling->penalty * 2 + 1;
    polling->penalty = penalty < LONGEST_PAUSE ? penalty : LONGEST_PAUSE;
    polling->pause = polling->penalty;
}

void polling_slept(struct polling *polling, uint64_t nanoseconds)
{
    if (nanoseconds / WAKING > polling->most)
        polling->window /= 2;
    else if (polling->window < polling->most)
        grow(polling);
    else if (polling->in_vain)
        hold_back(polling);
}
