/* A load generator: HTTP/1.1 requests to one IPv4 address from one thread, and what came of them.
 *
 * Clients come in groups. A client has one connection at a time and one request under way on it. It either keeps its
 * connection, or makes one per request ("close"). A group is driven in one of two ways:
 *   closed loop   a client sends its next request when it has the answer to the last: as fast as the server is;
 *   open loop     request k is due at start + k / rate, an idle connection sends it. If there is none, it waits, and its
 *                 latency counts from when it was due: a server that stalls delays all requests that were due.
 *
 * In: a specification on stdin, each field in its place, one space between two:
 *   server ADDRESS PORT
 *   core NUMBER                                  -1: wherever the kernel likes
 *   microseconds WARM COUNTED                    60 s at most in all; what was due or sent while warm does not count
 *   groups NUMBER
 *   group CONNECTIONS FIRST_SOURCE SOURCES keep|close closed|MILLIHERTZ REQUESTS    the loop, and an open one's rate
 *   request LENGTH IDS OFFSET...                 followed by LENGTH bytes and a line feed, REQUESTS times
 *   end
 * Out: two lines of JSON, the first (`{"counting": true}`) when counting begins, the second with the counts. Times are
 * nanoseconds; a latency is given as [bucket, count] pairs, see times.h.
 * Exit: 0; 1 if this machine does not let it work; 2 if the specification is not as above. A sentence is on stderr.
 *
 * Who closes: an answer to "close" is followed by the server's FIN, and only then does the client close. TIME_WAIT is
 * then the server's, where a new SYN from the same port ends it, and the client's ports are free at once. After a
 * failure the client resets. Only at the very end are the connections kept alive closed by the client.
 *
 * When time is read: once when an answer is complete, after recv(); in a closed loop the next request begins at that
 * same moment (what lies between is under 0.1 us). So nothing that a client would have waited for is hidden, not even
 * this program's own queue of answers, and in a closed loop the mean latency is connections / rate. An open loop also
 * tells how late this program itself was ("behind"), so that its own slowness is not taken for the server's. What came
 * while it slept and the machine did not let it wake up it cannot know: the program that runs it measures the core, too.
 */
#define _GNU_SOURCE
#include "generator.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
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
    READ_MAX = 1 << 16,    /* one recv() */
    EVENTS_MAX = 256,      /* one epoll_pwait2() */
    TRIES_MAX = 300,       /* failures in a row until a client gives up: with RETRY_NS, after 3 s */
    CONNECTS_AT_ONCE = 32, /* and then a pause of PAUSE_NS: a SYN that finds a full queue is sent again after 1 s */
};
#define RETRY_NS (10 * MS)
#define PAUSE_NS (1 * MS)
#define SPIN_NS (50 * US) /* so long before a request is due sleep ends: a core may take that long to wake up */
#define DRAIN_NS (1 * SECOND) /* how long answers are awaited after the end */

/* READY: could take a request, but there is none to take (the end has come); IDLE: in its group's list until one is due. */
enum state { READY, IDLE, CONNECTING, AWAITING_HEAD, AWAITING_BODY, AWAITING_CLOSE, RESTING, LOST };

struct client {
    struct group *group;
    struct client *next; /* in its group's idle ones, or in resting */
    int64_t started_ns;  /* of the request under way: when it was due or, in a closed loop, sent. 0: none is under way */
    int64_t since_ns;    /* READY, IDLE: free since; RESTING: until; AWAITING_CLOSE: since */
    size_t remaining;    /* bytes of the body to come */
    int fd;              /* -1: not connected */
    uint16_t status, kept; /* kept: bytes of a head in heads[], where it did not come at once */
    uint16_t tries;
    uint8_t state;
};

static struct plan plan;
static struct client *clients;   /* client_count of them, those of the first group first */
static char (*heads)[HEAD_MAX];  /* one a client; touched for heads that come in pieces only, else it costs no memory */
static int client_count, alive, under_way, epoll_fd;
static struct client *resting, *resting_last; /* FIFO */
static int64_t begin_ns, end_ns;
static int64_t told_ns;    /* when epoll_pwait2() returned last */
static uint64_t ids_given; /* the next id, before it is scrambled */
static char buffer[HEAD_MAX + READ_MAX];

