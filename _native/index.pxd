from libc.stdint cimport int64_t, uint64_t

from _native.query cimport Query
from _native.ready_responses cimport ReadyResponse, SharedResponse

cdef class _CachedResponse:
    cdef int selector_kind
    cdef bytes resource
    cdef bytes selector
    cdef bytes xms_cc
    cdef ReadyResponse response
    cdef bytes spelled  # the raw query that it answered last; None before the first one or after a long one
    cdef uint64_t used  # the record's count of uses at the last use: the smallest is evicted first
    cdef bint is_spelled(self, const unsigned char *text, Py_ssize_t length) noexcept
    cdef bint matches(self, const Query *query) noexcept

cdef class PodRecord:
    cdef readonly object owner
    cdef readonly int64_t generation
    cdef public bint suspended
    cdef list _responses
    cdef list _refusals  # ReadyResponse or None, by RequestKind; None without any
    cdef dict _metadata  # path and query of a request for instance metadata -> SharedResponse; None without any
    cdef uint64_t _uses
    cdef ReadyResponse find_response(self, const unsigned char *text, Py_ssize_t length, int64_t now_ns)
    cdef ReadyResponse find_refusal(self, int kind, int64_t now_ns)
    cdef ReadyResponse find_metadata(self, const unsigned char *target, Py_ssize_t length, int64_t now_ns)
    cdef _CachedResponse find_cached(self, const Query *query)
    cdef ReadyResponse if_fresh(self, _CachedResponse kept, int64_t now_ns)

cdef class Index:
    cdef public bint suspended
    cdef uint64_t version  # never 0; changes with each change of an address
    cdef dict _unknown  # like _records, for addresses without a pod that got a refusal
    cdef dict _records  # the kernel's sin_addr.s_addr, or the 16 bytes of an IPv6 address -> record
    cdef PodRecord record_of(self, object key)
