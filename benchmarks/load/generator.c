/* Load generator: one thread sends HTTP/1.1 requests to one IPv4 address and counts the responses.
 *
 * Clients belong to groups. A client has at most one connection and one request in progress. It either keeps its
 * connection, or opens one for each request ("close"). A group works in one of two ways:
 *   closed loop   A client sends its next request as soon as it has the response to the last one. The rate depends on
 *                 the server.
 *   open loop     Request k is due at start + k / rate, and an idle connection sends it. If no connection is idle, the
 *                 request waits, and its latency counts from the time at which it was due. So a server that stalls
 *                 delays all requests that were due.
 *
 * Input: a specification on stdin. The order of the fields is fixed, with one space between two fields:
 *   server ADDRESS PORT
 *   core NUMBER                                  -1: any core
 *   microseconds WARM COUNTED                    60 s at most in total; requests of the warm-up are not counted
 *   groups NUMBER
 *   group CONNECTIONS FIRST_SOURCE SOURCES keep|close closed|MILLIHERTZ REQUESTS    MILLIHERTZ: rate of an open loop
 *   request LENGTH IDS OFFSET...                 followed by LENGTH bytes and a line feed, REQUESTS times
 *   end
 * Output: two lines of JSON, the first (`{"counting": true}`) when counting begins, the second with the counts. Times
 * are nanoseconds. A latency is a list of [bucket, count] pairs (times.h).
 * Exit code: 0; 1 if the machine lacks something; 2 if the specification is invalid. Errors are one line on stderr.
 *
 * End of a connection: after the response to a "close" request, the client waits for the server's FIN before it closes.
 * TIME_WAIT is then on the server's side, where a new SYN from the same port ends it, and the client can use its ports
 * again immediately. After a failure the client resets the connection. At the end of a run it closes kept connections.
 *
 * Reads of the clock: once when a response is complete, after recv(). In a closed loop the next request starts at that
 * time (the work in between takes less than 0.1 us). So the latency includes every wait of a client, also in this
 * program's own queue of responses, and in a closed loop the mean latency is connections / rate. An open loop also
 * reports the program's own delays ("behind"), so that they do not count as delays of the server. The program does not
 * detect that the machine woke it up late. Its caller therefore also measures the core.
 */
#define _GNU_SOURCE
#include "generator.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_MAX = 1 << 16,    /* bytes of one recv() */
    EVENTS_MAX = 256,      /* events of one epoll_pwait2() */
    TRIES_MAX = 300,       /* consecutive failures after which a client gives up: with RETRY_NS, after 3 s */
    CONNECTS_AT_ONCE = 32, /* then a pause of PAUSE_NS: the kernel repeats a SYN to a full queue after 1 s only */
};
#define RETRY_NS (10 * MS)
#define PAUSE_NS (1 * MS)
#define SPIN_NS (50 * US) /* a sleep ends this long before a request is due: a core may take as long to wake up */
#define DRAIN_NS (1 * SECOND) /* maximum wait for responses after the end */

/* READY: could send a request, but none follows before the end; IDLE: in its group's list until one is due. */
enum state { READY, IDLE, CONNECTING, AWAITING_HEAD, AWAITING_BODY, AWAITING_CLOSE, RESTING, LOST };

struct client {
    struct group *group;
    struct client *next; /* in the group's list of idle clients, or in resting */
    int64_t started_ns;  /* when the present request was due or, in a closed loop, sent; 0: no request */
    int64_t since_ns;    /* READY, IDLE, AWAITING_CLOSE: start of the state; RESTING: its end */
    size_t remaining;    /* bytes of the body that were not received yet */
    int fd;              /* -1: not connected */
    uint16_t status, kept; /* kept: bytes in heads[] of a head that arrived in parts */
    uint16_t tries;
    uint8_t state;
};

static struct plan plan;
static struct client *clients;   /* client_count of them, in the order of the groups */
static char (*heads)[HEAD_MAX];  /* one per client; without heads that arrive in parts, it takes no memory */
static int client_count, alive, under_way, epoll_fd;
static struct client *resting, *resting_last; /* FIFO */
static int64_t begin_ns, end_ns;
static int64_t woken_ns;   /* when epoll_pwait2() last returned */
static uint64_t ids_given; /* the next id, before its conversion */
static char buffer[HEAD_MAX + READ_MAX];

static void take_request(struct client *c, int64_t started, int64_t now);

static int64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

