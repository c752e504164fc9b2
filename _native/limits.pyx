"""The listener's limits with their defaults and reasons."""

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
    # connections: a node runs up to 250 pods, an SDK keeps a handful; one costs about 350 bytes and a descriptor.
    # connections_per_peer: 200 concurrent requests from one pod occur in practice. Sixteen pods together can use all
    # slots; then those with most connections lose some.
    # first_byte: SDKs send immediately; a silent connection is a probe or an attack.
    # head: from the first byte to the end of the request, including the body: a segment or two.
    # idle: longer than the 60 to 90 s for which HTTP clients keep idle connections, so that clients close first.
    # receive, send: the kernel's buffers of a connection; it doubles the numbers and includes its bookkeeping.
    # Without them it would keep megabytes for a peer that sends without pause or reads no answers.
    # memory: the bytes of all connections, here and in the kernel; `memory` enforces it. 0: no bound.
    # write: from the first byte that the socket did not accept until everything is sent.

    def __init__(
        self, *, int connections=8192, int connections_per_peer=512, first_byte_seconds=10.0, head_seconds=10.0,
        idle_seconds=120.0, write_seconds=30.0, int receive_bytes=16 * 1024, int send_bytes=64 * 1024,
        int64_t memory_bytes=0, bint defer_accept=False
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
