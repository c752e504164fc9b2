"""One accepted connection: what it reads, who answers, what it sends, how it ends.

Its bytes go the fast way while no request is pending on it: a complete ordinary head (`scan`), a query of known fields
(`query`), a known address whose record holds a fresh answer (`index`): that answer is sent. At the first byte where any
of this does not hold, the connection is handed over: the general lane gets every byte from there on until it says
`resume`. Part of a head is handed over, too, and not kept here. It costs such a request some microseconds, and it saves
a second place where fragments are gathered, limited and scanned again with each byte that arrives.

Accepting, deadlines and turns are `lane`'s; of it, a connection knows only what `Owner` declares.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from _native.answers cimport ReadyAnswer
from _native.clock cimport monotonic_ns
from _native.index cimport PodRecord
from _native.redirects cimport redirected_from
from _native.scan cimport DONE, Head, scan_head, to_blank_line
from _native.sockets cimport *

from typing import Protocol

cdef enum:
    NOTHING = 0                # no events: epoll is to be asked anew, whatever it was asked before
    REQUESTS_PER_TURN = 32     # of one connection, before the others have theirs
    NARROW_READ = 2 * 1024     # bytes per recv of a connection that is narrow: a few requests
    NARROW_SEND = 2 * 1024
    NARROW_REQUESTS = 2        # in place of REQUESTS_PER_TURN
    UNACKNOWLEDGED_MAX = 8 * 1024  # bytes of answers that may be on their way to a peer when its connection is closed
    LINGER_BYTES = 256 * 1024  # read and thrown away after the last answer, so that closing does not reset it away


class GeneralLane(Protocol):
    def data_received(self, data: bytes) -> None: ...
    def peer_gone(self) -> None: ...
    def connection_lost(self) -> None: ...


cdef class Owner:
    cdef int enqueue(self, Connection connection) except -1:
        """Call its go_on() when its peer's turn comes, if it has unread bytes or is FRESH."""
        raise NotImplementedError

    cdef int set_held(self, Connection connection, bint held) except -1:
        """It is HELD from now on, or no longer."""
        raise NotImplementedError

    cdef int remove(self, Connection connection) except -1:
        """It is closed: its place is free."""
        raise NotImplementedError

    cdef int queue_disconnect(self, object general) except -1:
        """Call general.connection_lost() when no call into or out of a general lane is on the stack."""
        raise NotImplementedError