/* Returns when the request with this number, from 0, is due in an open loop. */
static int64_t due_at(const struct group *g, uint64_t number) {
    return begin_ns - plan.warm_ns + (int64_t)((double)number * g->interval_ns);
}

static void append(struct client **first, struct client **last, struct client *c) {
    c->next = NULL;
    if (*first)
        (*last)->next = c;
    else
        *first = c;
    *last = c;
}

static void rest(struct client *c, int64_t until) {
    c->state = RESTING;
    c->since_ns = until;
    append(&resting, &resting_last, c);
}

/* Removes an idle client that is not the first of its list. */
static void leave_idle(struct client *c) {
    struct group *g = c->group;
    struct client *before = NULL;
    for (struct client *each = g->idle; each != c; each = each->next)
        before = each;
    if (before)
        before->next = c->next;
    else
        g->idle = c->next;
    if (g->idle_last == c)
        g->idle_last = before;
}

/* Ends the present request, if any: its connection has failed, and is opened again after a pause. */
static void fail(struct client *c, enum failure failure) {
    int64_t now = clock_ns();
    if (now >= begin_ns && (now < end_ns || c->started_ns))
        c->group->failures[failure]++;
    if (c->state == IDLE)
        leave_idle(c);
    if (c->fd >= 0) {
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
        close(c->fd);
        c->fd = -1;
    }
    under_way -= c->started_ns != 0;
    c->started_ns = 0;
    c->kept = 0;
    if (++c->tries < TRIES_MAX) {
        rest(c, now + RETRY_NS);
        return;
    }
    c->state = LOST;
    c->group->failures[GIVEN_UP]++;
    alive--;
}

/* Gives the next request to a client that is free since `since`: now, or when the request is due. A request that is due
 * while others are idle belongs to the first of these: it waited for this program only. */
static void become_free(struct client *c, int64_t since, int64_t now) {
    struct group *g = c->group;
    c->state = READY;
    c->since_ns = since;
    if (g->interval_ns == 0.0) {
        if (now < end_ns)
            take_request(c, now, now);
    } else if (g->due_ns <= now && !g->idle) {
        take_request(c, g->due_ns, now);
    } else {
        c->state = IDLE;
        if (g->due_ns > now)
            g->held_ns = 0;
        append(&g->idle, &g->idle_last, c);
    }
}

static void watch(struct client *c, uint32_t events) {
    struct epoll_event event = {.events = events | EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event))
        leave(1, "epoll_ctl: %s", strerror(errno));
}

/* Starts to connect. Returns false if that failed immediately. */
static bool begin_connecting(struct client *c) {
    struct group *g = c->group;
    struct sockaddr_in source = {.sin_family = AF_INET};
    int on = 1;
    source.sin_addr.s_addr = htonl(g->first_source + (in_addr_t)(g->connected++ % g->sources));
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        leave(1, "socket: %s", strerror(errno));
    /* Otherwise bind() would choose a port that no other connection of the address uses, to any destination. */
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(c->fd, (struct sockaddr *)&source, sizeof source))
        leave(1, "%s is no address to send from: %s", inet_ntoa(source.sin_addr), strerror(errno));
    c->state = CONNECTING;
    if (connect(c->fd, (struct sockaddr *)&plan.server, sizeof plan.server) && errno != EINPROGRESS) {
        fail(c, errno == EADDRNOTAVAIL ? NO_PORT : CONNECT);
        return false;
    }
    return true;
}

/* Sends the request. Returns false if the connection is not established yet or has failed, as its state shows. */
static bool transmit(struct client *c) {
    static const char HEX[] = "0123456789abcdef";
    struct group *g = c->group;
    struct request *request = &g->request[g->sent++ % (uint64_t)g->requests];
    for (int id = 0; id < request->ids; id++) {
        uint64_t bits = ids_given++ * 0x9E3779B97F4A7C15u; /* an odd factor: 2^64 calls give 2^64 different numbers */
        for (int digit = 0; digit < ID_DIGITS; digit++, bits >>= 4)
            request->text[request->digits[id][digit]] = HEX[bits & 15];
    }
    ssize_t sent = send(c->fd, request->text, request->length, MSG_NOSIGNAL);
    if (sent == (ssize_t)request->length) {
        c->state = AWAITING_HEAD;
        return true;
    }
    if (sent < 0 && errno == EAGAIN && c->state == CONNECTING)
        g->sent--;
    else
        fail(c, sent >= 0 || errno == EAGAIN ? SEND : c->state == CONNECTING ? CONNECT : RESET);
    return false;
}

