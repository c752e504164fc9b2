from libc.stdint cimport uint64_t

from _native.connection cimport Connection
from _native.connection_slots cimport ConnectionSlots, Peer

cdef class Eviction:
    cdef ConnectionSlots slots
    cdef uint64_t idle, slow  # connections closed for a newcomer: idle ones, or else busy ones
    cdef bint evict_for(self, Peer newcomer) except -1
    # Private.
    cdef bint evict_busy(self, Connection connection) except -1
    cdef Connection next_victim(self, Peer newcomer)
    cdef int sort_connections(self, Peer peer) except -1

cdef bint close_if_idle(Connection connection) except -1
