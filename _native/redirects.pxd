from libc.stdint cimport uint16_t, uint32_t

cdef class Redirects:
    cdef uint32_t address      # as the kernel holds it
    cdef uint16_t port         # likewise
    cdef bint matches(self, int fd) noexcept

cdef object redirected_from(int fd)