static void take_request(struct client *c, int64_t started, int64_t now) {
    struct group *g = c->group;
    if (g->interval_ns != 0.0) {
        int64_t late = now - (started > c->since_ns ? started : c->since_ns);
        g->held_ns = late > g->held_ns ? late : g->held_ns;
        if (started >= begin_ns)
            count_time(&g->behind, now - started < g->held_ns ? now - started : g->held_ns);
        g->due_ns = due_at(g, ++g->scheduled);
        if (g->due_ns >= end_ns)
            g->due_ns = INT64_MAX;
    }
    c->started_ns = started;
    under_way++;
    if (!g->close)
        transmit(c);
    else if (begin_connecting(c)) {
        /* On loopback the handshake is usually complete when connect() returns EINPROGRESS. */
        if (transmit(c))
            watch(c, 0);
        else if (c->state == CONNECTING)
            watch(c, EPOLLOUT);
    }
}

static void finish_close(struct client *c) {
    close(c->fd);
    c->fd = -1;
    become_free(c, woken_ns, clock_ns());
}

/* Counts a complete response. gone: the server has also closed the connection. */
static void take_response(struct client *c, bool gone) {
    struct group *g = c->group;
    int64_t now = clock_ns();
    if (c->started_ns >= begin_ns) {
        count_time(&g->latency, now - c->started_ns);
        g->responses++;
        g->statuses[c->status]++;
        g->last_ns = now;
    }
    under_way--;
    c->started_ns = 0;
    c->tries = 0;
    if (!g->close && gone) {
        fail(c, CLOSED);
    } else if (!g->close) {
        become_free(c, woken_ns, now);
    } else if (gone) {
        finish_close(c);
    } else {
        c->state = AWAITING_CLOSE;
        c->since_ns = now;
    }
}

/* Reads all available bytes. epoll reports each change once, so another read must follow if the buffer was full or the
 * server's FIN was not read. */
static void read_response(struct client *c, bool ending) {
    ssize_t got;
    do {
        size_t fresh = c->kept;
        memcpy(buffer, heads[c - clients], fresh);
        got = recv(c->fd, buffer + fresh, READ_MAX, 0);
        if (got < 0 && errno == EAGAIN)
            return;
        if (got < 0)
            return fail(c, RESET);
        if (got == 0 && c->state == AWAITING_CLOSE)
            return finish_close(c);
        if (got == 0)
            return fail(c, c->state == AWAITING_BODY || fresh ? SHORT : CLOSED);
        if (c->state != AWAITING_HEAD && c->state != AWAITING_BODY)
            return fail(c, EXCESS);
        fresh += (size_t)got;
        if (c->state == AWAITING_HEAD) {
            int head = read_head(buffer, fresh, &c->status, &c->remaining);
            if (head < 0)
                return fail(c, FRAMING);
            if (head == 0) {
                memcpy(heads[c - clients], buffer, fresh);
                c->kept = (uint16_t)fresh;
                continue;
            }
            c->kept = 0;
            c->state = AWAITING_BODY;
            fresh -= (size_t)head;
        }
        if (fresh > c->remaining)
            return fail(c, EXCESS);
        c->remaining -= fresh;
        if (c->remaining == 0)
            return take_response(c, ending);
    } while (ending || got == READ_MAX);
}

static void handle(struct client *c, uint32_t events) {
    bool ending = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    if (c->state == CONNECTING) {
        if (events & (EPOLLHUP | EPOLLERR))
            fail(c, CONNECT);
        else if (c->group->close)
            transmit(c);
        else
            become_free(c, woken_ns, clock_ns());
    } else if (ending || events & EPOLLIN) {
        read_response(c, ending);
    }
}

/* Ends rests and starts requests that are due. Returns the time of the next of these. */
static int64_t keep_time(int64_t now) {
    int64_t next = now < begin_ns ? begin_ns : now < end_ns ? end_ns : end_ns + DRAIN_NS;
    while (resting && resting->since_ns <= now) {
        struct client *c = resting;
        resting = c->next;
        if (c->group->close)
            become_free(c, now, now);
        else if (begin_connecting(c))
            watch(c, EPOLLOUT);
    }
    if (resting && resting->since_ns < next)
        next = resting->since_ns;
    for (struct group *g = plan.groups; g < plan.groups + plan.group_count; g++) {
        while (g->idle && g->due_ns <= now) {
            struct client *c = g->idle;
            g->idle = c->next;
            c->state = READY;
            take_request(c, g->due_ns, now);
            now = clock_ns();
        }
        if (g->idle && g->due_ns - SPIN_NS < next)
            next = g->due_ns - SPIN_NS;
    }
    return next;
}

