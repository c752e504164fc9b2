"""A fair queue: one queue of waiting connections per peer, served round-robin, one connection of each peer.

So a peer with many connections or slow requests delays its own requests only.
"""

cimport cython

from _native.connection_slots cimport Peer

from collections import deque


@cython.final
cdef class FairQueue:
    def __init__(self):
        self.ring = deque()

    cdef int put(self, Peer peer, object connection) except -1:
        """Queue *connection* of *peer*. It must not be queued already."""
        if peer.queue is None:
            peer.queue = deque()
        peer.queue.append(connection)
        if len(peer.queue) == 1:
            self.ring.append(peer)
            self.any = True
        return 0

    cdef object take(self):
        """Remove and return the next connection. The queue must not be empty."""
        cdef Peer peer = <Peer>self.ring.popleft()
        connection = peer.queue.popleft()
        if peer.queue:
            self.ring.append(peer)
        self.any = len(self.ring) > 0
        return connection

    cdef int schedule(self) except -1:
        """Let the loop call `serve` once, if a connection waits."""
        if self.any and not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.serve)
        return 0

    cdef int clear(self) except -1:
        self.ring.clear()
        self.any = False
        self.serve = None  # a method of the lane, which owns this queue
        return 0
