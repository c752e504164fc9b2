/* What the load generator's files share: its limits, a plan of groups, and the counts that come of one.
 * `specification` reads a plan, `generator` carries it out with `answer` reading heads, `result` prints the counts.
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
    HEAD_MAX = 4096, /* bytes of an answer */
    STATUS_MAX = 599,
};
#define US 1000LL
#define MS 1000000LL
#define SECOND 1000000000LL
#define RUN_MAX_US 60000000LL
#define RATE_MAX_MHZ 1000000000LL

/* One request as it is sent; its digits are written anew in place each time. */
struct request {
    char *text; /* within the specification */
    size_t length;
    int ids;
    uint16_t digits[IDS_MAX][ID_DIGITS]; /* where they are; a hyphen among them, as a UUID has, is passed over */
};

/* Why a connection was made anew, or a request not answered; result.c has their names and says what each is. */
enum failure { CONNECT, NO_PORT, SEND, RESET, CLOSED, SHORT, FRAMING, EXCESS, UNCLOSED, UNANSWERED, GIVEN_UP, FAILURES };

/* Clients of one kind: above what is planned, below what has come of it. */
struct group {
    int connections;
    in_addr_t first_source; /* host order; each new connection is bound to the next of them in turn */
    uint32_t sources;
    bool close;         /* a connection for each request */
    double interval_ns; /* between two requests of the whole group; 0: closed loop */
    int requests;
    struct request *request; /* taken in turn */

    uint64_t connected;  /* connections so far */
    uint64_t sent;       /* requests so far, warm ones too: the next is sent % requests */
    uint64_t scheduled;  /* open loop: how many were due and have been taken by a client */
    int64_t due_ns;      /* when the next one is; INT64_MAX once that would be after the end, and in a closed loop */
    int64_t held_ns;     /* open loop: most that this program was late by since nobody was idle any more, see behind */
    struct client *idle; /* open loop: who is free; FIFO, so that all connections are used alike */
    struct client *idle_last;

    uint64_t answered, statuses[STATUS_MAX + 1], failures[FAILURES]; /* counted, that is not warm */
    int64_t last_ns;              /* when the last answer came that was counted */
    struct times latency;
    struct times behind; /* open loop: how late a request was sent though somebody was free, or behind one that was */
};

struct plan {
    struct sockaddr_in server;
    int core; /* -1: any */
    int64_t warm_ns, counted_ns;
    int group_count;
    struct group groups[GROUPS_MAX];
};

/* Prints a sentence to stderr and exits. */
__attribute__((noreturn, format(printf, 2, 3))) void leave(int status, const char *format, ...);

/* Reads the specification from stdin; leaves with 2 unless it is exactly as generator.c says. */
void read_plan(struct plan *plan);

/* The size of the head that text begins with, its status and Content-Length. 0: it goes on after text; -1: it is none. */
int read_head(const char *text, size_t size, uint16_t *status, size_t *length);

/* Prints the first line of the result. */
void print_counting(void);

/* Prints the second line of the result. Counting went from begin to stopped, and was to end at end. */
void print_result(const struct plan *plan, int64_t begin_ns, int64_t end_ns, int64_t stopped_ns, double cpu_seconds);

#endif
