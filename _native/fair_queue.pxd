from _native.connection cimport Connection

cdef class FairQueue:
    cdef object ring           # deque of peers with waiting connections
    cdef bint any              # whether ring is not empty
    cdef int put(self, Connection connection) except -1
    cdef Connection take(self)
    cdef int clear(self) except -1
