from _native.connection_slots cimport Peer

cdef class FairQueue:
    cdef object ring           # deque of peers with waiting connections
    cdef object loop           # None before the lane starts
    cdef object serve          # called by the loop after schedule()
    cdef bint any              # whether ring is not empty
    cdef bint scheduled
    cdef int put(self, Peer peer, object connection) except -1
    cdef object take(self)
    cdef int schedule(self) except -1
    cdef int clear(self) except -1
