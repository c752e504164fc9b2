"""The listener and its connections.

They live on an epoll descriptor of their own, which is itself registered in the event loop: whenever any of them is
ready, the loop calls `_turn` once, and everything happens in there or in a method that the general lane calls. All of
it runs on the loop's thread.

A connection's bytes go the fast way while no request is pending on it: a complete ordinary head (`scan`), a query of
known fields (`query`), a known address whose record holds a fresh answer (`index`): that answer is sent. At the first
byte where any of this does not hold, the connection is handed over: the general lane gets every byte from there on
until it says `resume`. Part of a head is handed over, too, and not kept here. It costs such a request some
microseconds, and it saves a second place where fragments are gathered, limited and scanned again with each byte that
arrives.

What a peer can do to its neighbours is bounded: connections in all and per peer, work per wake-up and per connection,
one deadline for each state, no reading from a peer that does not read its answers. The numbers stand below with their
reasons.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTO, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from _native.answers cimport ANSWER_MAX, ReadyAnswer
from _native.clock cimport NANOSECONDS, monotonic_ns
from _native.index cimport Index, PodRecord
from _native.query cimport Query, read_query
from _native.scan cimport DONE, Head, scan_head
from _native.sockets cimport *

import logging
import os
import socket
from typing import Protocol

log = logging.getLogger(__name__)

cdef enum:
    READ_MAX = 16 * 1024       # bytes per recv: 75 pipelined requests; also what a connection can make us keep unread
    EVENTS_PER_TURN = 64       # at 6 us each a turn stays under half a millisecond, then the loop's tasks get theirs
    ACCEPTS_PER_TURN = 32      # an accept with its first answer costs 25 us
    REQUESTS_PER_TURN = 32     # of one connection, before the others have theirs
    LINGER_BYTES = 256 * 1024  # read and thrown away after the last answer, so that closing does not reset it away
    LISTENER = 0xFFFFFFFF      # in place of a slot

cdef int64_t LINGER_NS = NANOSECONDS   # a peer on the same node has read its answer by then
cdef double NO_DESCRIPTORS_SECONDS = 0.1   # how long to leave the listener alone when the process is out of descriptors
cdef double SWEEP_SECONDS = 0.25           # how late a deadline may be noticed, or a quarter of the shortest
cdef int64_t FAILURE_QUIET_NS = 60 * <int64_t>NANOSECONDS  # between two log lines: a peer may cause many

cdef enum State:
    CLOSED       # zero on purpose
    FRESH        # accepted, nothing received
    IDLE         # everything received has been answered
    HANDED_OVER  # the general lane is reading a request
    HELD         # the general lane is answering one; nothing is read
    FINISHING    # closed once everything written has been sent
    LINGERING    # all is sent and our side shut down; waiting for the peer's


class GeneralLane(Protocol):
    def data_received(self, data: bytes) -> None: ...
    def peer_gone(self) -> None: ...
    def connection_lost(self) -> None: ...


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
@cython.freelist(64)
cdef class Connection:
    cdef Lane lane
    cdef object general      # the GeneralLane of this connection, once one was needed
    cdef object peer_key     # the peer's address as Index keys it
    cdef bytes unread        # received and not looked at yet: its turn was over, or it does not read its answers
    cdef bytes unsent        # written, and not taken by the socket yet, from unsent_from on
    cdef Py_ssize_t unsent_from
    cdef Py_ssize_t thrown_away
    cdef int64_t deadline_ns        # of the present state; 0 if it has none
    cdef int64_t write_deadline_ns  # of unsent
    cdef uint32_t serial     # tells this connection from the one that had the slot before
    cdef uint32_t slot
    cdef uint32_t armed      # the events asked of epoll
    cdef int fd
    cdef State state
    cdef bint registered
    cdef bint busy           # consume() is on the stack: it goes on by itself when the general lane is done
    cdef bint peer_left      # the general lane was told

    def __cinit__(self):
        self.fd = -1

    def __init__(self):
        raise TypeError("a Connection is made by its Lane")

    def __dealloc__(self):
        if self.fd >= 0:
            close_fd(self.fd)

    # What the general lane may call.

    @property
    def peer(self):
        return dotted(self.peer_key)

    @property
    def open(self):
        return self.is_open()

    def original_destination(self):
        cdef sockaddr_in meant, local
        cdef socklen_t size = sizeof(sockaddr_in)
        if self.fd < 0 or getsockopt(self.fd, IPPROTO_IP, SO_ORIGINAL_DST, &meant, &size) != 0:
            return None  # ENOENT: connection tracking knows nothing of it, so nothing was rewritten
        size = sizeof(sockaddr_in)
        if getsockname(self.fd, <sockaddr *>&local, &size) != 0:
            return None
        if meant.sin_addr.s_addr == local.sin_addr.s_addr and meant.sin_port == local.sin_port:
            return None
        return dotted(meant.sin_addr.s_addr), ntohs(meant.sin_port)

    def write(self, bytes data not None):
        if self.is_open():
            self.send_bytes(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            self.arm()

    def finish(self):
        if not self.is_open():
            return
        self.state = FINISHING
        self.deadline_ns = 0
        self.unread = None
        if not self.busy:
            self.settle()
            self.arm()

    def pause(self):
        if self.state == HANDED_OVER:
            self.state = HELD
            self.deadline_ns = 0
            self.arm()

    def resume(self):
        if self.state != HELD and self.state != HANDED_OVER:
            return
        self.state = IDLE
        self.deadline_ns = monotonic_ns() + self.lane.limits.idle_ns
        if not self.busy:
            self.lane.later(self)
            self.settle()
            self.arm()

    # What the lane calls.

    cdef inline bint is_open(self) noexcept:
        return self.state != CLOSED and self.state != FINISHING and self.state != LINGERING

    cdef int on_events(self, uint32_t events) except -1:
        if events & (EPOLLERR | EPOLLHUP):  # reset, or both sides are shut: nothing more can be sent
            self.tell_peer_left()
            self.shut()
            return 0
        if events & EPOLLRDHUP and self.state == HELD:
            self.tell_peer_left()
        if events & EPOLLOUT:
            self.send_rest()
        if events & EPOLLIN:
            self.read()
        self.arm()
        return 0

    cdef int read(self) except -1:
        cdef Py_ssize_t size
        if self.state == CLOSED or self.state == HELD or self.state == FINISHING:
            return 0
        if self.unsent is not None or self.unread is not None:  # no reading ahead of what waits already
            return 0
        size = recv(self.fd, self.lane.inbox, READ_MAX, MSG_DONTWAIT)
        if size < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if size <= 0:
            # An end here is an end between requests or in the midst of one: no answer is due in either case.
            self.shut()
            return 0
        if self.state == LINGERING:
            self.thrown_away += size
            if self.thrown_away > LINGER_BYTES:
                self.shut()
            return 0
        return self.consume(self.lane.inbox, size)

    cdef int go_on(self) except -1:
        """Look at what was left unread, if nothing is in the way any more."""
        cdef bytes data = self.unread
        if data is None or self.unsent is not None or (self.state != IDLE and self.state != HANDED_OVER):
            return 0
        self.unread = None
        return self.consume(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int consume(self, const unsigned char *data, Py_ssize_t size) except -1:
        """Answer the requests in *data* in their order, or hand them over; keep what has to wait."""
        cdef Py_ssize_t at = 0
        cdef int answered = 0
        self.busy = True
        try:
            while at < size:
                if self.state == HANDED_OVER:
                    rest = PyBytes_FromStringAndSize(<const char *>data + at, size - at)
                    at = size
                    self.general.data_received(rest)
                elif self.state != IDLE and self.state != FRESH:
                    break
                elif answered == REQUESTS_PER_TURN or self.unsent is not None:
                    break
                else:
                    answered += 1
                    if not self.answer_fast(data, size, &at):
                        self.hand_over()
            self.flush_joined()
        finally:
            self.busy = False
            self.lane.joined = 0
        if at < size and self.is_open():
            self.unread = PyBytes_FromStringAndSize(<const char *>data + at, size - at)
            if self.unsent is None and self.state != HELD:
                self.lane.later(self)
        self.settle()
        return 0

    cdef bint answer_fast(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t *at) except -1:
        """Answer the request that stands at *at*, which moves on; False if it is not for the fast lane."""
        cdef Lane lane = self.lane
        cdef int64_t begun = monotonic_ns()
        cdef int64_t done
        cdef Head head
        cdef Query query
        cdef PodRecord record
        cdef ReadyAnswer answer
        cdef const char *text
        cdef Py_ssize_t length = 0
        cdef bint close
        if scan_head(data + at[0], size - at[0], &head) != DONE or (lane.require_metadata and not head.metadata):
            return False
        if not read_query(data + at[0] + head.query.start, head.query.stop - head.query.start, &query):
            return False
        record = lane.index.of(self.peer_key)
        if record is None or record.suspended or lane.index.suspended:
            return False
        answer = record.lookup(&query, begun)
        if answer is None:
            return False
        at[0] += head.size
        close = head.close or lane.draining
        text = answer.written(begun, close, &length)
        if at[0] >= size and lane.joined == 0:
            self.send_bytes(text, length)
        else:
            self.join(text, length)
        if self.state != CLOSED:
            done = monotonic_ns()
            answer.series.record(done - begun)
            answer.usage.note(done)
            lane.fast_answers += 1
            self.state = FINISHING if close else IDLE
            self.deadline_ns = 0 if close else done + lane.limits.idle_ns
        return True

    cdef int hand_over(self) except -1:
        self.flush_joined()  # the general lane's answer comes after these
        if self.state == CLOSED:
            return 0
        self.state = HANDED_OVER
        self.deadline_ns = monotonic_ns() + self.lane.limits.head_ns
        self.lane.handed_over += 1
        if self.general is None:
            self.general = self.lane.general(self)
        return 0

    cdef int tell_peer_left(self) except -1:
        if self.state == HELD and not self.peer_left:
            self.peer_left = True
            self.general.peer_gone()
        return 0

    # Sending.

    cdef int join(self, const char *data, Py_ssize_t size) except -1:
        """Send *data* together with the answers beside it: one segment, not one each."""
        cdef Lane lane = self.lane
        if lane.joined + size > ANSWER_MAX:
            self.flush_joined()
        if self.state != CLOSED:
            memcpy(lane.outbox + lane.joined, data, <size_t>size)
            lane.joined += size
        return 0

    cdef int flush_joined(self) except -1:
        cdef Py_ssize_t size = self.lane.joined
        self.lane.joined = 0
        if size and self.state != CLOSED:
            self.send_bytes(self.lane.outbox, size)
        return 0

    cdef int send_bytes(self, const char *data, Py_ssize_t size) except -1:
        """Send what the socket takes at once and keep the rest."""
        cdef Py_ssize_t sent
        if self.unsent is not None:
            self.unsent = self.unsent[self.unsent_from:] + data[:size]
            self.unsent_from = 0
            return 0
        sent = send(self.fd, data, <size_t>size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent == size:
            return 0
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                self.shut()
                return 0
            sent = 0
        self.unsent = PyBytes_FromStringAndSize(data + sent, size - sent)
        self.unsent_from = 0
        self.write_deadline_ns = monotonic_ns() + self.lane.limits.write_ns
        return 0

    cdef int send_rest(self) except -1:
        cdef Py_ssize_t sent, size
        cdef const char *rest
        if self.unsent is None:
            return 0
        size = PyBytes_GET_SIZE(self.unsent) - self.unsent_from
        rest = PyBytes_AS_STRING(self.unsent) + self.unsent_from
        sent = send(self.fd, rest, <size_t>size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                self.shut()
            return 0
        self.unsent_from += sent
        if sent == size:
            self.unsent = None
            self.settle()
            self.go_on()
        return 0

    # Ending.

    cdef int settle(self) except -1:
        """If this is finishing and all is sent, end it."""
        if self.state == IDLE and self.lane.draining and self.unread is None:
            self.state = FINISHING
        if self.state != FINISHING or self.unsent is not None:
            return 0
        if self.general is None:
            self.shut()  # the fast lane reads whole requests only: nothing is left in the socket that would reset it
            return 0
        # Bytes that are unread when a socket is closed, or come later, reset it, and the peer may lose our last answer
        # (RFC 9112 §9.6). So shut our side, and read until the peer has shut its own.
        shutdown(self.fd, SHUT_WR)
        self.state = LINGERING
        self.deadline_ns = monotonic_ns() + LINGER_NS
        return 0

    cdef int arm(self) except -1:
        """Ask epoll for what this connection waits for now. Errors and full hang-ups are reported always."""
        cdef epoll_event event
        cdef uint32_t wanted = 0
        if self.state == CLOSED or self.busy:
            return 0
        if self.unsent is not None:
            wanted = EPOLLOUT
        elif self.state != HELD and self.unread is None:
            wanted = EPOLLIN
        if self.state == HELD and not self.peer_left:
            wanted |= EPOLLRDHUP
        if self.registered and wanted == self.armed:
            return 0
        event.events = wanted
        event.data.u64 = (<uint64_t>self.serial << 32) | self.slot
        if epoll_ctl(self.lane.epoll, EPOLL_CTL_MOD if self.registered else EPOLL_CTL_ADD, self.fd, &event) != 0:
            self.shut()  # ENOMEM or ENOSPC: it could never be served again
            return 0
        self.registered = True
        self.armed = wanted
        return 0

    cdef int shut(self) except -1:
        """Close the descriptor now. The general lane hears of it when the turn ends, never inside a call of its own."""
        if self.state == CLOSED:
            return 0
        self.state = CLOSED
        close_fd(self.fd)
        self.fd = -1
        self.unread = self.unsent = None
        self.lane.forget(self)
        if self.general is not None:
            self.lane.tell_lost(self.general)
            self.general = None
        return 0


@cython.final
cdef class Lane:
    cdef Index index
    cdef object general
    cdef Limits limits
    cdef bint require_metadata
    cdef object loop
    cdef object listener          # kept open as long as its descriptor is in our epoll set
    cdef int listener_fd
    cdef int epoll
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
    cdef bint draining
    cdef Py_ssize_t joined        # bytes in outbox
    cdef uint64_t accepted, fast_answers, handed_over, refused_total, refused_peer, timed_out, failed
    cdef int64_t failure_logged_ns
    cdef int open
    cdef unsigned char[READ_MAX] inbox
    cdef char[ANSWER_MAX] outbox

    def __cinit__(self):
        self.epoll = self.listener_fd = -1

    def __init__(self, *, Index index not None, general, Limits limits not None, bint require_metadata=True):
        if self.epoll >= 0:
            raise TypeError("a Lane is made once")
        self.index = index
        self.general = general
        self.limits = limits
        self.require_metadata = require_metadata
        self.slots = []
        self.free_slots = []
        self.peers = {}
        self.waiting = []
        self.lost = []
        shortest = min(limits.first_byte_ns, limits.head_ns, limits.idle_ns, limits.write_ns)
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
        cdef char byte = 0
        self.draining = True
        for each in list(self.slots):
            if each is None:
                continue
            connection = <Connection>each
            if connection.unread is not None or connection.unsent is not None:
                continue
            if connection.state == LINGERING:
                connection.shut()
            elif connection.state == FRESH or connection.state == IDLE:
                # A request that has arrived and was not read yet is pending, too.
                if recv(connection.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0:
                    connection.shut()
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
        self.calling_later = False
        self.waiting = []
        self.turning = True
        try:
            for each in waiting:
                connection = <Connection>each
                try:
                    connection.go_on()
                    connection.arm()
                except BaseException as error:
                    self.handler_failed(connection, error)
        finally:
            self.turning = False
        self.deliver_losses()

    def _sweep(self):
        """Close what is past its deadline. A walk over 8,192 connections takes 0.1 ms."""
        cdef int64_t now = monotonic_ns()
        cdef Connection connection
        cdef bint late
        self.turning = True
        for each in self.slots:
            if each is None:
                continue
            connection = <Connection>each
            late = connection.deadline_ns != 0 and now >= connection.deadline_ns
            if connection.unsent is not None and now >= connection.write_deadline_ns:
                late = True
            if not late:
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
        if self.listener is not None:
            self.watch_listener()

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
        if not self.turning and self.epoll >= 0 and len(self.lost) == 1:
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
                if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
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
        connection.fd = fd
        connection.lane = self
        connection.peer_key = key
        connection.state = FRESH
        connection.deadline_ns = monotonic_ns() + self.limits.first_byte_ns
        self.serial += 1
        connection.serial = self.serial
        if self.free_slots:
            connection.slot = self.free_slots.pop()
            self.slots[connection.slot] = connection
        else:
            connection.slot = <uint32_t>len(self.slots)
            self.slots.append(connection)
        self.open += 1
        if self.sweeper is None:
            self.sweeper = self.loop.call_later(self.sweep_seconds, self._sweep)
        return connection

    cdef int rest_from_accepting(self) except -1:
        """Out of descriptors: the listener would be ready for ever, and the loop would spin on it."""
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.listener_fd, NULL)
        self.acceptor = self.loop.call_later(NO_DESCRIPTORS_SECONDS, self._accept_again)
        return 0

    def _deliver_losses(self):
        self.deliver_losses()

    cdef int deliver_losses_outside_turns(self) except -1:
        if not self.turning:
            self.deliver_losses()
        return 0

    cdef int deliver_losses(self) except -1:
        cdef list lost
        while self.lost:
            lost, self.lost = self.lost, []
            for general in lost:
                try:
                    general.connection_lost()
                except BaseException as error:
                    self.note_failure("", error)
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
