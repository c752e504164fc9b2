"""Closing what is past its deadline: a walk now and then, which costs those nothing that do not live long."""

cimport cython
from libc.stdint cimport int64_t

from _native.clock cimport monotonic_ns
from _native.connection cimport (
    CLOSED, FINISHING, FRESH, HANDED_OVER, IDLE, LEAVING, LINGERING, Connection, State,
)

cdef enum:
    CLOSES_MAX = 128  # at 8 us each; a peer may have thousands of connections come to their deadline together


cdef State late_state(Connection each, int64_t now_ns) noexcept:
    """The state in which its peer was too slow, FINISHING if that is in reading its answers; CLOSED if none.

    No other deadline passes while bytes of the peer wait here: then it is we who are slow.
    """
    if each.unsent is not None and now_ns >= each.write_deadline_ns:
        return FINISHING
    return each.state if each.deadline_ns != 0 and now_ns >= each.deadline_ns and each.unread is None else CLOSED


@cython.final
cdef class Deadlines:
    def counters(self):
        return {
            "timed_out": self.first_byte + self.head + self.idle + self.write,
            "timed_out_first_byte": self.first_byte,
            "timed_out_head": self.head,
            "timed_out_idle": self.idle,
            "timed_out_write": self.write,
        }

    cdef bint close_late(self, list connections) except -1:
        """Close what is late among *connections* (None is nobody), up to CLOSES_MAX; whether the walk came to its end.

        A walk over 8,192 takes 0.1 ms.
        """
        cdef int64_t now = monotonic_ns()
        cdef Connection connection
        cdef State state
        cdef int closed = 0
        while self.at < len(connections):
            each = connections[self.at]
            self.at += 1
            if each is None:
                continue
            connection = <Connection>each
            state = late_state(connection, now)
            if state == CLOSED:
                if connection.state == LEAVING and connection.has_acknowledged_all():
                    connection.close_now()
                continue
            self.count(state)
            if state == FINISHING or state == LEAVING or state == LINGERING:
                connection.reset()  # it does not read, and what the kernel holds for it would stay
            else:
                connection.close_now()
            closed += 1
            if closed == CLOSES_MAX:
                return False
        self.at = 0
        return True

    cdef int count(self, State state) except -1:
        if state == FRESH:
            self.first_byte += 1
        elif state == HANDED_OVER:
            self.head += 1
        elif state == IDLE:
            self.idle += 1
        elif state == FINISHING or state == LEAVING:
            self.write += 1
        return 0  # lingering is ours to end
