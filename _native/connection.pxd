from libc.stdint cimport int64_t, uint32_t, uint64_t

from _native.answers cimport ANSWER_MAX
from _native.index cimport Index

cdef enum:
    READ_MAX = 16 * 1024       # bytes per recv: 75 pipelined requests; also what a connection can make us keep unread

cdef enum State:
    CLOSED       # zero on purpose
    FRESH        # accepted, nothing received
    IDLE         # everything received has been answered
    HANDED_OVER  # the general lane is reading a request
    HELD         # the general lane is answering one; nothing is read
    FINISHING    # closed once everything written has been sent
    LINGERING    # all is sent and our side shut down; waiting for the peer's

cdef class Owner:
    cdef Index index
    cdef object general           # makes a connection's GeneralLane
    cdef int64_t first_byte_ns, head_ns, idle_ns, write_ns  # its Limits
    cdef bint require_metadata
    cdef bint draining
    cdef int epoll
    cdef uint64_t fast_answers, handed_over
    cdef Py_ssize_t joined        # bytes in outbox; none while anything but one connection's consume() runs
    cdef unsigned char[READ_MAX] inbox
    cdef char[ANSWER_MAX] outbox
    cdef int later(self, Connection connection) except -1
    cdef int forget(self, Connection connection) except -1
    cdef int tell_lost(self, object general) except -1

cdef class Connection:
    cdef Owner owner
    cdef object general      # the GeneralLane of this connection, once one was needed
    cdef object peer_key     # the peer's address as Index keys it
    cdef bytes unread        # received and not looked at yet: its turn was over, or it does not read its answers
    cdef bytes unsent        # written, and not taken by the socket yet, from unsent_from on
    cdef Py_ssize_t unsent_from
    cdef Py_ssize_t thrown_away
    cdef int64_t deadline_ns        # of the present state; 0 if it has none
    cdef int64_t write_deadline_ns  # of unsent
    cdef uint32_t serial     # tells this connection from the one that had the slot before
    cdef uint32_t slot
    cdef uint32_t armed      # the events asked of epoll
    cdef int fd
    cdef State state
    cdef bint registered
    cdef bint busy           # consume() is on the stack: it goes on by itself when the general lane is done
    cdef bint peer_left      # the general lane was told
    # What the owner calls.
    cdef int begin(self, Owner owner, int fd, object peer_key, uint32_t slot, uint32_t serial) except -1
    cdef int on_events(self, uint32_t events) except -1
    cdef int read(self) except -1
    cdef int go_on(self) except -1
    cdef int arm(self) except -1
    cdef bint is_late(self, int64_t now_ns) noexcept
    cdef int shut_if_idle(self) except -1
    cdef int shut(self) except -1
    # The rest is its own.
    cdef bint is_open(self) noexcept
    cdef int consume(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef bint answer_fast(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t *at) except -1
    cdef int hand_over(self) except -1
    cdef int tell_peer_left(self) except -1
    cdef int join(self, const char *data, Py_ssize_t size) except -1
    cdef int flush_joined(self) except -1
    cdef int send_bytes(self, const char *data, Py_ssize_t size) except -1
    cdef int send_rest(self) except -1
    cdef int settle(self) except -1
