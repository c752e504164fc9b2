from libc.stdint cimport int64_t, uint64_t

cdef class Disconnects:
    cdef list pending               # general lanes
    cdef object loop                # None before the lane starts
    cdef bint closed                # the lane is closed and calls notify() itself
    cdef bint notifying
    cdef readonly uint64_t failed
    cdef int64_t logged_ns
    cdef int put(self, object general, bint turning) except -1
    cdef int notify(self) except -1
    cdef int notify_all(self) except -1
    cdef int record_failure(self, str peer, object error) except -1
