from libc.stdint cimport uint64_t

from _native.connection cimport Connection, Peer

cdef class Places:
    cdef dict peers        # address -> Peer, while it has a connection
    cdef list by_count     # at each number of connections, one of the peers that have so many and could give one up
    cdef int most          # above it by_count is empty
    cdef uint64_t evicted_idle, evicted_slow
    cdef Peer peer_at(self, object address)
    cdef int take(self, Peer peer, Connection connection) except -1
    cdef int leave(self, Connection connection) except -1
    cdef int hold(self, Peer peer, bint held) except -1
    cdef bint make_room(self, Peer newcomer) except -1
    # The rest is its own.
    cdef Connection one_to_give_up(self, Peer newcomer)
    cdef int put_in_order(self, Peer peer) except -1
    cdef int list_again(self, Peer peer) except -1
    cdef int unlist(self, Peer peer) except -1

cdef bint shut_if_idle(Connection each) except -1
