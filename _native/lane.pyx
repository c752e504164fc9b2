"""The listener and its connections' turns.

They live on an epoll descriptor of their own, which is itself registered in the event loop: whenever any of them is
ready, the loop calls `_turn` once, and everything happens in there or in a method that the general lane calls. All of
it runs on the loop's thread. A turn reads first and sends its answers then.

What a peer can do to its neighbours is bounded: connections in all and per peer, work per wake-up and per connection,
one deadline for each state, no reading from a peer that does not read its answers. What cannot be done at once waits in
its peer's queue, and peers take turns, whatever the number of their connections. The numbers stand below and in
`connection`, with their reasons.
"""

cimport cython
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EPROTO, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

from _native.answers cimport ANSWER_MAX
from _native.clock cimport NANOSECONDS, monotonic_ns
from _native.connection cimport FRESH, LEAVING, Connection, Owner, Peer
from _native.deadlines cimport Deadlines
from _native.index cimport Index
from _native.limits cimport Limits as OurLimits
from _native.losses cimport Losses
from _native.memory cimport Memory
from _native.places cimport Places, shut_if_idle
from _native.redirects cimport Redirects
from _native.sockets cimport *
from _native.turns cimport Turns

import os
import socket

from _native.limits import Limits

__all__ = ["Lane", "Limits"]

cdef enum:
    EVENTS_PER_TURN = 64       # at 6 us each a turn stays under half a millisecond, then the loop's tasks get theirs
    ACCEPTS_PER_TURN = 256     # at 4 us each: the kernel has one queue for all peers, and who is behind many waits long
    ARRIVALS_PER_TURN = 16     # of one peer, read at once: with the first answer that costs 25 us; the rest wait for it
    PART_LEAST = 4 * 1024      # an ordinary token is sent whole
    PARTS_BELOW = 64 * 1024    # a send buffer that holds a whole ready answer of the largest size needs no parts
    LISTENER = 0xFFFFFFFF      # in place of a slot

cdef double REST_SECONDS = 0.1             # how long to leave the listener alone when it cannot be accepted from
cdef double SWEEP_AGAIN_SECONDS = 0.001    # when there was more to close
cdef int64_t TURN_NS = NANOSECONDS // 4000  # of work on what waits for a turn, before events and the loop's tasks
cdef double SWEEP_SECONDS = 0.25           # how late a deadline may be noticed, or a quarter of the shortest


