from libc.stdint cimport uint16_t, uint32_t

cdef class Redirects:
    cdef uint32_t address      # network byte order
    cdef uint16_t port         # network byte order
    cdef bint matches(self, int fd) noexcept

cdef bint leads_to_loopback(int fd) noexcept
cdef object redirected_from(int fd)
