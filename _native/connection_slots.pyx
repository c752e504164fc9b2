"""The connection slots of the lane by peer, and the eviction of a connection when all slots are in use.

The peer with most connections loses one: of those on which nothing is pending, the one that was idle longest. So no
peer loses a connection while another peer has more, and the peer with fewest connections is always served. If the
peer with most connections has no idle one, it loses one on which it is slow or sends without waiting for answers. In
this case the newcomer must have at least two fewer connections, or two busy peers would evict each other
alternately. A connection whose request is being answered is never evicted.

Cost: taking and releasing a slot take constant time. The connections of the peer with most are sorted for an eviction,
and evicted in that order until every entry is outdated. Each entry is sorted once, and only an action of its peer makes
it outdated. An eviction therefore costs the logarithm of connections_per_peer, amortised, and at most one sort of
connections_per_peer entries: 0.1 ms for 512.
"""

cimport cython

from _native.connection cimport (
    CLOSED, FRESH, HANDED_OVER, HELD, IDLE, LEAVING, LINGER_NS, LINGERING, Connection, Peer,
)
from _native.sockets cimport MSG_DONTWAIT, MSG_PEEK, recv

cdef enum:
    TRIES = 8  # candidates for one eviction: a request may have arrived on any of them


cdef bint is_idle(Connection each) noexcept:
    """Return whether nothing is pending on the connection."""
    return (
        each.unread is None and each.unsent is None
        and (each.state == IDLE or each.state == FRESH or each.state == LINGERING)
    )


cdef bint close_if_idle(Connection each) except -1:
    """Close the connection unless something is pending on it. Return whether it is closed."""
    cdef char byte = 0
    # A request that has arrived but was not read yet is pending too.
    if is_idle(each) and (each.state == LINGERING or recv(each.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0):
        each.close_now()
    return each.state == CLOSED


cdef tuple eviction_rank(Connection each):
    """Return the order of eviction, the smallest first: (kind, time since); None if it must not be evicted."""
    if each.state == CLOSED or each.state == HELD:
        return None
    if each.unread is not None:
        return 2, each.deadline_ns  # its peer sends faster than the fair queue serves it
    if each.unsent is not None:
        return 1, each.write_deadline_ns - each.owner.write_ns
    if each.state == HANDED_OVER:
        return 1, each.deadline_ns - each.owner.head_ns
    if each.state == LEAVING:
        return 1, each.deadline_ns - each.owner.write_ns
    if each.state == LINGERING:
        return 0, each.deadline_ns - LINGER_NS
    return 0, each.deadline_ns - (each.owner.first_byte_ns if each.state == FRESH else each.owner.idle_ns)


@cython.final
cdef class ConnectionSlots:
    def __init__(self, int per_peer):
        self.peers = {}
        self.by_count = [None] * (per_peer + 1)

    cdef Peer peer_of(self, object address):
        """Return the record of the peer. A new one is not stored before it takes a slot."""
        cdef Peer peer = self.peers.get(address)
        if peer is None:
            peer = Peer.__new__(Peer)
            peer.address = address
        return peer

    cdef int take(self, Peer peer, Connection connection) except -1:
        """Give a slot of *peer* to *connection*. Raises MemoryError at most, and then without a change."""
        if not peer.open:
            self.peers[peer.address] = peer
        self.unlink(peer)
        connection.holder = peer
        connection.following = peer.first
        if peer.first is not None:
            peer.first.preceding = connection
        peer.first = connection
        peer.open += 1
        self.link(peer)
        return 0

    cdef int release(self, Connection connection) except -1:
        cdef Peer peer = connection.holder
        self.unlink(peer)
        if connection.preceding is not None:
            connection.preceding.following = connection.following
        else:
            peer.first = connection.following
        if connection.following is not None:
            connection.following.preceding = connection.preceding
        connection.preceding = connection.following = None
        peer.open -= 1
        if peer.order is not None and len(peer.order) > 2 * peer.open:
            peer.order = None  # its entries keep closed connections in memory
        if peer.open:
            self.link(peer)
        else:
            del self.peers[peer.address]
        return 0

    cdef int set_held(self, Peer peer, bint held) except -1:
        """Count a connection of the peer that became, or ceased to be, HELD."""
        cdef bint could_give = peer.open > peer.held
        if held:
            peer.held += 1
        else:
            peer.held -= 1
        if could_give != (peer.open > peer.held):
            self.unlink(peer)
            self.link(peer)
        return 0

    cdef bint evict_for(self, Peer newcomer) except -1:
        """Close a connection in favour of *newcomer*. Return whether there was one."""
        cdef Connection connection
        for _ in range(<int>TRIES):
            connection = self.next_victim(newcomer)
            if connection is None:
                return False
            if not is_idle(connection):
                connection.reset()
                self.evicted_slow += 1
                return True
            if close_if_idle(connection):
                self.evicted_idle += 1
                return True
        return False

    cdef Connection next_victim(self, Peer newcomer):
        """Return the connection to evict in favour of *newcomer*, or None. Each call returns another one."""
        cdef Peer peer
        cdef Connection connection
        while self.most and self.by_count[self.most] is None:
            self.most -= 1
        if not self.most:
            return None
        peer = <Peer>self.by_count[self.most]
        for _ in range(2):
            while peer.order:
                then, _, each = peer.order[-1]
                connection = <Connection>each
                now = eviction_rank(connection)
                if now == then and now[0] and peer.open < newcomer.open + 2:
                    return None
                peer.order.pop()
                if now == then:
                    return connection
            self.sort_connections(peer)
        return None

    cdef int sort_connections(self, Peer peer) except -1:
        """Sort the connections of *peer*; the next one to evict is the last."""
        cdef Connection connection = peer.first
        cdef list order = []
        while connection is not None:
            now = eviction_rank(connection)
            if now is not None:
                order.append((now, connection.serial, connection))
            connection = connection.following
        order.sort(reverse=True)
        peer.order = order
        return 0

    # by_count: each entry is the head of a doubly linked list of the peers with that number of connections.

    cdef int link(self, Peer peer) except -1:
        cdef Peer first
        if peer.open <= peer.held:
            return 0
        first = <Peer>self.by_count[peer.open]
        peer.next = first
        if first is not None:
            first.previous = peer
        self.by_count[peer.open] = peer
        peer.linked = True
        if peer.open > self.most:
            self.most = peer.open
        return 0

    cdef int unlink(self, Peer peer) except -1:
        if not peer.linked:
            return 0
        if peer.previous is not None:
            peer.previous.next = peer.next
        else:
            self.by_count[peer.open] = peer.next
        if peer.next is not None:
            peer.next.previous = peer.previous
        peer.previous = peer.next = None
        peer.linked = False
        return 0
