from libc.stdint cimport int64_t, uint64_t

cdef enum:
    BOUNDS_MAX = 31  # the Go implementation's histogram has 14; arrays of fixed size need no malloc

cdef class Counter:
    cdef readonly uint64_t value

cdef class Series:
    cdef readonly tuple labels
    cdef int bounds
    cdef int64_t[BOUNDS_MAX] bound_ns
    cdef uint64_t[BOUNDS_MAX + 1] bucket
    cdef uint64_t total_ns
    cdef void record(self, int64_t nanoseconds) noexcept
