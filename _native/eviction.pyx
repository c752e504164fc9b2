"""The eviction of a connection when all slots are in use.

The peer with most connections loses one: of those on which nothing is pending, the one that was idle longest. So no
peer loses a connection while another peer has more, and the peer with fewest connections is always served. If the
peer with most connections has no idle one, it loses one on which it is slow or sends without waiting for responses, and
if requests have just arrived on TRIES idle ones, it loses the one of these that was idle longest. In both cases the
newcomer must have at least two fewer connections, or two busy peers would evict each other alternately. A connection
whose request is being answered is never evicted.

Cost: the connections of the peer with most are sorted for an eviction, and evicted in that order until every entry is
outdated. Each entry is sorted once, and only an action of its peer makes it outdated. An eviction therefore costs the
logarithm of connections_per_peer, amortised, and at most one sort of connections_per_peer entries: 0.1 ms for 512.
"""

cimport cython

from _native.connection cimport (
    CLOSED, FRESH, HANDED_OVER, HELD, IDLE, LEAVING, LINGER_NS, LINGERING, Connection,
)
from _native.connection_slots cimport ConnectionSlots, Peer
from _native.sockets cimport MSG_DONTWAIT, MSG_PEEK, recv

cdef enum:
    TRIES = 8  # candidates for one eviction: a request may have arrived on any of them


cdef bint is_idle(Connection connection) noexcept:
    """Return whether nothing is pending on the connection."""
    return (
        connection.unread is None and connection.unsent is None
        and (connection.state == IDLE or connection.state == FRESH or connection.state == LINGERING)
    )


cdef bint close_if_idle(Connection connection) except -1:
    """Close the connection unless something is pending on it. Return whether it is closed."""
    cdef char byte = 0
    # A request that has arrived but was not read yet is pending too.
    if is_idle(connection) and (
        connection.state == LINGERING or recv(connection.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0
    ):
        connection.close_now()
    return connection.state == CLOSED


cdef tuple eviction_rank(Connection connection):
    """Return the order of eviction, the smallest first: (kind, time since); None if it must not be evicted."""
    if connection.state == CLOSED or connection.state == HELD:
        return None
    if connection.unread is not None:
        return 2, connection.deadline_ns  # its peer sends faster than the fair queue serves it
    if connection.unsent is not None:
        return 1, connection.write_deadline_ns - connection.lane.write_ns
    if connection.state == HANDED_OVER:
        return 1, connection.deadline_ns - connection.lane.head_ns
    if connection.state == LEAVING:
        return 1, connection.deadline_ns - connection.lane.write_ns
    if connection.state == LINGERING:
        return 0, connection.deadline_ns - LINGER_NS
    if connection.state == FRESH:
        return 0, connection.deadline_ns - connection.lane.first_byte_ns
    return 0, connection.deadline_ns - connection.lane.idle_ns


cdef inline bint may_lose_busy(Peer peer, Peer newcomer) noexcept:
    """Return whether *peer* may lose a connection that is not idle to *newcomer*."""
    return peer.open >= newcomer.open + 2


@cython.final
cdef class Eviction:
    def __init__(self, ConnectionSlots slots not None):
        self.slots = slots

    cdef bint evict_for(self, Peer newcomer) except -1:
        """Close a connection in favour of *newcomer*. Return whether there was one."""
        cdef Connection connection
        cdef Connection longest_idle = None  # a request has arrived on it
        for _ in range(<int>TRIES):
            connection = self.next_victim(newcomer)
            if connection is None:
                break
            if not is_idle(connection):
                return self.evict_busy(connection)
            if close_if_idle(connection):
                self.idle += 1
                return True
            if longest_idle is None and may_lose_busy(connection.holder, newcomer):
                longest_idle = connection
        return longest_idle is not None and self.evict_busy(longest_idle)

    cdef bint evict_busy(self, Connection connection) except -1:
        connection.reset()
        self.slow += 1
        return True

    cdef Connection next_victim(self, Peer newcomer):
        """Return the connection to evict in favour of *newcomer*, or None. Each call returns another one."""
        cdef Peer peer
        cdef Connection connection
        while self.slots.most and self.slots.by_count[self.slots.most] is None:
            self.slots.most -= 1
        if not self.slots.most:
            return None
        peer = <Peer>self.slots.by_count[self.slots.most]
        for _ in range(2):
            while peer.order:
                then, _, slot = peer.order[-1]
                connection = <Connection>slot
                now = eviction_rank(connection)
                if now == then and now[0] and not may_lose_busy(peer, newcomer):
                    return None
                peer.order.pop()
                if now == then:
                    return connection
            self.sort_connections(peer)
        return None

    cdef int sort_connections(self, Peer peer) except -1:
        """Sort the connections of *peer*; the next one to evict is the last."""
        cdef Connection connection = <Connection>peer.first
        cdef list order = []
        while connection is not None:
            now = eviction_rank(connection)
            if now is not None:
                order.append((now, connection.serial, connection))
            connection = connection.following
        order.sort(reverse=True)
        peer.order = order
        return 0
