from libc.stdint cimport int64_t, uint64_t

cdef class Losses:
    cdef list untold               # general lanes
    cdef bint telling
    cdef readonly uint64_t failed
    cdef int64_t logged_ns
    cdef int tell_all(self) except -1
    cdef int note_failure(self, str peer, object error) except -1
