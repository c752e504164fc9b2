"""The lane: its listeners and their connections.

They use their own epoll descriptor, which is registered in the event loop: if any of them is ready, the loop calls
`_turn` once. One call is a *turn*: it first reads and then sends its responses. All code runs on the loop's thread, in
a turn or in a method that the general lane calls.

Limits protect peers from each other: connections in total and per peer, work per turn and per connection, one deadline
per state, no reading from a peer that does not read its responses. Work beyond a limit waits in the peer's queue, and
peers are served round-robin, independent of the number of their connections. The numbers are below and in
`connection`, with their reasons.
"""

cimport cython
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EPROTO, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

from _native.clock cimport NANOSECONDS, monotonic_ns
from _native.connection cimport FRESH, LEAVING, Connection, LaneState
from _native.connection_slots cimport ConnectionSlots, Peer
from _native.deadlines cimport Deadlines
from _native.disconnects cimport Disconnects
from _native.eviction cimport Eviction, close_if_idle
from _native.fair_queue cimport FairQueue
from _native.index cimport Index
from _native.limits cimport Limits as OurLimits
from _native.listener cimport Listener
from _native.memory cimport Memory
from _native.ready_responses cimport RESPONSE_MAX
from _native.redirects cimport Redirects, leads_to_loopback
from _native.sockets cimport *
from _native.transfer cimport continue_adopted, is_connected, release_idle

import os
import socket

from _native.limits import Limits

__all__ = ["Lane", "Limits"]

cdef enum:
    EVENTS_PER_TURN = 64       # at 6 us each, a turn takes less than half a millisecond; then the loop's tasks run
    ACCEPTS_PER_TURN = 256     # at 4 us each: the kernel has one queue for all peers, which must be emptied quickly
    ARRIVALS_PER_TURN = 16     # of one peer, read immediately: 25 us each with the first response; others are queued
    PART_LEAST = 4 * 1024      # a usual token is sent whole
    PARTS_BELOW = 64 * 1024    # a send buffer for a whole ready response of the largest size needs no parts
    LISTENER = 0xFFFFFFFF      # instead of a connection's number
    NODE_LISTENER = 0xFFFFFFFE

cdef double REST_SECONDS = 0.1             # pause of accepting after accept() failed
cdef double SWEEP_AGAIN_SECONDS = 0.001    # if the sweep did not close every late connection
cdef int64_t TURN_NS = NANOSECONDS // 4000  # of work on the fair queue, before events and the loop's tasks
cdef double SWEEP_SECONDS = 0.25           # largest delay of a deadline; at most a quarter of the shortest deadline


