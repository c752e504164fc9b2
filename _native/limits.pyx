"""The listener's limits."""

cimport cython
from libc.stdint cimport int64_t

from _native.clock cimport NANOSECONDS


cdef int64_t nanoseconds(object seconds) except -1:
    cdef double given = seconds
    if not 0 < given <= 86_400:
        raise ValueError(f"a time limit is more than 0 and at most 86400 seconds, not {given}")
    return <int64_t>(given * NANOSECONDS)


@cython.final
cdef class Limits:
    # receive, send: the kernel's buffers of a connection; it doubles the numbers and includes its bookkeeping.
    # Without them it would keep megabytes for a peer that sends without pause or reads no responses.
    # memory: the bytes of all connections, here and in the kernel; `memory` enforces it. 0: no bound.

    def __init__(
        self, *, int connections, int connections_per_peer, first_byte_seconds, head_seconds, idle_seconds,
        write_seconds, int receive_bytes, int send_bytes, int64_t memory_bytes, bint defer_accept=False
    ):
        if connections < 1 or connections_per_peer < 1:
            raise ValueError("at least one connection must be allowed, in all and per peer")
        self.connections = connections
        self.connections_per_peer = connections_per_peer
        self.first_byte_ns = nanoseconds(first_byte_seconds)
        self.head_ns = nanoseconds(head_seconds)
        self.idle_ns = nanoseconds(idle_seconds)
        self.write_ns = nanoseconds(write_seconds)
        if receive_bytes < 2048 or send_bytes < 2048:
            raise ValueError("a buffer of a connection has at least 2048 bytes")
        if memory_bytes < 0:
            raise ValueError("a bound on memory is not negative")
        self.receive_bytes = receive_bytes
        self.send_bytes = send_bytes
        self.memory_bytes = memory_bytes
        self.defer_accept = defer_accept
