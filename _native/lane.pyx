"""The listener and its connections' turns.

They live on an epoll descriptor of their own, which is itself registered in the event loop: whenever any of them is
ready, the loop calls `_turn` once, and everything happens in there or in a method that the general lane calls. All of
it runs on the loop's thread.

What a peer can do to its neighbours is bounded: connections in all and per peer, work per wake-up and per connection,
one deadline for each state, no reading from a peer that does not read its answers. The numbers stand below and in
`connection`, with their reasons.
"""

cimport cython
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EPROTO, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

from _native.clock cimport NANOSECONDS, monotonic_ns
from _native.connection cimport LINGERING, Connection, Owner
from _native.index cimport Index
from _native.sockets cimport *

import logging
import os
import socket

log = logging.getLogger(__name__)

cdef enum:
    EVENTS_PER_TURN = 64       # at 6 us each a turn stays under half a millisecond, then the loop's tasks get theirs
    ACCEPTS_PER_TURN = 32      # an accept with its first answer costs 25 us
    LISTENER = 0xFFFFFFFF      # in place of a slot

cdef double REST_SECONDS = 0.1             # how long to leave the listener alone when it cannot be accepted from
cdef double SWEEP_SECONDS = 0.25           # how late a deadline may be noticed, or a quarter of the shortest
cdef int64_t FAILURE_QUIET_NS = 60 * <int64_t>NANOSECONDS  # between two log lines: a peer may cause many


cdef int64_t nanoseconds(object seconds) except -1:
    cdef double given = seconds
    if not 0 < given <= 86_400:
        raise ValueError(f"a time limit is more than 0 and at most 86400 seconds, not {given}")
    return <int64_t>(given * NANOSECONDS)


@cython.final
cdef class Limits:
    # A node runs up to 250 pods, an SDK keeps a handful of connections; one costs about 300 bytes and a descriptor.
    cdef readonly int connections
    # 200 requests at once from one pod have been seen in practice; sixteen pods together can reach the limit in all.
    cdef readonly int connections_per_peer
    cdef int64_t first_byte_ns  # SDKs send at once; a silent connection is a probe or an attack
    cdef int64_t head_ns        # from the first byte to the end of the request, body included: a segment or two
    cdef int64_t idle_ns        # longer than the 60 to 90 s that HTTP clients keep idle connections: they close first
    cdef int64_t write_ns       # from the moment the socket was full until everything is sent
    cdef readonly bint defer_accept

    def __init__(
        self, *, int connections=8192, int connections_per_peer=512, first_byte_seconds=10.0, head_seconds=10.0,
        idle_seconds=120.0, write_seconds=30.0, bint defer_accept=False
    ):
        if connections < 1 or connections_per_peer < 1:
            raise ValueError("at least one connection must be allowed, in all and per peer")
        self.connections = connections
        self.connections_per_peer = connections_per_peer
        self.first_byte_ns = nanoseconds(first_byte_seconds)
        self.head_ns = nanoseconds(head_seconds)
        self.idle_ns = nanoseconds(idle_seconds)
        self.write_ns = nanoseconds(write_seconds)
        self.defer_accept = defer_accept


