"""The connection slots of the lane by peer: how many connections each peer has, and which peer has most.

Taking and releasing a slot take constant time.
"""

cimport cython


@cython.final
@cython.freelist(64)
cdef class Peer:
    pass


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

    cdef int take(self, Peer peer) except -1:
        """Take a slot for a connection of *peer*. Raise MemoryError at most, and then without a change."""
        if not peer.open:
            self.peers[peer.address] = peer
        self.unlink(peer)
        peer.open += 1
        self.link(peer)
        return 0

    cdef int release(self, Peer peer) except -1:
        """Release a slot of *peer*."""
        self.unlink(peer)
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
