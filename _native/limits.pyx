"""The listener's limits, each with its default and the reason for it."""

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
    # connections_per_peer: 200 requests at once from one pod have been seen in practice; sixteen pods together can
    # take all places, and then the greediest give some back.
    # first_byte: SDKs send at once; a silent connection is a probe or an attack.
    # head: from the first byte to the end of the request, body included: a segment or two.
    # idle: longer than the 60 to 90 s that HTTP clients keep idle connections: they close first.
    # receive, send: the kernel's buffers of a connection; it doubles the numbers, and counts its bookkeeping in.
    # Without them it would keep megabytes for a peer that sends without pause or reads no answers.
    # memory: what connections may hold in all, here and in the kernel; `memory` says what happens then. 0: no bound.
    # write: from the moment the socket was full until everything is sent.

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
