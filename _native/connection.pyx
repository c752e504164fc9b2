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

from _native.answers cimport ANSWER_MAX, ReadyAnswer
from _native.clock cimport NANOSECONDS, monotonic_ns
from _native.index cimport PodRecord
from _native.query cimport Query, read_query
from _native.scan cimport DONE, Head, scan_head
from _native.sockets cimport *

from typing import Protocol

cdef enum:
    REQUESTS_PER_TURN = 32     # of one connection, before the others have theirs
    LINGER_BYTES = 256 * 1024  # read and thrown away after the last answer, so that closing does not reset it away

cdef int64_t LINGER_NS = NANOSECONDS   # a peer on the same node has read its answer by then


class GeneralLane(Protocol):
    def data_received(self, data: bytes) -> None: ...
    def peer_gone(self) -> None: ...
    def connection_lost(self) -> None: ...


cdef class Owner:
    cdef int later(self, Connection connection) except -1:
        """Call its go_on() in a turn of its own, if it has unread bytes."""
        raise NotImplementedError

    cdef int forget(self, Connection connection) except -1:
        """It is closed: its place is free."""
        raise NotImplementedError

    cdef int tell_lost(self, object general) except -1:
        """Call general.connection_lost() when no call into or out of a general lane is on the stack."""
        raise NotImplementedError


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
        return dotted(self.peer_key)

    @property
    def open(self):
        return self.is_open()

    def original_destination(self):
        cdef sockaddr_in meant, local
        cdef socklen_t size = sizeof(sockaddr_in)
        if self.fd < 0 or getsockopt(self.fd, IPPROTO_IP, SO_ORIGINAL_DST, &meant, &size) != 0:
            return None  # ENOENT: connection tracking knows nothing of it, so nothing was rewritten
        size = sizeof(sockaddr_in)
        if getsockname(self.fd, <sockaddr *>&local, &size) != 0:
            return None
        if meant.sin_addr.s_addr == local.sin_addr.s_addr and meant.sin_port == local.sin_port:
            return None
        return dotted(meant.sin_addr.s_addr), ntohs(meant.sin_port)

    def write(self, bytes data not None):
        if self.is_open():
            self.send_bytes(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            self.arm()

    def finish(self):
        if not self.is_open():
            return
        self.state = FINISHING
        self.deadline_ns = 0
        self.unread = None
        if not self.busy:
            self.settle()
            self.arm()

    def pause(self):
        if self.state == HANDED_OVER:
            self.state = HELD
            self.deadline_ns = 0
            self.arm()

    def resume(self):
        if self.state != HELD and self.state != HANDED_OVER:
            return
        self.state = IDLE
        self.deadline_ns = monotonic_ns() + self.owner.idle_ns
        if not self.busy:
            self.owner.later(self)
            self.settle()
            self.arm()

    cdef bint is_open(self) noexcept:
        return self.state != CLOSED and self.state != FINISHING and self.state != LINGERING

    # What the owner calls.

    cdef int begin(self, Owner owner, int fd, object peer_key, uint32_t slot, uint32_t serial) except -1:
        """Take over *fd*, which was accepted just now."""
        self.owner = owner
        self.fd = fd
        self.peer_key = peer_key
        self.slot = slot
        self.serial = serial
        self.state = FRESH
        self.deadline_ns = monotonic_ns() + owner.first_byte_ns
        return 0

    cdef int on_events(self, uint32_t events) except -1:
        if events & (EPOLLERR | EPOLLHUP):  # reset, or both sides are shut: nothing more can be sent
            self.tell_peer_left()
            self.shut()
            return 0
        if events & EPOLLRDHUP and self.state == HELD:
            self.tell_peer_left()
        if events & EPOLLOUT:
            self.send_rest()
        if events & EPOLLIN:
            self.read()
        self.arm()
        return 0

    cdef int read(self) except -1:
        cdef Py_ssize_t size
        if self.state == CLOSED or self.state == HELD or self.state == FINISHING:
            return 0
        if self.unsent is not None or self.unread is not None:  # no reading ahead of what waits already
            return 0
        size = recv(self.fd, self.owner.inbox, READ_MAX, MSG_DONTWAIT)
        if size < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if size <= 0:
            # An end here is an end between requests or in the midst of one: no answer is due in either case.
            self.shut()
            return 0
        if self.state == LINGERING:
            self.thrown_away += size
            if self.thrown_away > LINGER_BYTES:
                self.shut()
            return 0
        return self.consume(self.owner.inbox, size)

    cdef int go_on(self) except -1:
        """Look at what was left unread, if nothing is in the way any more."""
        cdef bytes data = self.unread
        if data is None or self.unsent is not None or (self.state != IDLE and self.state != HANDED_OVER):
            return 0
        self.unread = None
        return self.consume(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int consume(self, const unsigned char *data, Py_ssize_t size) except -1:
        """Answer the requests in *data* in their order, or hand them over; keep what has to wait."""
        cdef Py_ssize_t at = 0
        cdef int answered = 0
        self.busy = True
        try:
            while at < size:
                if self.state == HANDED_OVER:
                    rest = PyBytes_FromStringAndSize(<const char *>data + at, size - at)
                    at = size
                    self.general.data_received(rest)
                elif self.state != IDLE and self.state != FRESH:
                    break
                elif answered == REQUESTS_PER_TURN or self.unsent is not None:
                    break
                else:
                    answered += 1
                    if not self.answer_fast(data, size, &at):
                        self.hand_over()
            self.flush_joined()
        finally:
            self.busy = False
            self.owner.joined = 0
        if at < size and self.is_open():
            self.unread = PyBytes_FromStringAndSize(<const char *>data + at, size - at)
            if self.unsent is None and self.state != HELD:
                self.owner.later(self)
        self.settle()
        return 0

    cdef bint answer_fast(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t *at) except -1:
        """Answer the request that stands at *at*, which moves on; False if it is not for the fast owner."""
        cdef Owner owner = self.owner
        cdef int64_t begun = monotonic_ns()
        cdef int64_t done
        cdef Head head
        cdef Query query
        cdef PodRecord record
        cdef ReadyAnswer answer
        cdef const char *text
        cdef Py_ssize_t length = 0
        cdef bint close
        if scan_head(data + at[0], size - at[0], &head) != DONE or (owner.require_metadata and not head.metadata):
            return False
        if not read_query(data + at[0] + head.query.start, head.query.stop - head.query.start, &query):
            return False
        record = owner.index.of(self.peer_key)
        if record is None or record.suspended or owner.index.suspended:
            return False
        answer = record.lookup(&query, begun)
        if answer is None:
            return False
        at[0] += head.size
        close = head.close or owner.draining
        text = answer.written(begun, close, &length)
        if at[0] >= size and owner.joined == 0:
            self.send_bytes(text, length)
        else:
            self.join(text, length)
        if self.state != CLOSED:
            done = monotonic_ns()
            answer.series.record(done - begun)
            answer.usage.note(done)
            owner.fast_answers += 1
            self.state = FINISHING if close else IDLE
            self.deadline_ns = 0 if close else done + owner.idle_ns
        return True

    cdef int hand_over(self) except -1:
        self.flush_joined()  # the general lane's answer comes after these
        if self.state == CLOSED:
            return 0
        self.state = HANDED_OVER
        self.deadline_ns = monotonic_ns() + self.owner.head_ns
        self.owner.handed_over += 1
        if self.general is None:
            general = self.owner.general(self)
            if self.state == CLOSED:  # while it was made
                self.owner.tell_lost(general)
                return 0
            self.general = general
        return 0

    cdef int tell_peer_left(self) except -1:
        if self.state == HELD and not self.peer_left:
            self.peer_left = True
            self.general.peer_gone()
        return 0

    # Sending.

    cdef int join(self, const char *data, Py_ssize_t size) except -1:
        """Send *data* together with the answers beside it: one segment, not one each."""
        cdef Owner owner = self.owner
        if owner.joined + size > ANSWER_MAX:
            self.flush_joined()
        if self.state != CLOSED:
            memcpy(owner.outbox + owner.joined, data, <size_t>size)
            owner.joined += size
        return 0

    cdef int flush_joined(self) except -1:
        cdef Py_ssize_t size = self.owner.joined
        self.owner.joined = 0
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
        sent = send(self.fd, data, <size_t>size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent == size:
            return 0
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                self.shut()
                return 0
            sent = 0
        self.unsent = PyBytes_FromStringAndSize(data + sent, size - sent)
        self.unsent_from = 0
        self.write_deadline_ns = monotonic_ns() + self.owner.write_ns
        return 0

    cdef int send_rest(self) except -1:
        cdef Py_ssize_t sent, size
        cdef const char *rest
        if self.unsent is None:
            return 0
        size = PyBytes_GET_SIZE(self.unsent) - self.unsent_from
        rest = PyBytes_AS_STRING(self.unsent) + self.unsent_from
        sent = send(self.fd, rest, <size_t>size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                self.shut()
            return 0
        self.unsent_from += sent
        if sent == size:
            self.unsent = None
            self.settle()
            self.go_on()
        return 0

    # Ending.

    cdef bint is_late(self, int64_t now_ns) noexcept:
        if self.unsent is not None and now_ns >= self.write_deadline_ns:
            return True
        return self.deadline_ns != 0 and now_ns >= self.deadline_ns

    cdef int shut_if_idle(self) except -1:
        """Close it now unless something is owed to its peer."""
        cdef char byte = 0
        if self.unread is not None or self.unsent is not None:
            return 0
        if self.state == LINGERING:
            self.shut()
        elif self.state == FRESH or self.state == IDLE:
            # A request that has arrived and was not read yet is pending, too.
            if recv(self.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0:
                self.shut()
        return 0

    cdef int settle(self) except -1:
        """If this is finishing and all is sent, end it."""
        if self.state == IDLE and self.owner.draining and self.unread is None:
            self.state = FINISHING
        if self.state != FINISHING or self.unsent is not None:
            return 0
        if self.general is None:
            self.shut()  # the fast lane reads whole requests only: nothing is left in the socket that would reset it
            return 0
        # Bytes that are unread when a socket is closed, or come later, reset it, and the peer may lose our last answer
        # (RFC 9112 §9.6). So shut our side, and read until the peer has shut its own.
        shutdown(self.fd, SHUT_WR)
        self.state = LINGERING
        self.deadline_ns = monotonic_ns() + LINGER_NS
        return 0

    cdef int arm(self) except -1:
        """Ask epoll for what this connection waits for now. Errors and full hang-ups are reported always."""
        cdef epoll_event event
        cdef uint32_t wanted = 0
        if self.state == CLOSED or self.busy:
            return 0
        if self.unsent is not None:
            wanted = EPOLLOUT
        elif self.state != HELD and self.unread is None:
            wanted = EPOLLIN
        if self.state == HELD and not self.peer_left:
            wanted |= EPOLLRDHUP
        if self.registered and wanted == self.armed:
            return 0
        event.events = wanted
        event.data.u64 = (<uint64_t>self.serial << 32) | self.slot
        if epoll_ctl(self.owner.epoll, EPOLL_CTL_MOD if self.registered else EPOLL_CTL_ADD, self.fd, &event) != 0:
            self.shut()  # ENOMEM or ENOSPC: it could never be served again
            return 0
        self.registered = True
        self.armed = wanted
        return 0

    cdef int shut(self) except -1:
        """Close the descriptor now. The general lane hears of it when the turn ends, never inside a call of its own."""
        if self.state == CLOSED:
            return 0
        self.state = CLOSED
        close_fd(self.fd)
        self.fd = -1
        self.unread = self.unsent = None
        self.owner.forget(self)
        if self.general is not None:
            self.owner.tell_lost(self.general)
            self.general = None
        return 0
