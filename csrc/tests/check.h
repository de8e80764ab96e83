/* Checks for the C tests: a broken promise is printed with file, line and values, and the test program
 * exits 1. */
#pragma once
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__, #condition);            \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* Both sides are integers; a negative one is printed with its errno's text. */
#define CHECK_EQUAL(actual, expected)                                                                        \
    do {                                                                                                     \
        long long check_actual = (long long)(actual);                                                        \
        long long check_expected = (long long)(expected);                                                    \
        if (check_actual != check_expected) {                                                                \
            fprintf(stderr, "%s:%d: %s: %s is %lld%s%s, not %lld\n", __FILE__, __LINE__, __func__, #actual,  \
                    check_actual, check_actual<0 && check_actual> - 4096 ? " " : "",                         \
                    check_actual < 0 && check_actual > -4096 ? strerror((int)-check_actual) : "",            \
                    check_expected);                                                                         \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* One promise: runs the function, says its name. */
#define PROMISE(function)                                                                                    \
    do {                                                                                                     \
        function();                                                                                          \
        printf("  %s\n", #function);                                                                         \
        fflush(stdout);                                                                                      \
    } while (0)

/* For the main of a test that acts for several users, as only root may. False: it has said that it shows nothing. */
static inline bool check_runs_as_root(void)
{
    if (geteuid() == 0)
        return true;
    printf("  not run: acting for several users needs root\n");
    return false;
}
