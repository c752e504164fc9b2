from libc.stdint cimport uint64_t

from _native.connection cimport State

cdef class Deadlines:
    cdef Py_ssize_t at           # start of the next pass
    cdef uint64_t first_byte, head, idle, write
    cdef bint close_late(self, list connections) except -1
    cdef int count(self, State state) except -1
