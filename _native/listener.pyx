"""One listening socket of the lane: its options, its registration with epoll, its pauses, and unread connections.

A listener on the node's own address is reachable from other machines and pods. It has a `Redirects`, and serves only
connections that a nat rule of this node redirected. It closes others with a reset before it reads a byte. Their number
is not limited by the slots of a peer: the peer may be another machine, which has none, or a pod, whose slots are for
requests. Instead, the listener pauses after UNREAD_MAX of them, so that WINDOW_NS pass from the first one to the next
after the pause. A flood then costs a bounded part of the CPU. During the pause connections of pods wait in the
kernel's queue, for less than WINDOW_NS, unless the flood fills it.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

from _native.clock cimport NANOSECONDS, monotonic_ns
from _native.limits cimport Limits
from _native.sending cimport reset_at_close
from _native.sockets cimport *

import os
import socket

cdef enum:
    UNREAD_MAX = 256           # unread connections until a pause: 25,600 a second, at 5 us each an eighth of a core

cdef int64_t WINDOW_NS = NANOSECONDS // 100
cdef double PAUSE_LEAST = 0.001
cdef double AGAIN_SECONDS = 0.1  # until the next attempt to register with epoll


@cython.final
cdef class Listener:
    def __cinit__(self):
        self.fd = -1

    def __init__(self):
        raise TypeError("a Listener is made by its Lane")

    cdef int begin(self, object sock, object loop, int epoll, uint64_t mark, Limits limits) except -1:
        """Use *sock*, which the caller owns, and report its connections to *epoll* with *mark*. Raise OSError."""
        cdef int one = 1
        # Accepted connections inherit all options. A response is one send: Nagle's algorithm would only delay it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, one)
        # A pod and its node have no congestion between them, but some default algorithms (BBR) do work for each
        # response. Reno does the least work, and every kernel has it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, limits.receive_bytes)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.send_bytes)
        # The kernel continues to send after a connection is closed, and keeps the data of a peer that does not read.
        timeout_ms = max(1000, limits.write_ns // (NANOSECONDS // 1000))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        if limits.defer_accept:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, one)
        self.loop = loop
        self.epoll = epoll
        self.mark = mark
        self.fd = sock.fileno()
        try:
            self.watch()
        except OSError:
            self.fd = -1
            raise
        self.sock = sock
        return 0

    cdef int end(self) except -1:
        """Stop using the socket. Idempotent."""
        if self.sock is None:
            return 0
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.fd, NULL)
        self.sock = None
        self.fd = -1
        return 0

    cdef int pause(self, double seconds) except -1:
        """Accept nothing for *seconds*. The listener stays ready in that time, and the loop would spin."""
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.fd, NULL)
        self.timer = self.loop.call_later(seconds, self._resume)
        return 0

    def _resume(self):
        self.timer = None
        self.closed = 0
        if self.sock is None:
            return
        try:
            self.watch()
        except OSError:
            self.timer = self.loop.call_later(AGAIN_SECONDS, self._resume)

    cdef int queue_length(self, uint32_t most) noexcept:
        """Return the number of connections to accept now, from 1 to *most*: the length of the kernel's queue.

        Accepting until the queue is empty costs more: accept4 creates a socket before it checks the queue.
        """
        cdef tcp_info info
        cdef socklen_t size = sizeof(tcp_info)
        info.tcpi_unacked = 0  # of a listener: the length of its queue (linux/net/ipv4/tcp.c, tcp_get_info)
        if getsockopt(self.fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0:
            return <int>most
        return <int>max(1, min(info.tcpi_unacked, most))

    cdef bint must_close(self, int fd) noexcept:
        """Return whether the listener must not serve the accepted connection *fd*."""
        return self.redirects is not None and not self.redirects.matches(fd)

    cdef bint close_unread(self, int fd, uint32_t address) except -1:
        """Reset the connection *fd* of the peer *address*. Return whether the listener pauses now."""
        cdef int64_t now = monotonic_ns()
        reset_at_close(fd)
        close_fd(fd)
        self.unread += 1
        self.last_unread = address
        if self.closed == 0:
            self.since_ns = now
        self.closed += 1
        if self.closed < UNREAD_MAX:
            return False
        self.pause(max(PAUSE_LEAST, <double>(self.since_ns + WINDOW_NS - now) / NANOSECONDS))
        return True

    cdef int watch(self) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = self.mark
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, self.fd, &event) != 0:
            raise OSError(errno, os.strerror(errno))
        return 0