static bool anything_due(void) {
    for (struct group *g = plan.groups; g < plan.groups + plan.group_count; g++)
        if (g->due_ns != INT64_MAX)
            return true;
    return under_way > 0;
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Counts the requests without a response and the connections that the server did not close, at the end. */
static void count_left(int64_t now) {
    for (struct client *c = clients; c < clients + client_count; c++) {
        c->group->failures[UNANSWERED] += c->started_ns >= begin_ns;
        c->group->failures[UNCLOSED] += c->state == AWAITING_CLOSE && now - c->since_ns >= SECOND;
    }
    for (struct group *g = plan.groups; g < plan.groups + plan.group_count; g++)
        for (uint64_t number = g->scheduled; g->interval_ns != 0.0 && due_at(g, number) < end_ns; number++)
            g->failures[UNANSWERED] += due_at(g, number) >= begin_ns;
}

static void run(void) {
    static struct epoll_event events[EVENTS_MAX];
    bool counting = false;
    double cpu = 0;
    int64_t now = clock_ns();
    begin_ns = now + plan.warm_ns;
    end_ns = begin_ns + plan.counted_ns;
    for (struct group *g = plan.groups; g < plan.groups + plan.group_count; g++)
        g->due_ns = g->interval_ns != 0.0 ? now : INT64_MAX;
    for (int i = 0; i < client_count; i++)
        rest(&clients[i], now + i / CONNECTS_AT_ONCE * PAUSE_NS);
    while (alive > 0 && (now < end_ns || (anything_due() && now < end_ns + DRAIN_NS))) {
        if (!counting && now >= begin_ns) {
            counting = true;
            cpu = cpu_seconds();
            print_counting();
        }
        int64_t next = keep_time(now);
        now = clock_ns();
        int64_t pause = next > now && alive > 0 ? next - now : 0;
        struct timespec timeout = {.tv_sec = pause / SECOND, .tv_nsec = pause % SECOND};
        int count = epoll_pwait2(epoll_fd, events, EVENTS_MAX, &timeout, NULL);
        if (count < 0 && errno != EINTR)
            leave(1, "epoll_pwait2 (Linux 5.11 has it): %s", strerror(errno));
        woken_ns = clock_ns();
        for (int i = 0; i < count; i++)
            handle(events[i].data.ptr, events[i].events);
        now = clock_ns();
    }
    if (!counting) { /* all clients gave up in the warm-up */
        cpu = cpu_seconds();
        print_counting();
    }
    count_left(now);
    print_result(&plan, begin_ns, end_ns, now, cpu_seconds() - cpu);
}

int main(void) {
    read_plan(&plan);
    for (struct group *g = plan.groups; g < plan.groups + plan.group_count; g++)
        client_count += g->connections;
    alive = client_count;
    clients = calloc((size_t)client_count, sizeof *clients);
    heads = calloc((size_t)client_count, sizeof *heads);
    if (!clients || !heads)
        leave(1, "no memory for %d connections", client_count);
    struct client *c = clients;
    for (struct group *g = plan.groups; g < plan.groups + plan.group_count; g++)
        for (int i = 0; i < g->connections; i++)
            *c++ = (struct client){.group = g, .fd = -1};
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET((size_t)(plan.core < 0 ? 0 : plan.core), &cores);
    if (plan.core >= 0 && sched_setaffinity(0, sizeof cores, &cores))
        leave(1, "core %d: %s", plan.core, strerror(errno));
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_max < (rlim_t)client_count + 8)
        leave(1, "%d connections need as many open files, and ulimit -Hn allows %llu: raise it, or ask for fewer",
              client_count, (unsigned long long)files.rlim_max);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1UL); /* in ns; by default a sleep may be 50 us too long */
    struct timespec epoch;
    clock_gettime(CLOCK_REALTIME, &epoch);
    ids_given = (uint64_t)(epoch.tv_sec * SECOND + epoch.tv_nsec); /* under one id per ns, so runs differ */
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        leave(1, "epoll_create1: %s", strerror(errno));
    run();
    return 0;
}
