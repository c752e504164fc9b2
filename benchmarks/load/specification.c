/* Parser of the specification. It accepts only the exact form in generator.c. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "generator.h"

enum { SPEC_MAX = 4 << 20 };

static char *spec, *spec_end; /* the part that was not read yet */
static int spec_line = 1;

__attribute__((noreturn)) static void refuse(const char *what, const char *reason) {
    leave(2, "specification, line %d: %s %s", spec_line, what, reason);
}

static bool spec_has(const char *text) {
    size_t length = strlen(text);
    if ((size_t)(spec_end - spec) < length || memcmp(spec, text, length) != 0)
        return false;
    spec += length;
    return true;
}

static void spec_text(const char *text) {
    if (!spec_has(text))
        refuse(*text == '\n' ? "the end of the line" : text, "is missing");
    spec_line += *text == '\n';
}

static int64_t spec_number(const char *what, int64_t least, int64_t most) {
    int64_t number = 0;
    bool negative = spec_has("-");
    char *first = spec;
    while (spec < spec_end && *spec >= '0' && *spec <= '9' && spec - first < 15)
        number = number * 10 + (*spec++ - '0');
    number = negative ? -number : number;
    if (spec == first || number < least || number > most)
        leave(2, "specification, line %d: %s has to be a number from %lld to %lld", spec_line, what, (long long)least,
              (long long)most);
    return number;
}

/* Returns an IPv4 address in host order. */
static in_addr_t spec_address(const char *what) {
    char text[INET_ADDRSTRLEN] = "";
    struct in_addr address;
    for (size_t i = 0; i < sizeof text - 1 && spec < spec_end && *spec > ' '; i++)
        text[i] = *spec++;
    if (inet_pton(AF_INET, text, &address) != 1)
        refuse(what, "is no IPv4 address");
    return ntohl(address.s_addr);
}

static void read_request(struct request *request) {
    int64_t offsets[IDS_MAX];
    spec_text("request ");
    request->length = (size_t)spec_number("LENGTH", 1, REQUEST_MAX);
    spec_text(" ");
    request->ids = (int)spec_number("IDS", 0, IDS_MAX);
    for (int id = 0; id < request->ids; id++) {
        spec_text(" ");
        offsets[id] = spec_number("OFFSET", 0, (int64_t)request->length - 1);
    }
    spec_text("\n");
    if ((size_t)(spec_end - spec) < request->length)
        refuse("the request", "is shorter than its LENGTH");
    request->text = spec;
    spec += request->length;
    for (int id = 0; id < request->ids; id++) {
        size_t at = (size_t)offsets[id];
        for (int digit = 0; digit < ID_DIGITS; digit++, at++) {
            at += at < request->length && request->text[at] == '-';
            if (at >= request->length || !strchr("0123456789abcdefABCDEF", request->text[at]) || !request->text[at])
                refuse("OFFSET", "is not where 16 hexadecimal digits begin");
            request->digits[id][digit] = (uint16_t)at;
        }
    }
    if (request->length < 4 || memcmp(spec - 4, "\r\n\r\n", 4) != 0)
        refuse("the request", "does not end with an empty line");
    spec_text("\n");
}

/* Reads a group and returns its number of connections, at most free. */
static int read_group(struct group *g, int free) {
    spec_text("group ");
    g->connections = (int)spec_number("CONNECTIONS", 1, free);
    spec_text(" ");
    g->first_source = spec_address("FIRST_SOURCE");
    spec_text(" ");
    g->sources = (uint32_t)spec_number("SOURCES", 1, 1 + (int64_t)(0xFFFFFFFFu - g->first_source));
    spec_text(" ");
    g->close = spec_has("close");
    if (!g->close)
        spec_text("keep");
    spec_text(" ");
    if (!spec_has("closed"))
        g->interval_ns = 1e12 / (double)spec_number("MILLIHERTZ", 1, RATE_MAX_MHZ);
    spec_text(" ");
    g->requests = (int)spec_number("REQUESTS", 1, REQUESTS_MAX);
    spec_text("\n");
    g->request = calloc((size_t)g->requests, sizeof *g->request);
    if (!g->request)
        leave(1, "no memory for requests");
    for (int i = 0; i < g->requests; i++)
        read_request(&g->request[i]);
    return g->connections;
}

void read_plan(struct plan *plan) {
    spec = malloc(SPEC_MAX + 1); /* never freed: it contains the requests */
    if (!spec)
        leave(1, "no memory for the specification");
    size_t size = fread(spec, 1, SPEC_MAX + 1, stdin);
    if (size > SPEC_MAX)
        leave(2, "specification: it is longer than %d bytes", SPEC_MAX);
    spec_end = spec + size;
    spec_text("server ");
    plan->server.sin_family = AF_INET;
    plan->server.sin_addr.s_addr = htonl(spec_address("ADDRESS"));
    spec_text(" ");
    plan->server.sin_port = htons((uint16_t)spec_number("PORT", 1, 65535));
    spec_text("\n");
    spec_text("core ");
    plan->core = (int)spec_number("NUMBER", -1, CPU_SETSIZE - 1);
    spec_text("\n");
    spec_text("microseconds ");
    plan->warm_ns = spec_number("WARM", 0, RUN_MAX_US - 1) * US;
    spec_text(" ");
    plan->counted_ns = spec_number("COUNTED", 1, RUN_MAX_US - plan->warm_ns / US) * US;
    spec_text("\n");
    spec_text("groups ");
    plan->group_count = (int)spec_number("NUMBER", 1, GROUPS_MAX);
    spec_text("\n");
    for (int i = 0, free = CONNECTIONS_MAX; i < plan->group_count; i++)
        free -= read_group(&plan->groups[i], free);
    spec_text("end");
    spec_text("\n");
    if (spec != spec_end)
        refuse("something", "comes after the end");
}