@cython.final
cdef class Lane(Owner):
    cdef OurLimits limits
    cdef object loop
    cdef object listener          # kept open as long as its descriptor is in our epoll set
    cdef int listener_fd
    cdef list slots               # Connection or None
    cdef list free_slots
    cdef Places places
    cdef Deadlines deadlines
    cdef Turns turns
    cdef Losses losses
    cdef Memory memory
    cdef object sweeper           # TimerHandle while there are connections
    cdef object acceptor          # TimerHandle while out of descriptors
    cdef double sweep_seconds
    cdef uint32_t serial
    cdef Redirects redirects      # which alone may have fast answers; None: anybody
    cdef bint turning
    cdef bint calling_later
    cdef uint64_t accepted, refused_total, refused_peer
    cdef int open

    def __cinit__(self):
        self.epoll = self.listener_fd = -1

    def __init__(
        self, *, Index index not None, general, OurLimits limits not None, bint require_metadata=True,
        redirected_from=None
    ):
        if self.epoll >= 0:
            raise TypeError("a Lane is made once")
        self.index = index
        self.general = general
        self.limits = limits
        self.first_byte_ns, self.head_ns = limits.first_byte_ns, limits.head_ns
        self.idle_ns, self.write_ns = limits.idle_ns, limits.write_ns
        self.part_bytes = max(PART_LEAST, limits.send_bytes // 4) if limits.send_bytes < PARTS_BELOW else ANSWER_MAX
        self.join_bytes = ANSWER_MAX if self.part_bytes == ANSWER_MAX else 4 * self.part_bytes
        self.require_metadata = require_metadata
        if redirected_from is not None:
            self.redirects = Redirects(*redirected_from)
        self.turn = 1
        self.slots = []
        self.free_slots = []
        self.places = Places(min(limits.connections, limits.connections_per_peer))
        self.turns = Turns()
        self.losses = Losses()
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
        # Accepted connections inherit all. An answer is one send, so there is nothing to wait for before sending it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, one)
        # Nothing congests the way between a pod and its own node, but some of a machine's defaults (BBR) work on every
        # answer as if it did. Reno does least, and every kernel has it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.limits.receive_bytes)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.send_bytes)
        # The kernel goes on sending after a connection is closed, and holds the data of a peer that does not read.
        timeout_ms = max(1000, self.write_ns // (NANOSECONDS // 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
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
        self.send_all_due()
        for each in list(self.slots):
            if each is not None:
                connection = <Connection>each
                if connection.state == LEAVING:
                    connection.shut()
                else:
                    shut_if_idle(connection)
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
        self.turns.clear()
        close_fd(self.epoll)
        self.epoll = -1
        self.deliver_losses_outside_turns()

    def counters(self):
        return {
            "accepted": self.accepted,
            "open": self.open,
            "refused_total": self.refused_total,
            "refused_peer": self.refused_peer,
            "evicted_idle": self.places.evicted_idle,
            "evicted_slow": self.places.evicted_slow,
            "narrowed": self.memory.narrowed,
            "evicted_memory": self.memory.evicted,
            "refused_memory": self.memory.refused,
            "memory_bytes": self.memory.used,
            **self.deadlines.counters(),
            "fast_answers": self.fast_answers,
            "handed_over": self.handed_over,
            "failed": self.losses.failed,
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
        self.turn += 1
        self.turning = True
        try:
            for at in range(count):
                which = events[at].data.u64
                slot = <uint32_t>which
                if slot == LISTENER:
                    self.accept_some()
                    continue
                each = self.slots[slot]
                # An event may be about a connection that was closed, and its slot given away, earlier in this turn.
                if each is None or (<Connection>each).serial != <uint32_t>(which >> 32):
                    continue
                connection = <Connection>each
                try:
                    connection.on_events(events[at].events)
                except BaseException as error:
                    self.handler_failed(connection, error)
        finally:
            self.send_all_due()
            if self.memory.must_measure(self.sent):
                self.memory.measure(self, self.slots, self.places)
            self.turning = False
            self.call_go_on()
            self.deliver_losses()

    def _go_on(self):
        """Let peers have their turns, one connection's share each time, for as long as TURN_NS."""
        cdef Connection connection
        cdef int64_t until = monotonic_ns() + TURN_NS
        self.calling_later = False
        self.turning = True
        try:
            while self.turns.any:
                connection = self.turns.take()
                self.turn += 1
                try:
                    connection.go_on()
                    connection.arm()
                except BaseException as error:
                    self.handler_failed(connection, error)
                self.send_all_due()
                if monotonic_ns() >= until:
                    break
        finally:
            if self.memory.must_measure(self.sent):
                self.memory.measure(self, self.slots, self.places)
            self.turning = False
            self.call_go_on()
            self.deliver_losses()

    def _sweep(self):
        cdef bint done
        self.turning = True
        try:
            done = self.deadlines.pass_over(self.slots)
            if self.memory.is_due(self.open, self.sent):
                self.memory.measure(self, self.slots, self.places)
        finally:
            self.turning = False
        self.sweeper = None
        if self.open:
            self.sweeper = self.loop.call_later(self.sweep_seconds if done else SWEEP_AGAIN_SECONDS, self._sweep)
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
        if connection.unread is not None or connection.state == FRESH:
            self.turns.put(connection)
            if not self.turning:
                self.call_go_on()
        return 0

    cdef int hold(self, Connection connection, bint held) except -1:
        return self.places.hold(connection.holder, held)

    cdef int forget(self, Connection connection) except -1:
        self.slots[connection.slot] = None
        self.free_slots.append(connection.slot)
        self.open -= 1
        return self.places.leave(connection)

    cdef int tell_lost(self, object general) except -1:
        self.losses.untold.append(general)
        if not self.turning and not self.losses.telling and self.epoll >= 0 and len(self.losses.untold) == 1:
            self.loop.call_soon(self._deliver_losses)
        return 0

    # The rest is the lane's own.

    cdef int send_all_due(self) except -1:
        """Send the answers that were owed in this turn, in the order in which they were asked for."""
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

    cdef int call_go_on(self) except -1:
        if self.turns.any and not self.calling_later:
            self.calling_later = True
            self.loop.call_soon(self._go_on)
        return 0

    cdef int watch_listener(self) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = LISTENER
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, self.listener_fd, &event) != 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    cdef int accept_some(self) except -1:
        cdef sockaddr_in address
        cdef socklen_t size
        cdef int fd
        cdef Connection connection
        cdef int waiting = self.queue_length()
        for _ in range(waiting):
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
            try:
                connection = self.admit(fd, address.sin_addr.s_addr)
            except BaseException as error:
                close_fd(fd)
                self.losses.note_failure(dotted(address.sin_addr.s_addr), error)
                continue
            if connection is None:
                close_fd(fd)
                continue
            try:
                self.welcome(connection)
            except BaseException as error:
                self.handler_failed(connection, error)
        return 0

    cdef int queue_length(self) noexcept:
        """How many connections to accept now, from 1 to ACCEPTS_PER_TURN: those that the kernel holds.

        To find out by accepting until there is none costs more: it makes a whole socket before it looks.
        """
        cdef tcp_info info
        cdef socklen_t size = sizeof(tcp_info)
        info.tcpi_unacked = 0  # of a listener: the length of its queue (linux/net/ipv4/tcp.c, tcp_get_info)
        if getsockopt(self.listener_fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0:
            return ACCEPTS_PER_TURN
        return <int>max(1, min(info.tcpi_unacked, <uint32_t>ACCEPTS_PER_TURN))

    cdef Connection admit(self, int fd, object address):
        """Take *fd* over; None if there is no place for it. Whatever raises does so before anything has changed."""
        cdef Peer peer = self.places.peer_at(address)
        cdef Connection connection
        cdef uint32_t slot
        if peer.open >= self.limits.connections_per_peer:
            self.refused_peer += 1
            return None
        if self.memory.short and self.memory.has_its_share(peer, self.places):
            self.memory.refused += 1
            return None
        if self.open >= self.limits.connections:
            self.send_all_due()  # whose answer is owed is not idle, but it may be as soon as that is sent
            if not self.places.make_room(peer):
                self.refused_total += 1
                return None
        if self.sweeper is None:
            self.sweeper = self.loop.call_later(self.sweep_seconds, self._sweep)
        connection = Connection.__new__(Connection)
        if not self.free_slots:
            self.slots.append(None)
            self.free_slots.append(len(self.slots) - 1)
        self.places.take(peer, connection)
        slot = self.free_slots.pop()
        self.slots[slot] = connection
        self.open += 1
        self.serial += 1
        if self.redirects is not None and not self.redirects.led(fd):
            address = None
        connection.begin(self, fd, address, slot, self.serial)
        return connection

    cdef int welcome(self, Connection connection) except -1:
        """Read at once, since most often the request is here already, unless its peer comes with too many."""
        cdef Peer peer = connection.holder
        if peer.arrived_in != self.turn:
            peer.arrived_in = self.turn
            peer.arrivals = 0
        peer.arrivals += 1
        if peer.arrivals > <int>ARRIVALS_PER_TURN:
            return self.later(connection)
        connection.read()
        return connection.arm()

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
        if not self.losses.untold:
            return 0
        try:
            self.losses.tell_all()
        finally:
            if self.losses.untold and not self.losses.telling:  # after an interrupt only
                self.loop.call_soon(self._deliver_losses)
        return 0

    cdef int handler_failed(self, Connection connection, object error) except -1:
        """Whatever the general lane raises ends one connection and nothing else."""
        peer = connection.peer
        connection.shut()
        return self.losses.note_failure(peer, error)
