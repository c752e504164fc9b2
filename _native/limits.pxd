from libc.stdint cimport int64_t

cdef class Limits:
    cdef readonly int connections
    cdef readonly int connections_per_peer
    cdef int64_t first_byte_ns, head_ns, idle_ns, write_ns
    cdef readonly int receive_bytes, send_bytes
    cdef readonly int64_t memory_bytes
    cdef readonly bint defer_accept