static void take_request(struct client *c, int64_t started, int64_t now);

void leave(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(status);
}

static int64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

/* When the request with this number, from 0, is due in an open loop. */
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

/* An idle one that has to leave before its turn. */
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

/* Ends the request under way, if there is one: its connection has failed, and is opened again after a pause. */
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

/* Each connection that was idle at since gets the next request: now, or when it is due. */
static void become_free(struct client *c, int64_t since, int64_t now) {
    struct group *g = c->group;
    c->state = READY;
    c->since_ns = since;
    if (g->interval_ns == 0.0) {
        if (now < end_ns)
            take_request(c, now, now);
    } else if (g->due_ns <= now) {
        take_request(c, g->due_ns, now);
    } else {
        c->state = IDLE;
        g->held_ns = 0;
        append(&g->idle, &g->idle_last, c);
    }
}

static void watch(struct client *c, uint32_t events) {
    struct epoll_event event = {.events = events | EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event))
        leave(1, "epoll_ctl: %s", strerror(errno));
}

/* Begins to connect; false if that has failed at once. */
static bool begin_connecting(struct client *c) {
    struct group *g = c->group;
    struct sockaddr_in source = {.sin_family = AF_INET};
    int on = 1;
    source.sin_addr.s_addr = htonl(g->first_source + (in_addr_t)(g->connected++ % g->sources));
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        leave(1, "socket: %s", strerror(errno));
    /* Without this bind() would choose the port, one that no other connection from the address has, to anywhere. */
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

/* Sends the request; false if the connection is not there yet or has failed, and then the state says which. */
static bool transmit(struct client *c) {
    static const char HEX[] = "0123456789abcdef";
    struct group *g = c->group;
    struct request *request = &g->request[g->sent++ % (uint64_t)g->requests];
    for (int id = 0; id < request->ids; id++) {
        uint64_t bits = ids_given++ * 0x9E3779B97F4A7C15u; /* odd: 2^64 calls give 2^64 numbers, unlike each other */
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
        /* On loopback the handshake is usually over when connect() returns, though it says EINPROGRESS. */
        if (transmit(c))
            watch(c, 0);
        else if (c->state == CONNECTING)
            watch(c, EPOLLOUT);
    }
}

static void finish_close(struct client *c) {
    close(c->fd);
    c->fd = -1;
    become_free(c, told_ns, clock_ns());
}

/* The answer is complete; gone: and so is the server. */
static void take_answer(struct client *c, bool gone) {
    struct group *g = c->group;
    int64_t now = clock_ns();
    if (c->started_ns >= begin_ns) {
        count_time(&g->latency, now - c->started_ns);
        g->answered++;
        g->statuses[c->status]++;
        g->last_ns = now;
    }
    under_way--;
    c->started_ns = 0;
    c->tries = 0;
    if (!g->close && gone) {
        fail(c, CLOSED);
    } else if (!g->close) {
        become_free(c, told_ns, now);
    } else if (gone) {
        finish_close(c);
    } else {
        c->state = AWAITING_CLOSE;
        c->since_ns = now;
    }
}

/* Reads all there is. The events come once for each change: a read that fills the buffer, or leaves the server's FIN
 * unread, has to be followed by another. */
static void read_answer(struct client *c, bool ending) {
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
            return take_answer(c, ending);
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
            become_free(c, told_ns, clock_ns());
    } else if (ending || events & EPOLLIN) {
        read_answer(c, ending);
    }
}

/* What the clock alone brings about: rests end, requests are due. Returns when there is something of that next. */
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

/* What is left when time is up: unanswered, and never closed. */
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
        told_ns = clock_ns();
        for (int i = 0; i < count; i++)
            handle(events[i].data.ptr, events[i].events);
        now = clock_ns();
    }
    if (!counting) { /* everybody gave up while it was warm */
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
    prctl(PR_SET_TIMERSLACK, 1UL); /* ns; by default each sleep may last 50 us too long */
    struct timespec epoch;
    clock_gettime(CLOCK_REALTIME, &epoch);
    ids_given = (uint64_t)(epoch.tv_sec * SECOND + epoch.tv_nsec); /* under one a ns: no two runs share an id */
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        leave(1, "epoll_create1: %s", strerror(errno));
    run();
    return 0;
}