@cython.final
cdef class Lane(Owner):
    cdef Limits limits
    cdef object loop
    cdef object listener          # kept open as long as its descriptor is in our epoll set
    cdef int listener_fd
    cdef list slots               # Connection or None
    cdef list free_slots
    cdef dict peers               # address -> its open connections
    cdef list waiting             # connections with unread bytes, for the next turn of the loop
    cdef list lost                # general lanes to tell of their connection's end
    cdef object sweeper           # TimerHandle while there are connections
    cdef object acceptor          # TimerHandle while out of descriptors
    cdef double sweep_seconds
    cdef uint32_t serial
    cdef bint turning
    cdef bint calling_later
    cdef bint delivering
    cdef uint64_t accepted, refused_total, refused_peer, timed_out, failed
    cdef int64_t failure_logged_ns
    cdef int open

    def __cinit__(self):
        self.epoll = self.listener_fd = -1

    def __init__(self, *, Index index not None, general, Limits limits not None, bint require_metadata=True):
        if self.epoll >= 0:
            raise TypeError("a Lane is made once")
        self.index = index
        self.general = general
        self.limits = limits
        self.first_byte_ns, self.head_ns = limits.first_byte_ns, limits.head_ns
        self.idle_ns, self.write_ns = limits.idle_ns, limits.write_ns
        self.require_metadata = require_metadata
        self.slots = []
        self.free_slots = []
        self.peers = {}
        self.waiting = []
        self.lost = []
        shortest = min(self.first_byte_ns, self.head_ns, self.idle_ns, self.write_ns)
        self.sweep_seconds = max(0.005, min(SWEEP_SECONDS, shortest / NANOSECONDS / 4))
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        if self.epoll >= 0:
            close_fd(self.epoll)

    def start(self, loop, listener):
        cdef int one = 1
        if self.epoll < 0 or self.loop is not None:
            raise RuntimeError("a Lane is started once")
        if listener.family != socket.AF_INET or listener.type != socket.SOCK_STREAM:
            raise ValueError("the lane serves TCP over IPv4: the redirected address has no IPv6 form")
        if listener.getblocking():
            raise ValueError("the listener blocks; call setblocking(False) before start()")
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("the socket does not listen; call listen() before start()")
        self.listener_fd = listener.fileno()
        # Accepted connections inherit both. An answer is one send, so there is nothing to wait for before sending it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, one)
        if self.limits.defer_accept:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, one)
        self.listener = listener
        self.loop = loop
        self.watch_listener()
        loop.add_reader(self.epoll, self._turn)

    def stop_accepting(self):
        if self.listener is None:
            return
        if self.acceptor is not None:
            self.acceptor.cancel()
            self.acceptor = None
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.listener_fd, NULL)
        self.listener = None
        self.listener_fd = -1

    def close_idle(self):
        cdef Connection connection
        self.draining = True
        for each in list(self.slots):
            if each is not None:
                connection = <Connection>each
                connection.shut_if_idle()
        self.deliver_losses_outside_turns()
        return self.open

    def close(self):
        cdef Connection connection
        if self.epoll < 0:
            return
        self.stop_accepting()
        if self.loop is not None:
            self.loop.remove_reader(self.epoll)
        if self.sweeper is not None:
            self.sweeper.cancel()
            self.sweeper = None
        for each in list(self.slots):
            if each is not None:
                connection = <Connection>each
                connection.shut()
        self.waiting.clear()
        close_fd(self.epoll)
        self.epoll = -1
        self.deliver_losses_outside_turns()

    def counters(self):
        return {
            "accepted": self.accepted,
            "open": self.open,
            "refused_total": self.refused_total,
            "refused_peer": self.refused_peer,
            "timed_out": self.timed_out,
            "fast_answers": self.fast_answers,
            "handed_over": self.handed_over,
            "failed": self.failed,
        }

    # Called by the loop.

    def _turn(self):
        """Serve what is ready, up to EVENTS_PER_TURN; the loop calls again while there is more."""
        cdef epoll_event[EVENTS_PER_TURN] events
        cdef uint64_t which
        cdef uint32_t slot
        cdef int count, at
        cdef Connection connection
        if self.epoll < 0:
            return
        count = epoll_wait(self.epoll, events, EVENTS_PER_TURN, 0)
        self.turning = True
        try:
            for at in range(count):
                which = events[at].data.u64
                slot = <uint32_t>which
                if slot == LISTENER:
                    self.accept_some()
                    continue
                connection = self.connection_at(slot)
                # An event may be about a connection that was closed, and its slot given away, earlier in this turn.
                if connection is None or connection.serial != <uint32_t>(which >> 32):
                    continue
                try:
                    connection.on_events(events[at].events)
                except BaseException as error:
                    self.handler_failed(connection, error)
        finally:
            self.turning = False
            self.deliver_losses()

    def _go_on(self):
        """Give each connection that was over its share, or was resumed with bytes at hand, another turn."""
        cdef Connection connection
        cdef list waiting = self.waiting
        cdef Py_ssize_t served = 0
        self.calling_later = False
        self.waiting = []
        self.turning = True
        try:
            for each in waiting:
                served += 1
                connection = <Connection>each
                try:
                    connection.go_on()
                    connection.arm()
                except BaseException as error:
                    self.handler_failed(connection, error)
        finally:
            self.turning = False
            for each in waiting[served:]:  # after an interrupt only
                self.later(<Connection>each)
            self.deliver_losses()

    def _sweep(self):
        """Close what is past its deadline. A walk over 8,192 connections takes 0.1 ms."""
        cdef int64_t now = monotonic_ns()
        cdef Connection connection
        self.turning = True
        for each in self.slots:
            if each is None:
                continue
            connection = <Connection>each
            if not connection.is_late(now):
                continue
            if connection.state != LINGERING:
                self.timed_out += 1
            connection.shut()
        self.turning = False
        self.sweeper = None
        if self.open:
            self.sweeper = self.loop.call_later(self.sweep_seconds, self._sweep)
        self.deliver_losses()

    def _accept_again(self):
        self.acceptor = None
        if self.listener is None:
            return
        try:
            self.watch_listener()
        except OSError:
            self.acceptor = self.loop.call_later(REST_SECONDS, self._accept_again)

    # Called by connections.

    cdef int later(self, Connection connection) except -1:
        if connection.unread is None:
            return 0
        self.waiting.append(connection)
        if not self.calling_later:
            self.calling_later = True
            self.loop.call_soon(self._go_on)
        return 0

    cdef int forget(self, Connection connection) except -1:
        self.slots[connection.slot] = None
        self.free_slots.append(connection.slot)
        self.open -= 1
        others = self.peers[connection.peer_key] - 1
        if others:
            self.peers[connection.peer_key] = others
        else:
            del self.peers[connection.peer_key]
        return 0

    cdef int tell_lost(self, object general) except -1:
        self.lost.append(general)
        if not self.turning and not self.delivering and self.epoll >= 0 and len(self.lost) == 1:
            self.loop.call_soon(self._deliver_losses)
        return 0

    # The rest is the lane's own.

    cdef int watch_listener(self) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = LISTENER
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, self.listener_fd, &event) != 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    cdef Connection connection_at(self, uint32_t slot):
        if slot >= <uint32_t>len(self.slots):
            return None
        each = self.slots[slot]
        return None if each is None else <Connection>each

    cdef int accept_some(self) except -1:
        cdef sockaddr_in address
        cdef socklen_t size
        cdef int fd
        cdef Connection connection
        for _ in range(<int>ACCEPTS_PER_TURN):
            if self.listener is None:  # a handler stopped us
                return 0
            size = sizeof(sockaddr_in)
            fd = accept4(self.listener_fd, <sockaddr *>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                if errno == EINTR or errno == ECONNABORTED or errno == EPROTO:
                    continue
                if errno != EAGAIN:
                    self.rest_from_accepting()
                return 0
            self.accepted += 1
            if self.open >= self.limits.connections:
                self.refused_total += 1
                close_fd(fd)
                continue
            key = address.sin_addr.s_addr
            others = self.peers.get(key, 0)
            if others >= self.limits.connections_per_peer:
                self.refused_peer += 1
                close_fd(fd)
                continue
            self.peers[key] = others + 1
            connection = self.admit(fd, key)
            try:
                connection.read()  # most often the request is here already
                connection.arm()
            except BaseException as error:
                self.handler_failed(connection, error)
        return 0

    cdef Connection admit(self, int fd, object key):
        cdef Connection connection = Connection.__new__(Connection)
        cdef uint32_t slot
        if self.free_slots:
            slot = self.free_slots.pop()
            self.slots[slot] = connection
        else:
            slot = <uint32_t>len(self.slots)
            self.slots.append(connection)
        self.serial += 1
        connection.begin(self, fd, key, slot, self.serial)
        self.open += 1
        if self.sweeper is None:
            self.sweeper = self.loop.call_later(self.sweep_seconds, self._sweep)
        return connection

    cdef int rest_from_accepting(self) except -1:
        """Out of descriptors or the like: the listener would be ready for ever, and the loop would spin on it."""
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.listener_fd, NULL)
        self.acceptor = self.loop.call_later(REST_SECONDS, self._accept_again)
        return 0

    def _deliver_losses(self):
        self.deliver_losses()

    cdef int deliver_losses_outside_turns(self) except -1:
        if not self.turning:
            self.deliver_losses()
        return 0

    cdef int deliver_losses(self) except -1:
        if not self.lost or self.delivering:
            return 0
        self.delivering = True
        try:
            while self.lost:
                general = self.lost.pop()
                try:
                    general.connection_lost()
                except BaseException as error:
                    self.note_failure("", error)
        finally:
            self.delivering = False
            if self.lost:  # after an interrupt only
                self.loop.call_soon(self._deliver_losses)
        return 0

    cdef int handler_failed(self, Connection connection, object error) except -1:
        """Whatever the general lane raises ends one connection and nothing else."""
        peer = connection.peer
        connection.shut()
        self.note_failure(peer, error)
        return 0

    cdef int note_failure(self, str peer, object error) except -1:
        cdef int64_t now = monotonic_ns()
        self.failed += 1
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        if self.failure_logged_ns and now - self.failure_logged_ns < FAILURE_QUIET_NS:
            return 0
        self.failure_logged_ns = now
        log.error(
            "closed a connection because its handler failed; this is a defect of ours, please report the traceback",
            exc_info=error,
            extra={"peer": peer, "count": self.failed},
        )
        return 0
