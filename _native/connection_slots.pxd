from libc.stdint cimport int64_t, uint64_t

cdef class Peer:
    """A lane's record of an address while it has connections. `connection`, `fair_queue`, `eviction`,
    `memory` and `lane` write it.
    """
    cdef object address      # in the form of Index's keys
    cdef int open            # its connections
    cdef int held            # its connections that are HELD
    cdef object first        # its first Connection
    cdef list order          # (rank, serial, connection), the next one to evict at the end; may be outdated
    cdef Peer previous, next  # in ConnectionSlots.by_count, while linked
    cdef bint linked
    cdef object queue        # deque of its waiting connections; None before the first one
    cdef uint64_t arrived_in  # LaneState.turn in which it last connected
    cdef int arrivals        # connections in that turn
    cdef int64_t bytes       # memory of its connections in the last pass of `memory`
    cdef uint64_t served     # LaneState.turn in which the general lane last worked for it

cdef class ConnectionSlots:
    cdef dict peers        # address -> Peer, while it has a connection
    cdef list by_count     # at each number of connections, a peer with that number of which one could be evicted
    cdef int most          # by_count is empty above this index
    cdef Peer peer_of(self, object address)
    cdef int take(self, Peer peer) except -1
    cdef int release(self, Peer peer) except -1
    cdef int set_held(self, Peer peer, bint held) except -1
    # Private.
    cdef int link(self, Peer peer) except -1
    cdef int unlink(self, Peer peer) except -1
