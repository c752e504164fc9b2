from libc.stdint cimport int64_t, uint64_t

from _native.answers cimport ReadyAnswer
from _native.query cimport Query

cdef class PodRecord:
    cdef readonly object owner
    cdef readonly int64_t generation
    cdef public bint suspended
    cdef list _kept
    cdef uint64_t _uses
    cdef ReadyAnswer lookup(self, const Query *query, int64_t now_ns)

cdef class Index:
    cdef public bint suspended
    cdef dict _records  # sin_addr.s_addr as the kernel gives it, or an IPv6 address's 16 bytes -> record
    cdef PodRecord of(self, object key)
