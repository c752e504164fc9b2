from libc.stdint cimport int64_t, uint32_t, uint64_t

from _native.connection_slots cimport ConnectionSlots, Peer
from _native.disconnects cimport Disconnects
from _native.fair_queue cimport FairQueue
from _native.index cimport Index, PodRecord
from _native.ready_responses cimport RESPONSE_MAX, ReadyResponse

cdef enum:
    READ_MAX = 16 * 1024       # bytes per recv: 75 pipelined requests; also the most unread bytes of a connection

cdef enum:
    UNACKNOWLEDGED_MAX = 8 * 1024  # bytes of responses that may be on their way to a peer when its connection is closed
    LINGER_NS = 1_000_000_000  # enough for a peer on the same node to read its response

cdef enum State:
    CLOSED       # zero on purpose
    FRESH        # accepted, nothing received
    IDLE         # everything received has been answered
    HANDED_OVER  # the general lane is reading a request
    HELD         # the general lane is answering one; nothing is read
    FINISHING    # to be closed when everything written has been sent
    LINGERING    # everything is sent and our side is shut down; waiting for the peer to close
    LEAVING      # ended, but the peer has not acknowledged all responses; nothing is read or sent

cdef class Connection

cdef class LaneState:
    """The state that a lane shares with its connections."""
    cdef Index index
    cdef object general           # factory of a connection's ConnectionReceiver
    cdef int64_t first_byte_ns, head_ns, idle_ns, write_ns  # its Limits
    cdef Py_ssize_t buffer_bytes  # of responses to pipelined requests that are sent together; RESPONSE_MAX at most
    cdef Py_ssize_t part_bytes    # per call of send()
    cdef bint require_metadata
    cdef bint draining
    cdef int epoll
    cdef uint64_t turn            # number of the turn: in each, the general lane works for one request of a peer
    cdef uint64_t fast_answers, handed_over
    cdef int64_t sent             # bytes that sockets accepted since the last pass of `memory`
    cdef Py_ssize_t buffered      # bytes in outbox; 0 outside of a connection's consume()
    cdef Connection first_due, last_due  # list of connections with a response to send
    cdef list connections         # Connection or None, by number
    cdef list free_numbers
    cdef int open                 # the number of connections
    cdef ConnectionSlots slots
    cdef FairQueue fair_queue
    cdef Disconnects disconnects
    cdef bint turning             # a turn is on the stack
    cdef unsigned char[READ_MAX] inbox
    cdef char[RESPONSE_MAX] outbox

cdef class Connection:
    cdef LaneState lane
    cdef object general      # the ConnectionReceiver of this connection; None before the first hand-over
    cdef object peer_key     # the peer's address in the form of Index's keys; None: no fast responses
    cdef ReadyResponse due   # response to send at the end of the turn
    cdef int64_t due_since   # time at which its request was read
    cdef Connection next_due  # in LaneState.first_due's list
    cdef PodRecord record    # the record of peer_key in version looked_up of Index
    cdef uint64_t looked_up
    cdef Peer holder         # the peer that holds the connection's slot
    cdef Connection preceding, following  # in the holder's list
    cdef bytes unread        # received, not processed: its turn was over, or the peer does not read its responses
    cdef bytes unsent        # written; the socket has not accepted the bytes from unsent_from on
    cdef Py_ssize_t unsent_from
    cdef Py_ssize_t thrown_away
    cdef Py_ssize_t handed   # bytes of the present request passed to the general lane
    cdef int64_t sent        # bytes that the socket has accepted in total
    cdef int64_t sent_when_measured
    cdef int64_t kernel_bytes  # bytes in the kernel in the last pass of `memory`
    cdef int64_t bytes         # all bytes in that pass
    cdef int64_t deadline_ns        # of the present state; 0 without a deadline
    cdef int64_t write_deadline_ns  # of unsent
    cdef uint32_t serial     # distinguishes this connection from an earlier one with its number
    cdef uint32_t number     # index in Lane.connections
    cdef uint32_t armed      # the events registered with epoll
    cdef int fd
    cdef State state
    cdef bint registered
    cdef bint busy           # consume() is on the stack and continues by itself after the general lane's call
    cdef bint peer_gone_notified  # general.peer_gone() was called
    cdef bint queued         # in its holder's queue
    cdef bint narrow         # memory is short and the peer has more than its share: small reads and sends
    # Called by the lane.
    cdef int begin(
        self, LaneState lane, Peer holder, int fd, object peer_key, uint32_t number, uint32_t serial
    ) except -1
    cdef int on_events(self, uint32_t events) except -1
    cdef bint read(self) except -1
    cdef int take_turn(self) except -1
    cdef int enqueue(self) except -1
    cdef int arm(self) except -1
    cdef int send_due(self) except -1
    cdef int close_now(self) except -1
    cdef int reset(self) except -1
    cdef bint has_acknowledged_all(self) noexcept
    # Called by `transfer`.
    cdef int leave_lane(self) except -1
    cdef int queue_disconnect(self) except -1
    # Private.
    cdef bint is_open(self) noexcept
    cdef int process_unread(self) except -1
    cdef int end_hold(self) except -1
    cdef int consume(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef bint respond_fast(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t *at) except -1
    cdef int send_later(self, ReadyResponse response, int64_t since) except -1
    cdef int record_response(self, ReadyResponse response, int64_t since, bint close) except -1
    cdef int hand_over(self) except -1
    cdef int notify_peer_gone(self) except -1
    cdef int buffer_response(self, const char *data, Py_ssize_t size) except -1
    cdef int flush_buffered(self) except -1
    cdef int send_bytes(self, const char *data, Py_ssize_t size) except -1
    cdef Py_ssize_t send_parts(self, const char *data, Py_ssize_t size) except -2
    cdef int send_rest(self) except -1
    cdef int close_if_finished(self) except -1
    cdef int close_when_acknowledged(self) except -1
