from libc.stdint cimport int64_t, uint32_t, uint64_t

from _native.limits cimport Limits
from _native.redirects cimport Redirects

cdef class Listener:
    cdef object sock          # open while its descriptor is in the epoll set; None: not in use
    cdef int fd
    cdef Redirects redirects  # None: every connection is accepted, else only those that it matches
    cdef uint64_t unread      # connections closed before a byte was read, because no rule redirected them
    cdef uint32_t last_unread  # address of the last of them
    cdef object loop
    cdef object timer         # TimerHandle while it pauses
    cdef int epoll
    cdef uint64_t mark        # the data of its events
    cdef int64_t since_ns     # time of the first of `closed`
    cdef int closed           # unread connections since the last pause
    cdef int begin(self, object sock, object loop, int epoll, uint64_t mark, Limits limits) except -1
    cdef int end(self) except -1
    cdef int pause(self, double seconds) except -1
    cdef int queue_length(self, uint32_t most) noexcept
    cdef bint must_close(self, int fd) noexcept
    cdef bint close_unread(self, int fd, uint32_t address) except -1
    # Private.
    cdef int watch(self) except -1