@cython.final
@cython.freelist(64)
cdef class Peer:
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

    # What the general lane may call.

    @property
    def peer(self):
        return dotted(self.holder.address)

    @property
    def open(self):
        return self.is_open()

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
            self.owner.set_held(self, True)
            self.deadline_ns = 0
            self.arm()

    def resume(self):
        if self.state != HELD and self.state != HANDED_OVER:
            return
        self.end_hold()
        self.state = IDLE
        self.handed = 0
        self.deadline_ns = monotonic_ns() + self.owner.idle_ns
        if not self.busy:
            self.owner.enqueue(self)
            self.close_if_finished()
            self.arm()

    cdef int end_hold(self) except -1:
        if self.state == HELD:
            self.owner.set_held(self, False)
        return 0

    cdef bint is_open(self) noexcept:
        return self.state != CLOSED and self.state < FINISHING

    # What the owner calls.

    cdef int begin(self, Owner owner, int fd, object peer_key, uint32_t number, uint32_t serial) except -1:
        """Take over *fd*, which was accepted just now."""
        self.owner = owner
        self.fd = fd
        self.peer_key = peer_key
        self.number = number
        self.serial = serial
        self.state = FRESH
        self.deadline_ns = monotonic_ns() + owner.first_byte_ns
        return 0

    cdef int on_events(self, uint32_t events) except -1:
        if events & EPOLLERR:  # reset: the kernel has dropped what it held
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
            # What is still there, or an end that came together with what was read, would not be told again.
            if self.read() or events & EPOLLRDHUP:
                self.armed = NOTHING
        self.arm()
        return 0

    cdef bint read(self) except -1:
        """Read once, if nothing is in the way; whether there may be more."""
        cdef Py_ssize_t size
        cdef Py_ssize_t most = NARROW_READ if self.narrow else READ_MAX
        if self.state == CLOSED or self.state == HELD or self.state == FINISHING or self.state == LEAVING:
            return 0
        if self.unsent is not None or self.unread is not None:  # no reading ahead of what waits already
            return 0
        size = recv(self.fd, self.owner.inbox, <size_t>most, MSG_DONTWAIT)
        if size < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if size <= 0:
            # An end here is an end between requests or in the midst of one: no answer is due in either case.
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
            self.consume(self.owner.inbox, size)
        return size == most

    cdef int process_unread(self) except -1:
        """Look at what was left unread, if nothing is in the way any more, or for the first time."""
        cdef bytes data = self.unread
        if self.state == FRESH:
            return self.read()
        if data is None or self.unsent is not None or (self.state != IDLE and self.state != HANDED_OVER):
            return 0
        self.unread = None
        return self.consume(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int consume(self, const unsigned char *data, Py_ssize_t size) except -1:
        """Answer the requests in *data* in their order, or hand them over; keep what has to wait."""
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t length
        cdef int count = 0
        cdef int most = NARROW_REQUESTS if self.narrow else REQUESTS_PER_TURN
        self.busy = True
        try:
            while at < size:
                if self.state == HANDED_OVER:
                    if self.holder.served == self.owner.turn:
                        break
                    self.holder.served = self.owner.turn
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
                    if not self.answer_fast(data, size, &at):
                        self.hand_over()
            self.flush_buffered()
        finally:
            self.busy = False
            self.owner.buffered = 0
        if at < size and self.is_open():
            self.unread = PyBytes_FromStringAndSize(<const char *>data + at, size - at)
            if self.unsent is None and self.state != HELD:
                self.owner.enqueue(self)
        self.close_if_finished()
        return 0

    cdef bint answer_fast(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t *at) except -1:
        """Answer the request that stands at *at*, which moves on; False if it is not for the fast lane."""
        cdef Owner owner = self.owner
        cdef int64_t begun = monotonic_ns()
        cdef Head head
        cdef PodRecord record
        cdef ReadyAnswer answer
        cdef const char *text
        cdef Py_ssize_t length = 0
        cdef bint close
        if scan_head(data + at[0], size - at[0], &head) != DONE or (owner.require_metadata and not head.metadata):
            return False
        if self.looked_up != owner.index.version:
            self.record = owner.index.record_of(self.peer_key)
            self.looked_up = owner.index.version
        record = self.record
        if record is None or record.suspended or owner.index.suspended:
            return False
        answer = record.find_answer(data + at[0] + head.query.start, head.query.stop - head.query.start, begun)
        if answer is None:
            return False
        at[0] += head.size
        close = head.close or owner.draining
        if at[0] >= size and owner.buffered == 0 and not close:
            self.state = IDLE
            self.send_later(answer, begun)
            return True
        text = answer.written(begun, close, &length)
        if at[0] >= size and owner.buffered == 0:
            self.send_bytes(text, length)
        else:
            self.buffer_answer(text, length)
        self.record_answer(answer, begun, close)
        return True

    cdef int send_later(self, ReadyAnswer answer, int64_t since) except -1:
        """Send it at the end of the turn: reading and sending each keep the kernel's code for it in the cache."""
        cdef Owner owner = self.owner
        self.due = answer
        self.due_since = since
        if owner.last_due is None:
            owner.first_due = self
        else:
            owner.last_due.next_due = self
        owner.last_due = self
        return 0

    cdef int send_due(self) except -1:
        cdef ReadyAnswer answer = self.due
        cdef const char *text
        cdef Py_ssize_t length = 0
        if answer is None:  # closed since its request was read
            return 0
        self.due = None
        text = answer.written(self.due_since, False, &length)
        self.send_bytes(text, length)
        self.record_answer(answer, self.due_since, False)
        self.close_if_finished()
        return self.arm()

    cdef int record_answer(self, ReadyAnswer answer, int64_t since, bint close) except -1:
        cdef int64_t done
        if self.state != CLOSED:
            done = monotonic_ns()
            answer.series.record(done - since)
            answer.usage.note(done)
            self.owner.fast_answers += 1
            self.state = FINISHING if close else IDLE
            self.deadline_ns = 0 if close else done + self.owner.idle_ns
        return 0

    cdef int hand_over(self) except -1:
        self.flush_buffered()  # the general lane's answer comes after these
        if self.state == CLOSED:
            return 0
        self.state = HANDED_OVER
        self.deadline_ns = monotonic_ns() + self.owner.head_ns
        self.owner.handed_over += 1
        if self.general is None:
            general = self.owner.general(self)
            if self.state == CLOSED:  # while it was made
                self.owner.queue_disconnect(general)
                return 0
            self.general = general
        return 0

    cdef int notify_peer_gone(self) except -1:
        if self.state == HELD and not self.peer_gone_notified:
            self.peer_gone_notified = True
            self.general.peer_gone()
        return 0

    # Sending.

    cdef int buffer_answer(self, const char *data, Py_ssize_t size) except -1:
        """Send *data* together with the answers beside it: one segment, not one each."""
        cdef Owner owner = self.owner
        if owner.buffered + size > owner.buffer_bytes:
            self.flush_buffered()
        if self.state != CLOSED:
            memcpy(owner.outbox + owner.buffered, data, <size_t>size)
            owner.buffered += size
        return 0

    cdef int flush_buffered(self) except -1:
        cdef Py_ssize_t size = self.owner.buffered
        self.owner.buffered = 0
        if size and self.state != CLOSED:
            self.send_bytes(self.owner.outbox, size)
        return 0

    cdef int send_bytes(self, const char *data, Py_ssize_t size) except -1:
        """Send what the socket takes at once and keep the rest."""
        cdef Py_ssize_t sent
        if self.unsent is not None:
            self.unsent = self.unsent[self.unsent_from:] + data[:size]
            self.unsent_from = 0
            return 0
        if size <= self.owner.part_bytes and not self.narrow:
            sent = send(self.fd, data, <size_t>size, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_EOR)
            if sent == size:
                self.sent += sent
                self.owner.sent += sent
                return 0
            if sent > 0:
                self.sent += sent
                self.owner.sent += sent
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
        self.write_deadline_ns = monotonic_ns() + self.owner.write_ns
        return 0

    cdef Py_ssize_t send_parts(self, const char *data, Py_ssize_t size) except -2:
        """How much of it the socket takes now; -1 if the connection is closed.

        Part by part, each a record of its own (MSG_EOR): the kernel looks at what is in the send buffer for a new
        segment only, and otherwise takes up to 64 KiB more. And a peer that gets a buffer's content as one segment may
        wait 40 ms before it acknowledges (RFC 1122 §4.2.3.2).
        """
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t sent, part
        cdef Py_ssize_t most = NARROW_SEND if self.narrow else self.owner.part_bytes
        while done < size:
            part = min(size - done, most)
            sent = send(self.fd, data + done, <size_t>part, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_EOR)
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.close_now()
                    return -1
                break
            done += sent
            if sent < part:
                break
        self.sent += done
        self.owner.sent += done
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

    # Ending.

    cdef int close_if_finished(self) except -1:
        """If this is finishing and all is sent, end it."""
        if self.state == IDLE and self.owner.draining and self.unread is None:
            self.state = FINISHING
        if self.state != FINISHING or self.unsent is not None:
            return 0
        if self.general is None:
            # The fast lane reads whole requests only: nothing is left in the socket that would reset it.
            return self.close_now() if self.sent <= UNACKNOWLEDGED_MAX else self.close_when_acknowledged()
        # Bytes that are unread when a socket is closed, or come later, reset it, and the peer may lose our last answer
        # (RFC 9112 §9.6). So shut our side, and read until the peer has shut its own.
        shutdown(self.fd, SHUT_WR)
        self.state = LINGERING
        self.deadline_ns = monotonic_ns() + LINGER_NS
        return 0

    cdef bint has_acknowledged_all(self) noexcept:
        """Whether the peer has acknowledged all answers but what may be on its way."""
        cdef uint32_t[MEMINFO_VARS] values
        return not kernel_memory(self.fd, values) or values[QUEUED] <= UNACKNOWLEDGED_MAX

    cdef int close_when_acknowledged(self) except -1:
        """Close, but not before the peer has taken its answers: the kernel would hold them, on our account and for
        minutes, and the place would already be free for the next connection of that kind. `deadlines` sees to the rest.
        """
        if self.state == CLOSED or self.state == LEAVING:
            return 0
        if self.sent <= UNACKNOWLEDGED_MAX or self.has_acknowledged_all():
            return self.close_now()
        self.end_hold()
        if self.registered:
            epoll_ctl(self.owner.epoll, EPOLL_CTL_DEL, self.fd, NULL)
        shutdown(self.fd, SHUT_WR)
        self.state = LEAVING
        self.deadline_ns = monotonic_ns() + self.owner.write_ns
        self.unread = self.unsent = None
        self.record = None
        self.due = None
        return self.queue_disconnect()

    cdef int arm(self) except -1:
        """Ask epoll for what this connection waits for now. Errors and full hang-ups are reported always.

        Edges are asked for: what has happened is told once, and epoll need not look at each connection again a turn
        later. Asking tells what is so already, and whatever was in the way of reading changes what is asked for.
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
        if epoll_ctl(self.owner.epoll, EPOLL_CTL_MOD if self.registered else EPOLL_CTL_ADD, self.fd, &event) != 0:
            self.close_now()  # ENOMEM or ENOSPC: it could never be served again
            return 0
        self.registered = True
        self.armed = wanted
        return 0

    cdef int close_now(self) except -1:
        """Close the descriptor now. The general lane hears of it when the turn ends, never inside a call of its own."""
        if self.state == CLOSED:
            return 0
        self.end_hold()
        self.state = CLOSED
        close_fd(self.fd)
        self.fd = -1
        self.unread = self.unsent = None
        self.record = None
        self.due = None
        self.owner.remove(self)
        if self.general is not None:
            self.queue_disconnect()
        return 0

    cdef int reset(self) except -1:
        """Close with a reset, so that the kernel drops what it holds for the connection."""
        cdef linger now
        now.l_onoff, now.l_linger = 1, 0
        if self.state != CLOSED:
            setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(linger))
        return self.close_now()

    cdef int queue_disconnect(self) except -1:
        if self.general is not None:
            self.owner.queue_disconnect(self.general)
            self.general = None
        return 0
