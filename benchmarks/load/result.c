/* The end of a run: its counts as one line of JSON, or the reason why there is none. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "generator.h"

static const char *const FAILURE_NAMES[FAILURES] = {
    "connect",    /* connection refused, or timed out */
    "no_port",    /* no local port was free on the source address */
    "send",       /* the socket accepted only a part of the request */
    "reset",      /* by the server, on an established connection */
    "closed",     /* by the server, before the first byte of a response or between two responses */
    "short",      /* the server closed inside a response */
    "framing",    /* no HTTP/1.1 head of 4,096 bytes at most with exactly one Content-Length and no Transfer-Encoding */
    "excess",     /* more bytes than Content-Length, or a response without a request */
    "unclosed",   /* the server did not close within 1 s after the response to "close"; counted at the end only */
    "unanswered", /* sent or due before the end, and no response 1 s after the end */
    "given_up",   /* clients that gave up, also in the warm-up */
};

static void print_group(const struct group *g, int64_t begin_ns, int64_t end_ns) {
    int64_t last_ns = g->last_ns > end_ns ? g->last_ns : end_ns;
    printf("{\"requests\": %llu, \"nanoseconds\": %lld, \"statuses\": {", (unsigned long long)g->responses,
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
    if (stopped_ns < begin_ns) /* all clients gave up in the warm-up */
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

void leave(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(status);
}
