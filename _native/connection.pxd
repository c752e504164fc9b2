from libc.stdint cimport int64_t, uint32_t, uint64_t

from _native.answers cimport ANSWER_MAX, ReadyAnswer
from _native.index cimport Index, PodRecord

cdef enum:
    READ_MAX = 16 * 1024       # bytes per recv: 75 pipelined requests; also what a connection can make us keep unread

cdef enum:
    LINGER_NS = 1_000_000_000  # a peer on the same node has read its answer by then

cdef enum State:
    CLOSED       # zero on purpose
    FRESH        # accepted, nothing received
    IDLE         # everything received has been answered
    HANDED_OVER  # the general lane is reading a request
    HELD         # the general lane is answering one; nothing is read
    FINISHING    # closed once everything written has been sent
    LINGERING    # all is sent and our side shut down; waiting for the peer's
    LEAVING      # over, but the kernel still holds answers that the peer has not taken; nothing is read or sent

cdef class Peer:
    """What a lane keeps of an address while it has connections: which, and whose turn it is among them.

    `places` and `lane` write it.
    """
    cdef object address      # as Index keys it
    cdef int open            # its connections
    cdef int held            # those of them that are HELD
    cdef Connection first    # of them
    cdef list order          # (rank, serial, connection) of them, those first to go at the end; may be out of date
    cdef Peer previous, next  # in ConnectionSlots.by_count, while listed
    cdef bint linked
    cdef object queue        # deque of connections that wait for their turn, once one has
    cdef uint64_t arrived_in  # Owner.turn in which it last connected
    cdef int arrivals        # connections in that turn
    cdef int64_t bytes       # of memory that its connections held when `memory` measured last
    cdef uint64_t served     # Owner.turn in which the general lane last worked for it

cdef class Connection

cdef class Owner:
    cdef Index index
    cdef object general           # makes a connection's GeneralLane
    cdef int64_t first_byte_ns, head_ns, idle_ns, write_ns  # its Limits
    cdef Py_ssize_t buffer_bytes    # of answers to pipelined requests that are sent together; ANSWER_MAX at most
    cdef Py_ssize_t part_bytes    # of what is sent, that a socket is given at a time
    cdef bint require_metadata
    cdef bint draining
    cdef int epoll
    cdef uint64_t turn            # a peer gets the general lane's work for one request in each
    cdef uint64_t fast_answers, handed_over
    cdef int64_t sent             # bytes that sockets have taken since `memory` measured last
    cdef Py_ssize_t buffered        # bytes in outbox; none while anything but one connection's consume() runs
    cdef Connection first_due, last_due  # a list of those that have an answer due
    cdef unsigned char[READ_MAX] inbox
    cdef char[ANSWER_MAX] outbox
    cdef int enqueue(self, Connection connection) except -1
    cdef int set_held(self, Connection connection, bint held) except -1
    cdef int remove(self, Connection connection) except -1
    cdef int queue_disconnect(self, object general) except -1

cdef class Connection:
    cdef Owner owner
    cdef object general      # the GeneralLane of this connection, once one was needed
    cdef object peer_key     # the peer's address as Index keys it; None if no answer is ready for this connection ever
    cdef ReadyAnswer due     # what the owner has it send at the end of this turn
    cdef int64_t due_since   # when its request was read
    cdef Connection next_due  # in Owner.first_due's list
    cdef PodRecord record    # peer_key's in Index, as of its version looked_up
    cdef uint64_t looked_up
    cdef Peer holder         # the peer, as the lane's places have it
    cdef Connection preceding, following  # among its holder's
    cdef bytes unread        # received and not looked at yet: its turn was over, or it does not read its answers
    cdef bytes unsent        # written, and not taken by the socket yet, from unsent_from on
    cdef Py_ssize_t unsent_from
    cdef Py_ssize_t thrown_away
    cdef Py_ssize_t handed   # bytes of the present request that the general lane was given
    cdef int64_t sent        # bytes that the socket has taken in all
    cdef int64_t sent_when_measured
    cdef int64_t kernel_bytes  # what the kernel held for it when `memory` measured last
    cdef int64_t bytes         # all that it held then
    cdef int64_t deadline_ns        # of the present state; 0 if it has none
    cdef int64_t write_deadline_ns  # of unsent
    cdef uint32_t serial     # tells this connection from the one that had the slot before
    cdef uint32_t number
    cdef uint32_t armed      # the events asked of epoll
    cdef int fd
    cdef State state
    cdef bint registered
    cdef bint busy           # consume() is on the stack: it goes on by itself when the general lane is done
    cdef bint peer_gone_notified      # the general lane was told
    cdef bint queued         # in its holder's queue
    cdef bint narrow         # memory is short and its peer has more than its share: it gets little at a time
    # What the owner calls.
    cdef int begin(self, Owner owner, int fd, object peer_key, uint32_t number, uint32_t serial) except -1
    cdef int on_events(self, uint32_t events) except -1
    cdef bint read(self) except -1
    cdef int process_unread(self) except -1
    cdef int arm(self) except -1
    cdef int send_due(self) except -1
    cdef int close_now(self) except -1
    cdef int reset(self) except -1
    cdef bint has_acknowledged_all(self) noexcept
    # The rest is its own.
    cdef bint is_open(self) noexcept
    cdef int end_hold(self) except -1
    cdef int consume(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef bint answer_fast(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t *at) except -1
    cdef int send_later(self, ReadyAnswer answer, int64_t since) except -1
    cdef int record_answer(self, ReadyAnswer answer, int64_t since, bint close) except -1
    cdef int hand_over(self) except -1
    cdef int notify_peer_gone(self) except -1
    cdef int buffer_answer(self, const char *data, Py_ssize_t size) except -1
    cdef int flush_buffered(self) except -1
    cdef int send_bytes(self, const char *data, Py_ssize_t size) except -1
    cdef Py_ssize_t send_parts(self, const char *data, Py_ssize_t size) except -2
    cdef int send_rest(self) except -1
    cdef int close_if_finished(self) except -1
    cdef int close_when_acknowledged(self) except -1
    cdef int queue_disconnect(self) except -1
