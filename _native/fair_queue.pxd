from _native.connection cimport Connection

cdef class FairQueue:
    cdef object ring           # deque of peers with connections in their queue
    cdef bint any              # are in there
    cdef int put(self, Connection connection) except -1
    cdef Connection take(self)
    cdef int clear(self) except -1
