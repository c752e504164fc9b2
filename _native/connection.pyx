"""One accepted connection: reading, the fast response or the hand-over, sending, and closing.

While no request is pending, the fast lane answers a request with a complete ordinary head (`scan`) and an address
whose pod record (`index`) contains a fresh response to its query of known fields (`query`), or a fresh refusal of its
kind. At the first byte where one of these
conditions fails, the connection is handed over: the general lane gets every byte from there on until it calls `resume`.
An incomplete head is handed over too. This costs some microseconds per request, and it avoids a second place that
collects, limits and rescans fragments.

`lane` accepts connections, and owns their deadlines and eviction. A connection knows only its `LaneState`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from _native.clock cimport monotonic_ns
from _native.connection_slots cimport Peer
from _native.index cimport PodRecord
from _native.query cimport lacks_resource
from _native.ready_responses cimport ReadyResponse
from _native.redirects cimport redirected_from
from _native.scan cimport DONE, INSTANCE, NO_HEADER, NO_RESOURCE, TOKEN_PATH, Head, scan_head, to_blank_line
from _native.sending cimport queued_bytes, reset_at_close, send_in_parts
from _native.sockets cimport *

from typing import Protocol

cdef enum:
    NOTHING = 0                # no events: the next arm() registers with epoll again
    REQUESTS_PER_TURN = 32     # of one connection, before other peers are served
    NARROW_READ = 2 * 1024     # bytes per recv of a narrow connection: a few requests
    NARROW_SEND = 2 * 1024
    NARROW_REQUESTS = 2        # instead of REQUESTS_PER_TURN
    LINGER_BYTES = 256 * 1024  # read and discarded after the last response: closing with unread bytes would reset it


class ConnectionReceiver(Protocol):
    def data_received(self, data: bytes) -> None: ...
    def peer_gone(self) -> None: ...
    def connection_lost(self) -> None: ...


cdef class LaneState:
    pass


@cython.final
@cython.freelist(64)
cdef class Connection:
    def __cinit__(self):
        self.fd = -1

    def __init__(self):
        raise TypeError("a Connection is made by its Lane")

    def __dealloc__(self):
        if self.fd >= 0:
            close_fd(self.fd)

    # Called by the general lane.

    @property
    def peer(self):
        return dotted(self.holder.address)

    @property
    def open(self):
        return self.is_open()

    def was_redirected(self):
        return self.peer_key is not None

    def original_destination(self):
        return None if self.fd < 0 else redirected_from(self.fd)

    def write(self, bytes data not None):
        if self.is_open():
            self.send_bytes(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            self.arm()

    def finish(self):
        if not self.is_open():
            return
        self.end_hold()
        self.state = FINISHING
        self.deadline_ns = 0
        self.unread = None
        if not self.busy:
            self.close_if_finished()
            self.arm()

    def pause(self):
        if self.state == HANDED_OVER:
            self.state = HELD
            self.lane.slots.set_held(self.holder, True)
            self.deadline_ns = 0
            self.arm()

    def resume(self):
        if self.state != HELD and self.state != HANDED_OVER:
            return
        self.end_hold()
        self.state = IDLE
        self.handed = 0
        self.deadline_ns = monotonic_ns() + self.lane.idle_ns
        if not self.busy:
            self.enqueue()
            self.close_if_finished()
            self.arm()

    cdef int end_hold(self) except -1:
        if self.state == HELD:
            self.lane.slots.set_held(self.holder, False)
        return 0

    cdef bint is_open(self) noexcept:
        return self.state != CLOSED and self.state < FINISHING

    # Called by the lane.

    cdef int begin(
        self, LaneState lane, Peer holder, int fd, object peer_key, uint32_t number, uint32_t serial
    ) except -1:
        """Take ownership of *fd*, which was just accepted, and of a slot of *holder*."""
        self.lane = lane
        self.holder = holder
        if holder.first is not None:
            self.following = <Connection>holder.first
            self.following.preceding = self
        holder.first = self
        self.fd = fd
        self.peer_key = peer_key
        self.number = number
        self.serial = serial
        self.state = FRESH
        self.deadline_ns = monotonic_ns() + lane.first_byte_ns
        return 0

    cdef int on_events(self, uint32_t events) except -1:
        if events & EPOLLERR:  # reset: the kernel has freed its buffers
            self.notify_peer_gone()
            return self.close_now()
        if events & EPOLLHUP:  # both sides are shut: nothing more can be sent
            self.notify_peer_gone()
            return self.close_when_acknowledged()
        if events & EPOLLRDHUP and self.state == HELD:
            self.notify_peer_gone()
        if events & EPOLLOUT:
            self.send_rest()
        if events & EPOLLIN:
            # Edge-triggered epoll does not report remaining bytes, or an end that arrived with the bytes read, again.
            if self.read() or events & EPOLLRDHUP:
                self.armed = NOTHING
        self.arm()
        return 0

    cdef bint read(self) except -1:
        """Read once if the state allows it. Return whether there may be more."""
        cdef Py_ssize_t size
        cdef Py_ssize_t most = NARROW_READ if self.narrow else READ_MAX
        if self.state == CLOSED or self.state == HELD or self.state == FINISHING or self.state == LEAVING:
            return 0
        if self.unsent is not None or self.unread is not None:  # earlier bytes come first
            return 0
        size = recv(self.fd, self.lane.inbox, <size_t>most, MSG_DONTWAIT)
        if size < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if size <= 0:
            # The peer has closed between requests or inside one: no response is due in either case.
            if self.sent <= UNACKNOWLEDGED_MAX:
                self.close_now()
            else:
                self.close_when_acknowledged()
            return 0
        if self.state == LINGERING:
            self.thrown_away += size
            if self.thrown_away > LINGER_BYTES:
                self.close_now()
        else:
            self.consume(self.lane.inbox, size)
        return size == most

    cdef int take_turn(self) except -1:
        """Continue with the connection that the fair queue has returned."""
        self.queued = False
        self.process_unread()
        return self.arm()

    cdef int enqueue(self) except -1:
        """Wait for the peer's turn, if there are unread bytes or the connection is FRESH."""
        if self.unread is None and self.state != FRESH:
            return 0
        if not self.queued:
            self.lane.fair_queue.put(self.holder, self)
            self.queued = True
        return 0 if self.lane.turning else self.lane.fair_queue.schedule()

    cdef int process_unread(self) except -1:
        """Process the unread bytes if the state allows it; read for the first time if FRESH."""
        cdef bytes data = self.unread
        if self.state == FRESH:
            return self.read()
        if data is None or self.unsent is not None or (self.state != IDLE and self.state != HANDED_OVER):
            return 0
        self.unread = None
        return self.consume(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int consume(self, const unsigned char *data, Py_ssize_t size) except -1:
        """Answer the requests in *data* in order, or hand them over. Keep the bytes that must wait."""
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t length
        cdef int count = 0
        cdef int most = NARROW_REQUESTS if self.narrow else REQUESTS_PER_TURN
        self.busy = True
        try:
            while at < size:
                if self.state == HANDED_OVER:
                    if self.holder.served == self.lane.turn:
                        break
                    self.holder.served = self.lane.turn
                    length = to_blank_line(data + at, size - at)
                    rest = PyBytes_FromStringAndSize(<const char *>data + at, length)
                    at += length
                    self.handed += length
                    self.general.data_received(rest)
                elif self.state != IDLE and self.state != FRESH:
                    break
                elif count == most or self.unsent is not None:
                    break
                else:
                    count += 1
                    if not self.respond_fast(data, size, &at):
                        self.hand_over()
            self.flush_buffered()
        finally:
            self.busy = False
            self.lane.buffered = 0
        if at < size and self.is_open():
            self.unread = PyBytes_FromStringAndSize(<const char *>data + at, size - at)
            if self.unsent is None and self.state != HELD:
                self.enqueue()
        self.close_if_finished()
        return 0

    cdef bint respond_fast(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t *at) except -1:
        """Answer the request at *at* and advance *at*. Return False if it is not for the fast lane."""
        cdef LaneState lane = self.lane
        cdef int64_t begun = monotonic_ns()
        cdef Head head
        cdef PodRecord record
        cdef ReadyResponse response
        cdef const unsigned char *query
        cdef Py_ssize_t query_length, target_length
        cdef const char *text
        cdef Py_ssize_t length = 0
        cdef bint close
        if scan_head(data + at[0], size - at[0], &head) != DONE:
            return False
        if self.looked_up != lane.index.version:
            self.record = lane.index.record_of(self.peer_key)
            self.looked_up = lane.index.version
        record = self.record
        if record is None or record.suspended or lane.index.suspended:
            return False
        if head.kind != TOKEN_PATH:
            response = None
            if head.kind == INSTANCE and head.metadata:
                target_length = head.target.stop - head.target.start
                response = record.find_metadata(data + at[0] + head.target.start, target_length, begun)
            if response is None:
                response = record.find_refusal(<int>head.kind, begun)
        elif lane.require_metadata and not head.metadata:
            response = record.find_refusal(<int>NO_HEADER, begun)
        else:
            query = data + at[0] + head.query.start
            query_length = head.query.stop - head.query.start
            response = record.find_response(query, query_length, begun)
            if response is None and lacks_resource(query, query_length):
                response = record.find_refusal(<int>NO_RESOURCE, begun)
        if response is None:
            return False
        at[0] += head.size
        close = head.close or lane.draining
        if at[0] >= size and lane.buffered == 0 and not close:
            self.state = IDLE
            self.send_later(response, begun)
            return True
        text = response.written(begun, close, &length)
        if at[0] >= size and lane.buffered == 0:
            self.send_bytes(text, length)
        else:
            self.buffer_response(text, length)
        self.record_response(response, begun, close)
        return True

    cdef int send_later(self, ReadyResponse response, int64_t since) except -1:
        """Send *response* at the end of the turn: batches of reads and of sends use the CPU's code cache better."""
        cdef LaneState lane = self.lane
        self.due = response
        self.due_since = since
        if lane.last_due is None:
            lane.first_due = self
        else:
            lane.last_due.next_due = self
        lane.last_due = self
        return 0

    cdef int send_due(self) except -1:
        cdef ReadyResponse response = self.due
        cdef const char *text
        cdef Py_ssize_t length = 0
        if response is None:  # closed since its request was read
            return 0
        self.due = None
        text = response.written(self.due_since, False, &length)
        if text == NULL:  # a shared response whose text was cleared in this turn
            return self.close_now()
        self.send_bytes(text, length)
        self.record_response(response, self.due_since, False)
        self.close_if_finished()
        return self.arm()

    cdef int record_response(self, ReadyResponse response, int64_t since, bint close) except -1:
        cdef int64_t done
        if self.state != CLOSED:
            done = monotonic_ns()
            response.series.record(done - since)
            response.usage.note(done)
            if response.counter is not None:
                response.counter.value += 1
            self.lane.fast_answers += 1
            self.state = FINISHING if close else IDLE
            self.deadline_ns = 0 if close else done + self.lane.idle_ns
        return 0

    cdef int hand_over(self) except -1:
        self.flush_buffered()  # before the general lane's response
        if self.state == CLOSED:
            return 0
        self.state = HANDED_OVER
        self.deadline_ns = monotonic_ns() + self.lane.head_ns
        self.lane.handed_over += 1
        if self.general is None:
            general = self.lane.general(self)
            if self.state == CLOSED:  # by the constructor of the general lane
                self.lane.disconnects.put(general, self.lane.turning)
                return 0
            self.general = general
        return 0

    cdef int notify_peer_gone(self) except -1:
        if self.state == HELD and not self.peer_gone_notified:
            self.peer_gone_notified = True
            self.general.peer_gone()
        return 0

    # Sending.

    cdef int buffer_response(self, const char *data, Py_ssize_t size) except -1:
        """Buffer *data* and send it together with other responses: one segment instead of one each."""
        cdef LaneState lane = self.lane
        if lane.buffered + size > lane.buffer_bytes:
            self.flush_buffered()
        if self.state != CLOSED:
            memcpy(lane.outbox + lane.buffered, data, <size_t>size)
            lane.buffered += size
        return 0

    cdef int flush_buffered(self) except -1:
        cdef Py_ssize_t size = self.lane.buffered
        self.lane.buffered = 0
        if size and self.state != CLOSED:
            self.send_bytes(self.lane.outbox, size)
        return 0

    cdef int send_bytes(self, const char *data, Py_ssize_t size) except -1:
        """Send the bytes that the socket accepts now and keep the rest."""
        cdef Py_ssize_t sent
        if self.unsent is not None:
            self.unsent = self.unsent[self.unsent_from:] + data[:size]
            self.unsent_from = 0
            return 0
        if size <= self.lane.part_bytes and not self.narrow:
            sent = send(self.fd, data, <size_t>size, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_EOR)
            if sent == size:
                self.sent += sent
                self.lane.sent += sent
                return 0
            if sent > 0:
                self.sent += sent
                self.lane.sent += sent
            elif errno != EAGAIN and errno != EINTR:
                return self.close_now()
            else:
                sent = 0
        else:
            sent = self.send_parts(data, size)
            if sent == size or sent < 0:
                return 0
        self.unsent = PyBytes_FromStringAndSize(data + sent, size - sent)
        self.unsent_from = 0
        self.write_deadline_ns = monotonic_ns() + self.lane.write_ns
        return 0

    cdef Py_ssize_t send_parts(self, const char *data, Py_ssize_t size) except -2:
        """Send in parts. Return the number of bytes that the socket accepted; -1 if the connection is closed."""
        cdef Py_ssize_t done = send_in_parts(self.fd, data, size, NARROW_SEND if self.narrow else self.lane.part_bytes)
        if done < 0:
            self.close_now()
            return -1
        self.sent += done
        self.lane.sent += done
        return done

    cdef int send_rest(self) except -1:
        cdef Py_ssize_t sent, size
        cdef const char *rest
        if self.unsent is None:
            return 0
        size = PyBytes_GET_SIZE(self.unsent) - self.unsent_from
        rest = PyBytes_AS_STRING(self.unsent) + self.unsent_from
        sent = self.send_parts(rest, size)
        if sent < 0:
            return 0
        self.unsent_from += sent
        if sent == size:
            self.unsent = None
            self.close_if_finished()
            self.process_unread()
        return 0

    # Closing.

    cdef int close_if_finished(self) except -1:
        """Close the connection if it is FINISHING and everything has been sent."""
        if self.state == IDLE and self.lane.draining and self.unread is None:
            self.state = FINISHING
        if self.state != FINISHING or self.unsent is not None:
            return 0
        if self.general is None:
            # The fast lane reads whole requests only: no unread bytes in the socket can cause a reset.
            return self.close_now() if self.sent <= UNACKNOWLEDGED_MAX else self.close_when_acknowledged()
        # Bytes that are unread when a socket is closed, or arrive later, cause a reset, and the peer may lose the last
        # response (RFC 9112 §9.6). So shut down the sending side, and read until the peer has closed.
        shutdown(self.fd, SHUT_WR)
        self.state = LINGERING
        self.deadline_ns = monotonic_ns() + LINGER_NS
        return 0

    cdef bint has_acknowledged_all(self) noexcept:
        """Return whether the peer has acknowledged the responses, except UNACKNOWLEDGED_MAX bytes."""
        return queued_bytes(self.fd) <= UNACKNOWLEDGED_MAX

    cdef int close_when_acknowledged(self) except -1:
        """Close as soon as the peer has acknowledged its responses.

        Otherwise the kernel would keep them for minutes, charged to NMI, while the slot would be free for the next such
        connection. `deadlines` closes the connection.
        """
        if self.state == CLOSED or self.state == LEAVING:
            return 0
        if self.sent <= UNACKNOWLEDGED_MAX or self.has_acknowledged_all():
            return self.close_now()
        self.end_hold()
        if self.registered:
            epoll_ctl(self.lane.epoll, EPOLL_CTL_DEL, self.fd, NULL)
        shutdown(self.fd, SHUT_WR)
        self.state = LEAVING
        self.deadline_ns = monotonic_ns() + self.lane.write_ns
        self.unread = self.unsent = None
        self.record = None
        self.due = None
        return self.queue_disconnect()

    cdef int arm(self) except -1:
        """Register the events that the connection waits for. epoll always reports errors and hang-ups.

        The registration is edge-triggered: epoll reports an event once and does not check the connection again in each
        turn. A registration reports events that have already happened, and every obstacle to reading changes the set of
        registered events.
        """
        cdef epoll_event event
        cdef uint32_t wanted = EPOLLET
        if self.state == CLOSED or self.state == LEAVING or self.busy:
            return 0
        if self.unsent is not None:
            wanted |= EPOLLOUT
        elif self.state != HELD and self.unread is None:
            wanted |= EPOLLIN | EPOLLRDHUP
        if self.state == HELD and not self.peer_gone_notified:
            wanted |= EPOLLRDHUP
        if self.registered and wanted == self.armed:
            return 0
        event.events = wanted
        event.data.u64 = (<uint64_t>self.serial << 32) | self.number
        if epoll_ctl(self.lane.epoll, EPOLL_CTL_MOD if self.registered else EPOLL_CTL_ADD, self.fd, &event) != 0:
            self.close_now()  # ENOMEM or ENOSPC: the connection would get no further event
            return 0
        self.registered = True
        self.armed = wanted
        return 0

    cdef int close_now(self) except -1:
        """Close the descriptor now. The general lane is notified at the end of the turn, never inside its own call."""
        if self.state == CLOSED:
            return 0
        self.end_hold()
        self.state = CLOSED
        close_fd(self.fd)
        self.fd = -1
        self.unread = self.unsent = None
        self.record = None
        self.due = None
        self.leave_lane()
        if self.general is not None:
            self.queue_disconnect()
        return 0

    cdef int reset(self) except -1:
        """Close with a reset, so that the kernel frees the buffers of the connection."""
        if self.state != CLOSED:
            reset_at_close(self.fd)
        return self.close_now()

    cdef int leave_lane(self) except -1:
        """Remove the closed connection from the lane, and release its slot."""
        cdef Peer peer = self.holder
        if self.preceding is not None:
            self.preceding.following = self.following
        else:
            peer.first = self.following
        if self.following is not None:
            self.following.preceding = self.preceding
        self.preceding = self.following = None
        self.lane.connections[self.number] = None
        self.lane.free_numbers.append(self.number)
        self.lane.open -= 1
        return self.lane.slots.release(peer)

    cdef int queue_disconnect(self) except -1:
        if self.general is not None:
            self.lane.disconnects.put(self.general, self.lane.turning)
            self.general = None
        return 0
