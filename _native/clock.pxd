"""The clock of the data plane: the same as `time.monotonic_ns()`, without a Python object."""

from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef enum:
    NANOSECONDS = 1_000_000_000


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * NANOSECONDS + now.tv_nsec
