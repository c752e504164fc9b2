// The program of a load pod: requests tokens at a constant rate and prints what it got as JSON, a line each second.
//
// RATE is the number of requests a second, NEW_PERCENT the share of them that use a connection of their own. All others
// use connections that stay open. HOST and PORT name the server. A request is sent at its time in the schedule, or as
// soon as the one before it on its thread has ended: no request of the schedule is left out.
//
// An outcome is `new` or `kept`, and `token NAME` (the identity in the token's claims), `http STATUS`, `refused`,
// `timeout`, `closed` (no complete response), `invalid` (not the response of a token server), or `error NUMBER`.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    THREADS = 8,
    TIMEOUT_SECONDS = 20,
    RESPONSE_MAX = 1 << 16,
    NAME_MAX_LENGTH = 128,
    OUTCOME_MAX = NAME_MAX_LENGTH + 16,
    KINDS_MAX = 64,  // different outcomes in a second; others are counted as "other"
};

static const char TARGET[] =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

typedef struct {
    char name[OUTCOME_MAX];
    unsigned long count;
} Kind;

static struct {
    pthread_mutex_t lock;
    Kind kinds[KINDS_MAX + 1];
    int used;
    double slowest;
} counts = {.lock = PTHREAD_MUTEX_INITIALIZER};

// One thread's connection, and the last token with its identity, so that an equal token is not decoded again.
typedef struct {
    int number;
    int socket;  // -1 without a connection
    char response[RESPONSE_MAX + 1];
    char token[RESPONSE_MAX + 1];
    char identity[NAME_MAX_LENGTH + 1];
} Client;

static double rate;
static int new_percent;
static struct sockaddr_in server;

static double now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void count(const char *outcome, double seconds) {
    pthread_mutex_lock(&counts.lock);
    int index = 0;
    while (index < counts.used && strcmp(counts.kinds[index].name, outcome) != 0) index++;
    if (index == counts.used) {
        if (counts.used < KINDS_MAX) {
            snprintf(counts.kinds[index].name, OUTCOME_MAX, "%s", outcome);
            counts.used++;
        } else {
            index = KINDS_MAX;
            snprintf(counts.kinds[index].name, OUTCOME_MAX, "new other");
        }
    }
    counts.kinds[index].count++;
    if (seconds > counts.slowest) counts.slowest = seconds;
    pthread_mutex_unlock(&counts.lock);
}

static void print_line(void) {
    pthread_mutex_lock(&counts.lock);
    printf("{\"at\": %.3f, \"slowest\": %.3f, \"outcomes\": {", now(CLOCK_REALTIME), counts.slowest);
    const char *separator = "";
    for (int index = 0; index <= KINDS_MAX; index++) {
        if (counts.kinds[index].count == 0) continue;
        printf("%s\"%s\": %lu", separator, counts.kinds[index].name, counts.kinds[index].count);
        separator = ", ";
    }
    printf("}}\n");
    fflush(stdout);
    memset(counts.kinds, 0, sizeof counts.kinds);
    counts.used = 0;
    counts.slowest = 0;
    pthread_mutex_unlock(&counts.lock);
}

static int digit(char character) {
    if (character >= 'A' && character <= 'Z') return character - 'A';
    if (character >= 'a' && character <= 'z') return character - 'a' + 26;
    if (character >= '0' && character <= '9') return character - '0' + 52;
    return character == '-' || character == '+' ? 62 : character == '_' || character == '/' ? 63 : -1;
}

// Write the text that base64url encodes to *to*, which holds as many bytes as the *length* characters, and a zero.
static void decode(const char *from, size_t length, char *to) {
    unsigned bits = 0;
    int held = 0;
    for (size_t index = 0; index < length; index++) {
        int value = digit(from[index]);
        if (value < 0) break;
        bits = bits << 6 | (unsigned)value;
        held += 6;
        if (held >= 8) {
            held -= 8;
            *to++ = (char)(bits >> held & 0xff);
        }
    }
    *to = 0;
}

// Write the last segment of a claim's text value to *to*. Return whether the claim exists.
static bool claim(const char *claims, const char *name, char *to) {
    const char *value = strstr(claims, name);
    if (value == NULL) return false;
    value = strchr(value + strlen(name), '"');
    const char *end = value == NULL ? NULL : strchr(value + 1, '"');
    if (end == NULL) return false;
    const char *begin = end;
    while (begin > value + 1 && begin[-1] != '/') begin--;
    size_t length = (size_t)(end - begin);
    if (length > NAME_MAX_LENGTH) length = NAME_MAX_LENGTH;
    for (size_t index = 0; index < length; index++)
        to[index] = begin[index] > ' ' && begin[index] < 127 && begin[index] != '\\' ? begin[index] : '?';
    to[length] = 0;
    return true;
}

// Find the name of a managed identity, or the client id of an application. Return whether *body* has a token.
static bool find_identity(Client *client, const char *body) {
    static const char field[] = "\"access_token\":\"";
    const char *token = strstr(body, field);
    if (token == NULL) return false;
    token += strlen(field);
    size_t length = strcspn(token, "\"");
    if (strncmp(token, client->token, length) == 0 && client->token[length] == 0 && length > 0) return true;
    client->token[0] = 0;
    const char *claims = memchr(token, '.', length);
    if (claims == NULL) return false;
    static _Thread_local char decoded[RESPONSE_MAX + 1];
    decode(claims + 1, length - (size_t)(claims + 1 - token), decoded);
    if (!claim(decoded, "\"xms_mirid\":", client->identity) && !claim(decoded, "\"appid\":", client->identity))
        return false;
    memcpy(client->token, token, length);
    client->token[length] = 0;
    return true;
}

