/* Loaded before everything else into the process that is counted: a clock that is the same each time, and a count of
 * allocations.
 *
 * The clock moves on by a microsecond each time it is read, so that no bucket, no second of `expires_in` and no timer
 * depends on how fast this machine is. Allocations are counted between two calls of steady_count() only; for them Python
 * allocates from here too (PYTHONMALLOC=malloc). */
#define _GNU_SOURCE
#include <stddef.h>
#include <time.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

static long long now_ns = 1000LL * 1000 * 1000 * 1000;
static unsigned long long allocations;
static int counting;

int clock_gettime(clockid_t clock, struct timespec *at) {
    (void)clock;
    now_ns += 1000;
    at->tv_sec = now_ns / 1000000000;
    at->tv_nsec = now_ns % 1000000000;
    return 0;
}

void steady_count(int on) { counting = on; }

unsigned long long steady_allocations(void) {
    unsigned long long counted = allocations;
    allocations = 0;
    return counted;
}

void *malloc(size_t size) {
    allocations += (unsigned long long)counting;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    allocations += (unsigned long long)counting;
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    allocations += (unsigned long long)counting;
    return __libc_realloc(old, size);
}
