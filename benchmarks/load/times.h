/* Durations, counted and printed. */
#ifndef TIMES_H
#define TIMES_H

#include <stdint.h>
#include <stdio.h>

enum {
    MANTISSA = 7,
    BUCKETS = (36 - MANTISSA + 1) << MANTISSA,
};

/* Counts in buckets of 1 ns below 256 ns; above, a duration's bucket is its 8 highest bits (128 to 255) and how far they
 * are shifted: (shift << 7) + bits. So it is no wider than 1/128 of what it holds. 30 KiB. */
struct times {
    uint64_t counts[BUCKETS]; /* the last takes in what is longer than 68 s */
    int64_t max;              /* ns */
};

/* A negative duration counts as 0. */
static inline void count_time(struct times *times, int64_t ns) {
    uint64_t value = ns > 0 ? (uint64_t)ns : 0;
    int shift = value >> (MANTISSA + 1) ? 63 - MANTISSA - __builtin_clzll(value) : 0;
    uint64_t bucket = ((uint64_t)shift << MANTISSA) + (value >> shift);
    times->counts[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    if (ns > times->max)
        times->max = ns;
}

/* As JSON: the longest, and [bucket, count] where there are any. */
static inline void print_times(const struct times *times) {
    printf("{\"max\": %lld, \"buckets\": [", (long long)times->max);
    const char *comma = "";
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        if (times->counts[bucket]) {
            printf("%s[%d, %llu]", comma, bucket, (unsigned long long)times->counts[bucket]);
            comma = ", ";
        }
    printf("]}");
}

#endif