static void disconnect(Client *client) {
    if (client->socket >= 0) close(client->socket);
    client->socket = -1;
}

static bool connect_to_server(Client *client) {
    client->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (client->socket < 0) return false;
    const struct timeval limit = {.tv_sec = TIMEOUT_SECONDS};
    const int on = 1;
    setsockopt(client->socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(client->socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(client->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return connect(client->socket, (const struct sockaddr *)&server, sizeof server) == 0;
}

// Read one response into client->response. Return the start of its body, or NULL with errno; errno 0 is an early end.
static char *read_response(Client *client) {
    size_t length = 0;
    char *body = NULL;
    for (;;) {
        ssize_t got = recv(client->socket, client->response + length, RESPONSE_MAX - length, 0);
        if (got <= 0) {
            if (got == 0) errno = 0;
            return NULL;
        }
        length += (size_t)got;
        client->response[length] = 0;
        if (body == NULL) {
            body = strstr(client->response, "\r\n\r\n");
            if (body == NULL) continue;
            body += 4;
        }
        const char *field = strcasestr(client->response, "\r\ncontent-length:");
        if (field == NULL || field > body || length == RESPONSE_MAX) {
            errno = EPROTO;
            return NULL;
        }
        if (length >= (size_t)(body - client->response) + strtoul(field + 17, NULL, 10)) return body;
    }
}

static bool is_last(const Client *client, const char *body) {
    const char *field = strcasestr(client->response, "\r\nconnection:");
    return field != NULL && field < body && strncasecmp(field + 13 + strspn(field + 13, " "), "close", 5) == 0;
}

static void failed(Client *client, char *outcome) {
    if (errno == ECONNREFUSED) strcpy(outcome, "refused");
    else if (errno == EAGAIN || errno == EINPROGRESS || errno == ETIMEDOUT) strcpy(outcome, "timeout");
    else if (errno == 0) strcpy(outcome, "closed");
    else if (errno == EPROTO) strcpy(outcome, "invalid");
    else snprintf(outcome, OUTCOME_MAX, "error %d", errno);
    disconnect(client);
}

// Send one request and write its outcome.
static void request(Client *client, bool own_connection, char *outcome) {
    if (own_connection) disconnect(client);
    char text[512];
    int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n%s\r\n", TARGET,
                          own_connection ? "Connection: close\r\n" : "");
    errno = 0;
    if ((client->socket < 0 && !connect_to_server(client)) ||
        send(client->socket, text, (size_t)length, MSG_NOSIGNAL) != length) {
        failed(client, outcome);
        return;
    }
    const char *body = read_response(client);
    if (body == NULL) {
        failed(client, outcome);
        return;
    }
    int status = strncmp(client->response, "HTTP/1.1 ", 9) == 0 ? atoi(client->response + 9) : 0;
    if (status != 200 && status != 0) snprintf(outcome, OUTCOME_MAX, "http %d", status);
    else if (status == 200 && find_identity(client, body)) snprintf(outcome, OUTCOME_MAX, "token %s", client->identity);
    else strcpy(outcome, "invalid");
    if (own_connection || status == 0 || is_last(client, body)) disconnect(client);
}

static void *send_requests(void *argument) {
    Client *client = argument;
    const double interval = THREADS / rate;
    double due = now(CLOCK_MONOTONIC) + client->number / rate;
    for (long sent = client->number;; sent++, due += interval) {
        double wait = due - now(CLOCK_MONOTONIC);
        if (wait > 0) {
            const struct timespec time = {(time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9)};
            nanosleep(&time, NULL);
        }
        bool own_connection = sent * new_percent % 100 < new_percent;
        char outcome[OUTCOME_MAX - 5], line[OUTCOME_MAX];
        double begin = now(CLOCK_MONOTONIC);
        request(client, own_connection, outcome);
        snprintf(line, sizeof line, "%s %s", own_connection ? "new" : "kept", outcome);
        count(line, now(CLOCK_MONOTONIC) - begin);
    }
    return NULL;
}

// Return a variable's value. Exit with 2 if it is missing or less than *least*.
static double number(const char *name, double least) {
    const char *value = getenv(name);
    if (value == NULL || atof(value) < least) {
        fprintf(stderr, "load_client: %s is missing or less than %g\n", name, least);
        exit(2);
    }
    return atof(value);
}

int main(void) {
    rate = number("RATE", 0.001);
    new_percent = (int)number("NEW_PERCENT", 0);
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)number("PORT", 1));
    if (getenv("HOST") == NULL || inet_pton(AF_INET, getenv("HOST"), &server.sin_addr) != 1) {
        fprintf(stderr, "load_client: HOST is not an IPv4 address\n");
        return 2;
    }
    // The first process of a container ignores signals that it does not wait for.
    sigset_t end;
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigaddset(&end, SIGINT);
    sigprocmask(SIG_BLOCK, &end, NULL);
    for (int index = 0; index < THREADS; index++) {
        Client *client = calloc(1, sizeof *client);
        pthread_t thread;
        if (client == NULL) return 1;
        client->number = index;
        client->socket = -1;
        if (pthread_create(&thread, NULL, send_requests, client) != 0) return 1;
    }
    const struct timespec second = {.tv_sec = 1};
    while (sigtimedwait(&end, NULL, &second) < 0) print_line();
    print_line();
    return 0;
}
