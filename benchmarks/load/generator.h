/* Declarations for the load generator's files: limits, the plan of groups, and the counts of a run.
 * `specification` reads a plan, `generator` executes it, `response` reads heads of responses, `result` prints the counts or an
 * error.
 */
#ifndef GENERATOR_H
#define GENERATOR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "times.h"

enum {
    GROUPS_MAX = 16,
    CONNECTIONS_MAX = 20000, /* of all groups */
    REQUESTS_MAX = 1024,     /* of one group */
    REQUEST_MAX = 8192,      /* bytes */
    IDS_MAX = 4,             /* of one request */
    ID_DIGITS = 16,
    HEAD_MAX = 4096, /* bytes of a response */
    STATUS_MAX = 599,
};
#define US 1000LL
#define MS 1000000LL
#define SECOND 1000000000LL
#define RUN_MAX_US 60000000LL
#define RATE_MAX_MHZ 1000000000LL

/* One request. The generator writes the digits of its ids in place before each use. */
struct request {
    char *text; /* within the specification */
    size_t length;
    int ids;
    uint16_t digits[IDS_MAX][ID_DIGITS]; /* their offsets; a hyphen of a UUID between them is skipped */
};

/* Why a connection was opened again, or a request has no response. result.c has their names and meanings. */
enum failure { CONNECT, NO_PORT, SEND, RESET, CLOSED, SHORT, FRAMING, EXCESS, UNCLOSED, UNANSWERED, GIVEN_UP, FAILURES };

/* Clients of one kind: first the plan, then its state and counts. */
struct group {
    int connections;
    in_addr_t first_source; /* host order; new connections use the addresses one after the other */
    uint32_t sources;
    bool close;         /* a connection for each request */
    double interval_ns; /* between two requests of the group; 0: closed loop */
    int requests;
    struct request *request; /* used one after the other */

    uint64_t connected;  /* number of connections */
    uint64_t sent;       /* number of requests with the warm-up; the next one is sent % requests */
    uint64_t scheduled;  /* open loop: number of requests that were due and that a client has */
    int64_t due_ns;      /* when the next one is due; INT64_MAX after the last one, and in a closed loop */
    int64_t held_ns;     /* open loop: longest delay of this program since no client was idle; see behind */
    struct client *idle; /* open loop: free clients; FIFO, so that all connections are used equally */
    struct client *idle_last;

    uint64_t responses, statuses[STATUS_MAX + 1], failures[FAILURES]; /* without the warm-up */
    int64_t last_ns;              /* when the last counted response arrived */
    struct times latency;
    struct times behind; /* open loop: delays of requests although a client was free, or after such a request */
};

struct plan {
    struct sockaddr_in server;
    int core; /* -1: any */
    int64_t warm_ns, counted_ns;
    int group_count;
    struct group groups[GROUPS_MAX];
};

/* Prints one line to stderr and exits. */
__attribute__((noreturn, format(printf, 2, 3))) void leave(int status, const char *format, ...);

/* Reads the specification from stdin (see generator.c). Exits with 2 if it is invalid. */
void read_plan(struct plan *plan);

/* Returns the size of the head at the start of text; 0: it is incomplete; -1: it is invalid. Sets its status and
 * Content-Length. */
int read_head(const char *text, size_t size, uint16_t *status, size_t *length);

/* Prints the first line of the result. */
void print_counting(void);

/* Prints the second line of the result. Counting went from begin to stopped; its planned end was end. */
void print_result(const struct plan *plan, int64_t begin_ns, int64_t end_ns, int64_t stopped_ns, double cpu_seconds);

#endif
