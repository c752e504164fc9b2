/* Histogram of durations. */
#ifndef TIMES_H
#define TIMES_H

#include <stdint.h>
#include <stdio.h>

enum {
    MANTISSA = 7,
    BUCKETS = (36 - MANTISSA + 1) << MANTISSA,
};

/* Counts by bucket. Below 256 ns a bucket is 1 ns wide. Above, the bucket follows from the 8 highest bits of the
 * duration (128 to 255) and their shift: (shift << 7) + bits. It is at most 1/128 as wide as its durations. 30 KiB. */
struct times {
    uint64_t counts[BUCKETS]; /* the last one is for all durations over 68 s */
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

/* Prints JSON: the maximum, and [bucket, count] of each bucket that is not empty. */
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
