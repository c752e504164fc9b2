"""The memory of all connections, in this process and in the kernel, and the limit for it.

The kernel charges the buffers of a socket to the container, and keeps them while a peer does not read. The connections
together therefore have a bound, `Limits.memory_bytes`. The allocator's overhead, and the data that arrives between two
measurements, come on top of the measured bytes: 32 MiB with 8,192 connections. Therefore the limit that this module
applies is five eighths of the bound:

* Above half of the limit, connections of peers with more than an equal share become narrow: they get a small send
  buffer, which responses soon fill; then nothing more is read from them until they have read. Below a quarter of the
  limit, they get the usual buffers again.
* Above three quarters of the limit, these peers get no further connection.
* Above the limit, the peer with most bytes loses its connection with most bytes, by a reset, so that the kernel frees
  the buffers; then the peer that has most now, until an eighth of the limit is free. So no pod loses a connection while
  another one uses more. A request that is being answered is reset only if its peer has no other connection.

The kernel reports the bytes of a connection (SO_MEMINFO). The lane measures in passes over all connections, never per
request: with each sweep if an eighth of the limit could be in use, and in between if a sixteenth of it was sent. A pass
skips connections without traffic since the last pass and with empty buffers, and measures those that only wait for
their peer to read in every fourth pass. There is at most one pass every 50 ms.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t

from _native.connection cimport CLOSED, HANDED_OVER, HELD, LEAVING, Connection, LaneState
from _native.clock cimport monotonic_ns
from _native.connection_slots cimport ConnectionSlots, Peer
from _native.sockets cimport *

import heapq

cdef enum:
    EACH_BYTES = 2 * 1024     # a connection with empty buffers, here and in the kernel: 1.7 KiB measured
    GENERAL_BYTES = 4 * 1024  # in addition, for its object of the general lane
    ARRIVING_BYTES = 8 * 1024  # the bytes that the kernel may receive before the lane reads
    NARROW_BYTES = 2048       # send buffer; the kernel uses its own minimum, 4,608
    CLOSES_MAX = 1024         # per pass, at 8 us each
    AGAIN_PASSES = 4
    PASS_NS = 50_000_000


cdef int64_t size_of(bytes data) noexcept:
    return 0 if data is None else PyBytes_GET_SIZE(data)


cdef bint held_last(Connection connection) noexcept:
    return connection.state == HELD


@cython.final
cdef class Memory:
    def __init__(self, int64_t bound_bytes, int send_bytes):
        self.limit_bytes = bound_bytes // 8 * 5
        self.send_bytes = send_bytes

    cdef bint is_due(self, int open, int64_t sent) noexcept:
        """Return whether a sweep must measure."""
        cdef int64_t most = self.used + sent + open * <int64_t>(EACH_BYTES + ARRIVING_BYTES)
        return self.limit_bytes != 0 and most > self.limit_bytes // 8

    cdef bint must_measure(self, int64_t sent) noexcept:
        """Return whether so many bytes were sent since the last pass that it must not wait for the next sweep."""
        if self.limit_bytes == 0 or sent <= self.limit_bytes // 16:
            return False
        return monotonic_ns() - self.measured_ns > <int>PASS_NS

    cdef int64_t share(self, ConnectionSlots connection_slots) noexcept:
        """Return the bytes that a peer may use when memory is short: an equal part of half of the limit."""
        return self.limit_bytes // 2 // max(1, len(connection_slots.peers))

    cdef bint exceeds_share(self, Peer peer, ConnectionSlots connection_slots) noexcept:
        return peer.bytes > self.share(connection_slots)

    cdef int measure(self, LaneState lane, list connections, ConnectionSlots connection_slots) except -1:
        """Make one pass: measure all connections and apply the limit."""
        cdef bint again = self.passes % <int>AGAIN_PASSES == 0
        cdef Connection connection
        cdef Peer peer
        for entry in connection_slots.peers.values():
            peer = <Peer>entry
            peer.bytes = 0
        self.used = 0
        self.passes += 1
        self.measured_ns = monotonic_ns()
        lane.sent = 0
        for slot in connections:
            if slot is None:
                continue
            connection = <Connection>slot
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

    cdef int64_t bytes_of(self, Connection connection, bint again) noexcept:
        """Return the bytes that the connection uses now."""
        cdef uint32_t[MEMINFO_VARS] values
        cdef int64_t bytes = EACH_BYTES + size_of(connection.unread) + size_of(connection.unsent) + connection.handed
        cdef bint sent_since = connection.sent != connection.sent_when_measured
        if connection.general is not None:
            bytes += GENERAL_BYTES
        if connection.unsent is not None and connection.kernel_bytes and not sent_since and not again:
            return bytes + connection.kernel_bytes
        if (
            sent_since or connection.kernel_bytes or connection.unread is not None or connection.unsent is not None
            or connection.queued or connection.state == HELD or connection.state == HANDED_OVER
            or connection.state == LEAVING
        ):
            connection.kernel_bytes = 0
            if kernel_memory(connection.fd, values):
                connection.kernel_bytes = (
                    <int64_t>values[RECEIVED] + values[RESERVED] + values[QUEUED] + values[BACKLOG]
                )
            connection.sent_when_measured = connection.sent
        return bytes + connection.kernel_bytes

    cdef int narrow_greedy(self, list connections, int64_t share) except -1:
        """Make the connections of peers with more than *share* bytes narrow."""
        cdef Connection connection
        cdef int size = NARROW_BYTES
        for slot in connections:
            if slot is None:
                continue
            connection = <Connection>slot
            if connection.narrow or connection.holder.bytes <= share or not connection.kernel_bytes:
                continue
            setsockopt(connection.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(int))
            connection.narrow = True
            self.narrowed += 1
        return 0

    cdef int restore_buffers(self, list connections) except -1:
        cdef Connection connection
        for slot in connections:
            if slot is None or not (<Connection>slot).narrow:
                continue
            connection = <Connection>slot
            setsockopt(connection.fd, SOL_SOCKET, SO_SNDBUF, &self.send_bytes, sizeof(int))
            connection.narrow = False
        return 0

    cdef int evict(self, ConnectionSlots connection_slots) except -1:
        """Reset connections until an eighth of the limit is free, CLOSES_MAX at most."""
        cdef Peer peer
        cdef Connection connection
        cdef int64_t enough = self.limit_bytes - self.limit_bytes // 8
        cdef list peers = list(connection_slots.peers.values())
        cdef list greediest = [(-(<Peer>entry).bytes, number, entry) for number, entry in enumerate(peers)]
        cdef dict orders = {}
        cdef int closed = 0
        heapq.heapify(greediest)
        while self.used > enough and greediest and closed < <int>CLOSES_MAX:
            _, number, entry = greediest[0]
            peer = <Peer>entry
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
        """Return the connections of *peer*; the first one to reset is the last."""
        cdef Connection connection = <Connection>peer.first
        cdef list order = []
        while connection is not None:
            order.append((not held_last(connection), connection.bytes, connection.serial, connection))
            connection = connection.following
        order.sort()
        return order
