from libc.stdint cimport int64_t, uint32_t, uint64_t

from _native.connection cimport Connection, LaneState
from _native.connection_slots cimport ConnectionSlots, Peer

cdef class Memory:
    cdef int64_t limit_bytes     # of all connections together; 0 without a limit
    cdef int send_bytes          # send buffer of a connection that is not narrow
    cdef int64_t used            # bytes in the last pass
    cdef int64_t measured_ns     # time of the last pass
    cdef uint32_t passes
    cdef bint is_short           # peers with more than an equal share get no further connection
    cdef uint64_t narrowed, evicted, refused
    cdef bint is_due(self, int open, int64_t sent) noexcept
    cdef bint must_measure(self, int64_t sent) noexcept
    cdef int measure(self, LaneState lane, list connections, ConnectionSlots connection_slots) except -1
    cdef bint exceeds_share(self, Peer peer, ConnectionSlots connection_slots) noexcept
    # Private.
    cdef int64_t bytes_of(self, Connection connection, bint again) noexcept
    cdef int64_t share(self, ConnectionSlots connection_slots) noexcept
    cdef int narrow_greedy(self, list connections, int64_t share) except -1
    cdef int restore_buffers(self, list connections) except -1
    cdef int evict(self, ConnectionSlots connection_slots) except -1
    cdef list order_of(self, Peer peer)
