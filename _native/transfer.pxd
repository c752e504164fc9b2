from libc.stdint cimport uint32_t

from _native.connection cimport Connection

cdef list release_idle(list connections, int most)
cdef bint is_connected(int fd, uint32_t *address) noexcept
cdef int continue_adopted(Connection connection) except -1
