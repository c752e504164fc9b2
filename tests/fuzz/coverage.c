/* gcc's edges as libFuzzer wants them. Linked into every extension of the fuzzed build.
 *
 * libFuzzer is told of an array of counters, one per edge, as clang lays it out; gcc calls a function at each edge
 * (-fsanitize-coverage=trace-pc). So here is the array, and an edge's place in it is a hash of its address. Comparisons
 * (trace-cmp) look the same in both compilers: those calls lead straight to libFuzzer.
 */
#include <stddef.h>
#include <stdint.h>

#define HIDDEN __attribute__((visibility("hidden")))
#define BITS 13 /* the largest room has 4,000 edges; libFuzzer walks the whole array after each run */
#define COUNTERS (1 << BITS)

void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *stop);
void __sanitizer_cov_pcs_init(const uintptr_t *start, const uintptr_t *stop);

static uint8_t counters[COUNTERS];
static uintptr_t places[COUNTERS][2]; /* address and flags of each edge: has to be as long, and is only printed */

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

/* gcc alone tells of comparisons between floating-point numbers, and nobody listens. */
HIDDEN void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a; (void)b; }
HIDDEN void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a; (void)b; }