@cython.final
cdef class Lane(LaneState):
    cdef OurLimits limits
    cdef object loop
    cdef Listener listener
    cdef Listener node_listener   # on the node's own address
    cdef Deadlines deadlines
    cdef Eviction eviction
    cdef Memory memory
    cdef object sweeper           # TimerHandle while there are connections
    cdef double sweep_seconds
    cdef uint32_t serial
    cdef Redirects redirects      # only redirected connections get fast responses; None: all connections
    cdef uint64_t accepted, refused_total, refused_peer

    def __cinit__(self):
        self.epoll = -1

    def __init__(
        self, *, Index index not None, general, OurLimits limits not None, bint require_metadata=True,
        redirected_from=None
    ):
        if self.epoll >= 0:
            raise TypeError("a Lane is initialized once")
        self.index = index
        self.general = general
        self.limits = limits
        self.first_byte_ns, self.head_ns = limits.first_byte_ns, limits.head_ns
        self.idle_ns, self.write_ns = limits.idle_ns, limits.write_ns
        self.part_bytes = max(PART_LEAST, limits.send_bytes // 4) if limits.send_bytes < PARTS_BELOW else RESPONSE_MAX
        self.buffer_bytes = RESPONSE_MAX if self.part_bytes == RESPONSE_MAX else 4 * self.part_bytes
        self.require_metadata = require_metadata
        if redirected_from is not None:
            self.redirects = Redirects(*redirected_from)
        self.listener = Listener.__new__(Listener)
        self.node_listener = Listener.__new__(Listener)
        self.turn = 1
        self.connections = []
        self.free_numbers = []
        self.slots = ConnectionSlots(min(limits.connections, limits.connections_per_peer))
        self.eviction = Eviction(self.slots)
        self.fair_queue = FairQueue()
        self.disconnects = Disconnects()
        self.deadlines = Deadlines()
        self.memory = Memory(limits.memory_bytes, limits.send_bytes)
        shortest = min(self.first_byte_ns, self.head_ns, self.idle_ns, self.write_ns)
        self.sweep_seconds = max(0.005, min(SWEEP_SECONDS, shortest / NANOSECONDS / 4))
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        if self.epoll >= 0:
            close_fd(self.epoll)

    def start(self, loop, listener):
        if self.epoll < 0 or self.loop is not None:
            raise RuntimeError("a Lane is started once")
        check_listener(listener)
        self.listener.begin(listener, loop, self.epoll, LISTENER, self.limits)
        self.loop = self.fair_queue.loop = self.disconnects.loop = loop
        self.fair_queue.serve = self._serve_queue
        loop.add_reader(self.epoll, self._turn)

    def accept_again(self, listener):
        if self.epoll < 0 or self.loop is None:
            raise RuntimeError("only a started Lane accepts again")
        if self.listener.sock is None:
            self.listener.begin(listener, self.loop, self.epoll, LISTENER, self.limits)

    def listen_on_node(self, listener, redirected_from):
        if self.epoll < 0 or self.loop is None:
            raise RuntimeError("only a started Lane listens on a second socket")
        check_listener(listener)
        if self.node_listener.sock is None:
            self.node_listener.redirects = None if redirected_from is None else Redirects(*redirected_from)
            self.node_listener.begin(listener, self.loop, self.epoll, NODE_LISTENER, self.limits)

    def stop_accepting(self, only=None):
        for listener in (self.listener, self.node_listener):
            if only is None or (<Listener>listener).sock is only:
                (<Listener>listener).end()

    def close_idle(self, bint silent=True):
        cdef Connection connection
        self.draining = True
        self.send_all_due()
        for slot in list(self.connections):
            if slot is not None:
                connection = <Connection>slot
                if connection.state == LEAVING:
                    connection.close_now()
                elif silent or connection.state != FRESH:
                    close_if_idle(connection)
        self.notify_outside_turns()
        return self.open

    def release_idle(self, int most):
        if self.turning:
            raise RuntimeError("connections are released outside of turns")
        self.send_all_due()
        released = release_idle(self.connections, most)
        self.disconnects.notify()
        return released

    def adopt(self, int fd):
        cdef uint32_t address = 0
        cdef Connection connection = None
        try:
            if self.loop is None or self.epoll < 0:
                raise RuntimeError("only a started Lane adopts connections")
            if is_connected(fd, &address) and self.may_adopt(fd):
                connection = self.admit(fd, address)
        finally:
            if connection is None:
                close_fd(fd)
        if connection is None:
            return False
        continue_adopted(connection)
        self.notify_outside_turns()
        return True

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
        for slot in list(self.connections):
            if slot is not None:
                connection = <Connection>slot
                connection.close_now()
        self.fair_queue.clear()
        close_fd(self.epoll)
        self.epoll = -1
        self.disconnects.closed = True
        self.notify_outside_turns()

    @property
    def last_closed_unread(self):
        return dotted(self.node_listener.last_unread)

    def counters(self):
        return {
            "accepted": self.accepted,
            "closed_unread": self.node_listener.unread,
            "open": self.open,
            "refused_total": self.refused_total,
            "refused_peer": self.refused_peer,
            "evicted_idle": self.eviction.idle,
            "evicted_slow": self.eviction.slow,
            "narrowed": self.memory.narrowed,
            "evicted_memory": self.memory.evicted,
            "refused_memory": self.memory.refused,
            "memory_bytes": self.memory.used,
            **self.deadlines.counters(),
            "fast_answers": self.fast_answers,
            "handed_over": self.handed_over,
            "failed": self.disconnects.failed,
        }

    # Called by the loop.

    def _turn(self):
        """Serve up to EVENTS_PER_TURN events. The loop calls again while there are more."""
        cdef epoll_event[EVENTS_PER_TURN] events
        cdef uint64_t which
        cdef uint32_t number
        cdef int count, at
        cdef Connection connection
        if self.epoll < 0:
            return
        count = epoll_wait(self.epoll, events, EVENTS_PER_TURN, 0)
        self.turn += 1
        self.turning = True
        try:
            for at in range(count):
                which = events[at].data.u64
                number = <uint32_t>which
                if number >= <uint32_t>NODE_LISTENER:
                    self.accept_waiting(self.listener if number == LISTENER else self.node_listener)
                    continue
                slot = self.connections[number]
                # The connection may have been closed, and its number reused, earlier in this turn.
                if slot is None or (<Connection>slot).serial != <uint32_t>(which >> 32):
                    continue
                connection = <Connection>slot
                try:
                    connection.on_events(events[at].events)
                except BaseException as error:
                    self.handler_failed(connection, error)
        finally:
            self.send_all_due()
            if self.memory.must_measure(self.sent):
                self.memory.measure(self, self.connections, self.slots)
            self.turning = False
            self.fair_queue.schedule()
            self.disconnects.notify()

    def _serve_queue(self):
        """Serve the fair queue for TURN_NS, one connection at a time."""
        cdef Connection connection
        cdef int64_t until = monotonic_ns() + TURN_NS
        self.fair_queue.scheduled = False
        self.turning = True
        try:
            while self.fair_queue.any:
                connection = <Connection>self.fair_queue.take()
                self.turn += 1
                try:
                    connection.take_turn()
                except BaseException as error:
                    self.handler_failed(connection, error)
                self.send_all_due()
                if monotonic_ns() >= until:
                    break
        finally:
            if self.memory.must_measure(self.sent):
                self.memory.measure(self, self.connections, self.slots)
            self.turning = False
            self.fair_queue.schedule()
            self.disconnects.notify()

    def _sweep(self):
        cdef bint done
        self.turning = True
        try:
            done = self.deadlines.close_late(self.connections)
            if self.memory.is_due(self.open, self.sent):
                self.memory.measure(self, self.connections, self.slots)
        finally:
            self.turning = False
        self.sweeper = None
        if self.open:
            self.sweeper = self.loop.call_later(self.sweep_seconds if done else SWEEP_AGAIN_SECONDS, self._sweep)
        self.disconnects.notify()

    # Private.

    cdef int send_all_due(self) except -1:
        """Send the responses of this turn in the order of their requests."""
        cdef Connection connection
        while self.first_due is not None:
            connection = self.first_due
            self.first_due, connection.next_due = connection.next_due, None
            if self.first_due is None:
                self.last_due = None
            try:
                connection.send_due()
            except BaseException as error:
                self.handler_failed(connection, error)
        return 0

    cdef int accept_waiting(self, Listener listener) except -1:
        cdef sockaddr_in address
        cdef socklen_t size
        cdef int fd
        cdef Connection connection
        cdef int waiting = listener.queue_length(ACCEPTS_PER_TURN)
        for _ in range(waiting):
            if listener.sock is None:  # a handler called stop_accepting()
                return 0
            size = sizeof(sockaddr_in)
            fd = accept4(listener.fd, <sockaddr *>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                if errno == EINTR or errno == ECONNABORTED or errno == EPROTO:
                    continue
                if errno != EAGAIN:
                    listener.pause(REST_SECONDS)  # without descriptors the loop would spin
                return 0
            if listener.redirects is not None and listener.must_close(fd):
                if listener.close_unread(fd, address.sin_addr.s_addr):
                    return 0
                continue
            self.accepted += 1
            try:
                connection = self.admit(fd, address.sin_addr.s_addr)
            except BaseException as error:
                close_fd(fd)
                self.disconnects.record_failure(dotted(address.sin_addr.s_addr), error)
                continue
            if connection is None:
                close_fd(fd)
                continue
            try:
                self.read_first(connection)
            except BaseException as error:
                self.handler_failed(connection, error)
        return 0

    cdef Connection admit(self, int fd, object address):
        """Take ownership of *fd*; return None if it gets no slot. An exception leaves the lane unchanged."""
        cdef Peer peer = self.slots.peer_of(address)
        cdef Connection connection
        cdef uint32_t number
        if peer.open >= self.limits.connections_per_peer:
            self.refused_peer += 1
            return None
        if self.memory.is_short and self.memory.exceeds_share(peer, self.slots):
            self.memory.refused += 1
            return None
        if self.open >= self.limits.connections:
            self.send_all_due()  # a connection with a due response is not idle, but may be after sending it
            if not self.eviction.evict_for(peer):
                self.refused_total += 1
                return None
        if self.sweeper is None:
            self.sweeper = self.loop.call_later(self.sweep_seconds, self._sweep)
        connection = Connection.__new__(Connection)
        if not self.free_numbers:
            self.connections.append(None)
            self.free_numbers.append(len(self.connections) - 1)
        self.slots.take(peer)
        number = self.free_numbers.pop()
        self.connections[number] = connection
        self.open += 1
        self.serial += 1
        if self.redirects is not None and not self.redirects.matches(fd):
            address = None
        connection.begin(self, peer, fd, address, number, self.serial)
        return connection

    cdef int read_first(self, Connection connection) except -1:
        """Read immediately, because the request has usually arrived, unless the peer opened too many in this turn."""
        cdef Peer peer = connection.holder
        if peer.arrived_in != self.turn:
            peer.arrived_in = self.turn
            peer.arrivals = 0
        peer.arrivals += 1
        if peer.arrivals > <int>ARRIVALS_PER_TURN:
            return connection.enqueue()
        connection.read()
        return connection.arm()

    cdef bint may_adopt(self, int fd) noexcept:
        """Return whether a lane with the rules of `node_listener` may serve a connection that another lane accepted.

        That lane may have served connections to every address of the node.
        """
        return self.node_listener.redirects is None or leads_to_loopback(fd) or not self.node_listener.must_close(fd)

    cdef int notify_outside_turns(self) except -1:
        return 0 if self.turning else self.disconnects.notify()

    cdef int handler_failed(self, Connection connection, object error) except -1:
        """Close the connection whose general lane raised *error*; no other connection is affected."""
        peer = connection.peer
        connection.close_now()
        return self.disconnects.record_failure(peer, error)


cdef int check_listener(object listener) except -1:
    """Raise ValueError for a socket that the lane cannot use."""
    if listener.family != socket.AF_INET or listener.type != socket.SOCK_STREAM:
        raise ValueError("the lane serves TCP over IPv4: the redirected address has no IPv6 form")
    if listener.getblocking():
        raise ValueError("the listener blocks; call setblocking(False) first")
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ValueError("the socket does not listen; call listen() first")
    return 0
