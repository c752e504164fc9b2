"""How many bytes the connections hold together, here and in the kernel, and what is done when these become too many.

The kernel charges what it keeps for a socket to the container, and keeps it for as long as a peer does not read. So
what connections hold has a bound in all, `Limits.memory_bytes`:

* From half of it on, connections of peers that hold more than an equal share get little at a time (`narrow`): a small
  send buffer, which answers soon fill; then nothing more is read from them until they have read. Below a quarter of the
  bound they are as before.
* From three quarters of it on, such a peer gets no further connection.
* Over it, the peer that holds most loses the connection that holds most, with a reset, so that the kernel drops what it
  holds; then the peer that holds most now, until an eighth of the bound is free. So no pod loses a connection while
  another one holds more. A request that is being answered is cut only where its peer has no other connection.

What a connection holds is asked of the kernel (SO_MEMINFO), in passes over all connections and never for a request:
with each sweep once an eighth of the bound could be in use, and in between once a sixteenth of it was sent. A
connection without traffic since the last pass and nothing in its buffers is not asked about, and one that only waits
for its peer to read in every fourth pass. There is a pass every 50 ms at most.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t

from _native.connection cimport CLOSED, HANDED_OVER, HELD, LEAVING, Connection, Owner, Peer
from _native.clock cimport monotonic_ns
from _native.connection_slots cimport ConnectionSlots
from _native.sockets cimport *

import heapq

cdef enum:
    EACH_BYTES = 2 * 1024     # a connection without anything in its buffers, here and in the kernel: 1.7 KiB measured
    GENERAL_BYTES = 4 * 1024  # more, with an object of the general lane
    ARRIVING_BYTES = 8 * 1024  # what the kernel may hold of it before anything is read
    NARROW_BYTES = 2048       # send buffer; the kernel takes its own minimum, 4,608
    CLOSES_MAX = 1024         # in one pass, at 8 us each
    AGAIN_PASSES = 4
    PASS_NS = 50_000_000


cdef int64_t size_of(bytes data) noexcept:
    return 0 if data is None else PyBytes_GET_SIZE(data)


cdef bint held_last(Connection each) noexcept:
    return each.state == HELD


@cython.final
cdef class Memory:
    def __init__(self, int64_t limit_bytes, int send_bytes):
        self.limit_bytes = limit_bytes
        self.send_bytes = send_bytes

    cdef bint is_due(self, int open, int64_t sent) noexcept:
        """Whether so much may be in use that a sweep should measure it."""
        cdef int64_t most = self.used + sent + open * <int64_t>(EACH_BYTES + ARRIVING_BYTES)
        return self.limit_bytes != 0 and most > self.limit_bytes // 8

    cdef bint must_measure(self, int64_t sent) noexcept:
        """Whether so much was sent since the last pass that it cannot wait for a sweep."""
        if self.limit_bytes == 0 or sent <= self.limit_bytes // 16:
            return False
        return monotonic_ns() - self.measured_ns > <int>PASS_NS

    cdef int64_t share(self, ConnectionSlots connection_slots) noexcept:
        """What a peer may hold where memory is short: an equal part of half of the bound."""
        return self.limit_bytes // 2 // max(1, len(connection_slots.peers))

    cdef bint exceeds_share(self, Peer peer, ConnectionSlots connection_slots) noexcept:
        return peer.bytes > self.share(connection_slots)

    cdef int measure(self, Owner owner, list connections, ConnectionSlots connection_slots) except -1:
        """One pass: measure, and do what follows from it."""
        cdef bint again = self.passes % <int>AGAIN_PASSES == 0
        cdef Connection connection
        cdef Peer peer
        for each in connection_slots.peers.values():
            peer = <Peer>each
            peer.bytes = 0
        self.used = 0
        self.passes += 1
        self.measured_ns = monotonic_ns()
        owner.sent = 0
        for each in connections:
            if each is None:
                continue
            connection = <Connection>each
            connection.bytes = self.bytes_of(connection, again)
            connection.holder.bytes += connection.bytes
            self.used += connection.bytes
        if self.used > self.limit_bytes // 2:
            self.narrow_greedy(connections, self.share(connection_slots))
        elif self.used < self.limit_bytes // 4:
            self.restore_buffers(connections)
        if self.used > self.limit_bytes:
            self.evict(connection_slots)
        self.is_short = self.used > self.limit_bytes // 4 * 3
        return 0

    cdef int64_t bytes_of(self, Connection each, bint again) noexcept:
        """What it holds now."""
        cdef uint32_t[MEMINFO_VARS] values
        cdef int64_t bytes = EACH_BYTES + size_of(each.unread) + size_of(each.unsent) + each.handed
        if each.general is not None:
            bytes += GENERAL_BYTES
        if each.unsent is not None and each.kernel_bytes and each.sent == each.sent_when_measured and not again:
            return bytes + each.kernel_bytes
        if (
            each.sent != each.sent_when_measured or each.kernel_bytes or each.unread is not None
            or each.unsent is not None or each.queued or each.state == HELD or each.state == HANDED_OVER
            or each.state == LEAVING
        ):
            each.kernel_bytes = 0
            if kernel_memory(each.fd, values):
                each.kernel_bytes = <int64_t>values[RECEIVED] + values[RESERVED] + values[QUEUED] + values[BACKLOG]
            each.sent_when_measured = each.sent
        return bytes + each.kernel_bytes

    cdef int narrow_greedy(self, list connections, int64_t share) except -1:
        """Give little at a time to connections of peers that hold more than *share*."""
        cdef Connection connection
        cdef int size = NARROW_BYTES
        for each in connections:
            if each is None:
                continue
            connection = <Connection>each
            if connection.narrow or connection.holder.bytes <= share or not connection.kernel_bytes:
                continue
            setsockopt(connection.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(int))
            connection.narrow = True
            self.narrowed += 1
        return 0

    cdef int restore_buffers(self, list connections) except -1:
        cdef Connection connection
        for each in connections:
            if each is None or not (<Connection>each).narrow:
                continue
            connection = <Connection>each
            setsockopt(connection.fd, SOL_SOCKET, SO_SNDBUF, &self.send_bytes, sizeof(int))
            connection.narrow = False
        return 0

    cdef int evict(self, ConnectionSlots connection_slots) except -1:
        """Close until an eighth of the bound is free, CLOSES_MAX at most."""
        cdef Peer peer
        cdef Connection connection
        cdef int64_t enough = self.limit_bytes - self.limit_bytes // 8
        cdef list peers = list(connection_slots.peers.values())
        cdef list greediest = [(-(<Peer>each).bytes, number, each) for number, each in enumerate(peers)]
        cdef dict orders = {}
        cdef int closed = 0
        heapq.heapify(greediest)
        while self.used > enough and greediest and closed < <int>CLOSES_MAX:
            _, number, each = greediest[0]
            peer = <Peer>each
            order = orders.get(number)
            if order is None:
                order = orders[number] = self.order_of(peer)
            if not order:
                heapq.heappop(greediest)
                continue
            connection = <Connection>order.pop()[-1]
            peer.bytes -= connection.bytes
            self.used -= connection.bytes
            if connection.state != CLOSED:
                connection.reset()
                closed += 1
                self.evicted += 1
            heapq.heapreplace(greediest, (-peer.bytes, number, peer))
        return 0

    cdef list order_of(self, Peer peer):
        """Its connections, those that are closed first at the end."""
        cdef Connection connection = peer.first
        cdef list order = []
        while connection is not None:
            order.append((not held_last(connection), connection.bytes, connection.serial, connection))
            connection = connection.following
        order.sort()
        return order
