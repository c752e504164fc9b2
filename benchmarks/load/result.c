/* The counts of a run as one line of JSON. */
#include <stdio.h>

#include "generator.h"

static const char *const FAILURE_NAMES[FAILURES] = {
    "connect",    /* refused, or timed out */
    "no_port",    /* no local port was free on the source address */
    "send",       /* the socket took a part of the request only */
    "reset",      /* by the server, on an established connection */
    "closed",     /* by the server, before the first byte of an answer or between two */
    "short",      /* the server closed amid an answer */
    "framing",    /* no HTTP/1.1 head of 4,096 bytes at most with exactly one Content-Length and no Transfer-Encoding */
    "excess",     /* more bytes than Content-Length says, or an answer to nothing */
    "unclosed",   /* the server did not close for 1 s after an answer to "close"; seen at the end only */
    "unanswered", /* sent or due before the end, no answer 1 s after it */
    "given_up",   /* clients that stopped trying; counted while warm, too */
};

static void print_group(const struct group *g, int64_t begin_ns, int64_t end_ns) {
    int64_t last_ns = g->last_ns > end_ns ? g->last_ns : end_ns;
    printf("{\"requests\": %llu, \"nanoseconds\": %lld, \"statuses\": {", (unsigned long long)g->answered,
           (long long)(last_ns - begin_ns));
    const char *comma = "";
    for (int status = 0; status <= STATUS_MAX; status++)
        if (g->statuses[status]) {
            printf("%s\"%d\": %llu", comma, status, (unsigned long long)g->statuses[status]);
            comma = ", ";
        }
    printf("}, \"errors\": {");
    comma = "";
    for (int failure = 0; failure < FAILURES; failure++)
        if (g->failures[failure]) {
            printf("%s\"%s\": %llu", comma, FAILURE_NAMES[failure], (unsigned long long)g->failures[failure]);
            comma = ", ";
        }
    fputs("}, \"latency\": ", stdout);
    print_times(&g->latency);
    fputs(", \"behind\": ", stdout);
    print_times(&g->behind);
    fputs("}", stdout);
}

void print_counting(void) {
    puts("{\"counting\": true}");
    fflush(stdout);
}

void print_result(const struct plan *plan, int64_t begin_ns, int64_t end_ns, int64_t stopped_ns, double cpu_seconds) {
    if (stopped_ns < begin_ns) /* everybody gave up while it was warm */
        stopped_ns = begin_ns;
    if (stopped_ns < end_ns)
        end_ns = stopped_ns;
    printf("{\"nanoseconds\": %lld, \"cpu_seconds\": %.6f, \"groups\": [", (long long)(stopped_ns - begin_ns),
           cpu_seconds);
    for (int i = 0; i < plan->group_count; i++) {
        fputs(i ? ", " : "", stdout);
        print_group(&plan->groups[i], begin_ns, end_ns);
    }
    printf("]}\n");
}
