"""Declarations of the system calls that the lane uses."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <unistd.h>
    /* <linux/netfilter_ipv4.h>, which not every build machine has; part of the kernel's interface */
    #define PODID_SO_ORIGINAL_DST 80
    /* Since Linux 4.12, and not in every libc's headers. */
    #ifndef SO_MEMINFO
    #define SO_MEMINFO 55
    #endif
    /* Defined for _GNU_SOURCE only, and Python.h may have included <sys/socket.h> before the define above. */
    extern int accept4(int, struct sockaddr *, socklen_t *, int);
    """
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        pass
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct linger:
        int l_onoff
        int l_linger
    cdef struct tcp_info:
        uint32_t tcpi_unacked
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data

    int AF_INET, IPPROTO_TCP, IPPROTO_IP, SHUT_WR, MSG_NOSIGNAL, MSG_DONTWAIT, MSG_EOR, MSG_PEEK
    int SOCK_CLOEXEC, SOCK_NONBLOCK
    int SO_ORIGINAL_DST "PODID_SO_ORIGINAL_DST"
    int TCP_NODELAY, TCP_DEFER_ACCEPT, TCP_INFO, SOL_SOCKET, SO_LINGER, SO_SNDBUF, SO_MEMINFO
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    uint32_t EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLERR, EPOLLHUP

    int accept4(int listener, sockaddr *address, socklen_t *size, int flags) nogil
    ssize_t recv(int fd, void *into, size_t size, int flags) nogil
    ssize_t send(int fd, const void *data, size_t size, int flags) nogil
    int shutdown(int fd, int how) nogil
    int close_fd "close"(int fd) nogil
    int getsockopt(int fd, int level, int name, void *value, socklen_t *size) nogil
    int setsockopt(int fd, int level, int name, const void *value, socklen_t size) nogil
    int getsockname(int fd, sockaddr *address, socklen_t *size) nogil
    int getpeername(int fd, sockaddr *address, socklen_t *size) nogil
    uint16_t ntohs(uint16_t number) nogil
    uint32_t ntohl(uint32_t number) nogil
    uint16_t htons(uint16_t number) nogil
    int epoll_create1(int flags) nogil
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event) nogil
    int epoll_wait(int epoll, epoll_event *events, int most, int milliseconds) nogil


cdef inline str dotted(uint32_t address):
    """Return the dotted form of an IPv4 address in network byte order."""
    cdef const unsigned char *part = <const unsigned char *>&address
    return f"{part[0]}.{part[1]}.{part[2]}.{part[3]}"


cdef enum:
    # Values of SO_MEMINFO, from linux/sock_diag.h. All are bytes and include the kernel's bookkeeping.
    RECEIVED = 0       # SK_MEMINFO_RMEM_ALLOC: in the receive buffer
    RESERVED = 4       # SK_MEMINFO_FWD_ALLOC: reserved for both buffers and not used yet
    QUEUED = 5         # SK_MEMINFO_WMEM_QUEUED: in the send buffer, until the peer has acknowledged it
    BACKLOG = 7        # SK_MEMINFO_BACKLOG: received while the socket was in use
    MEMINFO_VARS = 9


cdef inline bint kernel_memory(int fd, uint32_t *values) noexcept:
    """Fill *values* (MEMINFO_VARS entries) with a socket's memory in the kernel. Return False if it is unknown."""
    cdef socklen_t size = MEMINFO_VARS * sizeof(uint32_t)
    return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, values, &size) == 0 and size == MEMINFO_VARS * sizeof(uint32_t)
