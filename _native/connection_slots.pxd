from libc.stdint cimport uint64_t

from _native.connection cimport Connection, Peer

cdef class ConnectionSlots:
    cdef dict peers        # address -> Peer, while it has a connection
    cdef list by_count     # at each number of connections, a peer with that number of which one could be evicted
    cdef int most          # by_count is empty above this index
    cdef uint64_t evicted_idle, evicted_slow
    cdef Peer peer_of(self, object address)
    cdef int take(self, Peer peer, Connection connection) except -1
    cdef int release(self, Connection connection) except -1
    cdef int set_held(self, Peer peer, bint held) except -1
    cdef bint evict_for(self, Peer newcomer) except -1
    # Private.
    cdef Connection next_victim(self, Peer newcomer)
    cdef int sort_connections(self, Peer peer) except -1
    cdef int link(self, Peer peer) except -1
    cdef int unlink(self, Peer peer) except -1

cdef bint close_if_idle(Connection each) except -1
