"""A fair queue: one queue of waiting connections per peer, served round-robin, one connection of each peer.

So a peer with many connections or slow requests delays its own requests only.
"""

cimport cython

from _native.connection cimport Connection, Peer

from collections import deque


@cython.final
cdef class FairQueue:
    def __init__(self):
        self.ring = deque()

    cdef int put(self, Connection connection) except -1:
        """Queue *connection* unless it is queued."""
        cdef Peer peer = connection.holder
        if connection.queued:
            return 0
        if peer.queue is None:
            peer.queue = deque()
        peer.queue.append(connection)
        connection.queued = True
        if len(peer.queue) == 1:
            self.ring.append(peer)
            self.any = True
        return 0

    cdef Connection take(self):
        """Remove and return the next connection. The queue must not be empty."""
        cdef Peer peer = <Peer>self.ring.popleft()
        cdef Connection connection = <Connection>peer.queue.popleft()
        connection.queued = False
        if peer.queue:
            self.ring.append(peer)
        self.any = len(self.ring) > 0
        return connection

    cdef int clear(self) except -1:
        self.ring.clear()
        self.any = False
        return 0
