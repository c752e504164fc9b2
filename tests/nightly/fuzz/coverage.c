/* Conversion of gcc's edge coverage for libFuzzer. Linked into every extension of the fuzzed build.
 *
 * libFuzzer expects an array of counters in clang's layout, one per edge; gcc calls a function at each edge
 * (-fsanitize-coverage=trace-pc). This file defines the array; the index of an edge is a hash of its address.
 * Comparisons (trace-cmp) are the same in both compilers: those calls go directly to libFuzzer.
 */
#include <stddef.h>
#include <stdint.h>

#define HIDDEN __attribute__((visibility("hidden")))
#define BITS 13 /* the largest module has 4,000 edges; libFuzzer reads the whole array after each run */
#define COUNTERS (1 << BITS)

void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *stop);
void __sanitizer_cov_pcs_init(const uintptr_t *start, const uintptr_t *stop);

static uint8_t counters[COUNTERS];
static uintptr_t places[COUNTERS][2]; /* address and flags of each edge: needs the same length, is only printed */

__attribute__((constructor)) static void tell_fuzzer(void) {
    for (size_t at = 0; at < COUNTERS; at++)
        places[at][0] = (uintptr_t)&counters[at];
    __sanitizer_cov_8bit_counters_init(counters, counters + COUNTERS);
    __sanitizer_cov_pcs_init(places[0], places[COUNTERS]);
}

HIDDEN void __sanitizer_cov_trace_pc(void) {
    uint32_t offset = (uint32_t)((uintptr_t)__builtin_return_address(0) - (uintptr_t)&tell_fuzzer);
    counters[(uint32_t)(offset * 2654435769u) >> (32 - BITS)]++; /* Fibonacci hashing */
}

/* Only gcc reports comparisons of floating-point numbers, and libFuzzer does not use them. */
HIDDEN void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a; (void)b; }
HIDDEN void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a; (void)b; }
