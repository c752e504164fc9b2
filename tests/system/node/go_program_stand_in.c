// A stand-in for the Go implementation's NMI and MIC, which proves only that their image is built and started with the
// flags of the chart. It serves no token and attaches no identity. It prints its arguments, one per line, answers
// /healthz at the probe port with 200 and any other path with 404, as they do, and ends at SIGTERM. With --node it uses
// NMI's port too and has NMI's chain in the nat table, which it removes at its end. reference: pkg/nmi/iptables,
// pkg/probes.
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define NMI_PORT 2579

static volatile sig_atomic_t ended;
static void end(int number) { (void)number; ended = 1; }

static int listen_at(int port) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64)) {
        perror("listen");
        exit(1);
    }
    return listener;
}

static void answer(int listener) {
    char request[2048];
    const char *found = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nActive";
    const char *missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    int peer = accept(listener, NULL, NULL);
    if (peer < 0) return;
    ssize_t size = read(peer, request, sizeof request - 1);
    if (size > 0) {
        request[size] = 0;
        int healthy = !strncmp(request, "GET /healthz ", 13) || !strncmp(request, "GET /healthz?", 13);
        const char *response = healthy ? found : missing;
        if (write(peer, response, strlen(response)) < 0) perror("write");
    }
    close(peer);
}

static void iptables(char *const *rule) {
    char *argv[24] = {"iptables", "-w", "-t", "nat"};
    int count = 4, status;
    pid_t child;
    while (*rule) argv[count++] = *rule++;
    if (posix_spawnp(&child, "iptables", NULL, NULL, argv, environ)) { perror("iptables"); exit(1); }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    if (status) { fprintf(stderr, "iptables %s: status %d\n", rule[-1], status); exit(1); }
}

#define RULE(...) iptables((char *[]){__VA_ARGS__, NULL})

static void add_chain(const char *host) {
    char target[64];
    snprintf(target, sizeof target, "%s:%d", host, NMI_PORT);
    RULE("-N", "aad-metadata");
    RULE("-A", "aad-metadata", "!", "-s", "127.0.0.1/32", "-d", "169.254.169.254/32", "-p", "tcp", "-m", "tcp",
         "--dport", "80", "-j", "DNAT", "--to-destination", target);
    RULE("-A", "aad-metadata", "-j", "RETURN");
    RULE("-I", "PREROUTING", "1", "-j", "aad-metadata");
}

static void remove_chain(void) {
    RULE("-D", "PREROUTING", "-j", "aad-metadata");
    RULE("-F", "aad-metadata");
    RULE("-X", "aad-metadata");
}

int main(int count, char **arguments) {
    int probe_port = 8080, nmi = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("stand-in for a program of the Go implementation");
    for (int i = 1; i < count; i++) {
        printf("argument %s\n", arguments[i]);
        if (!strncmp(arguments[i], "--http-probe-port=", 18)) probe_port = atoi(arguments[i] + 18);
        if (!strncmp(arguments[i], "--node=", 7)) nmi = 1;
    }
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    const char *host = getenv("HOST_IP");
    struct pollfd polled[2] = {{.fd = listen_at(probe_port), .events = POLLIN}, {.fd = -1, .events = POLLIN}};
    if (nmi) {
        polled[1].fd = listen_at(NMI_PORT);
        add_chain(host ? host : "127.0.0.1");
    }
    while (!ended) {
        if (poll(polled, 2, 200) <= 0) continue;
        for (int i = 0; i < 2; i++)
            if (polled[i].revents & POLLIN) answer(polled[i].fd);
    }
    if (nmi) remove_chain();
    return 0;
}
