"""The deadlines of connections: a periodic pass closes late ones, so that short connections need no timer."""

cimport cython
from libc.stdint cimport int64_t

from _native.clock cimport monotonic_ns
from _native.connection cimport (
    CLOSED, FINISHING, FRESH, HANDED_OVER, IDLE, LEAVING, LINGERING, Connection, State,
)

cdef enum:
    CLOSES_MAX = 128  # at 8 us each; thousands of connections of a peer may reach their deadline at the same time


cdef State late_state(Connection connection, int64_t now_ns) noexcept:
    """Return the state in which the peer was too slow: FINISHING if it reads no responses, CLOSED if it was not slow.

    While received bytes wait here, only the deadline for writing counts: then the lane is slow, not the peer.
    """
    if connection.unsent is not None and now_ns >= connection.write_deadline_ns:
        return FINISHING
    if connection.deadline_ns != 0 and now_ns >= connection.deadline_ns and connection.unread is None:
        return connection.state
    return CLOSED


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
        """Close the late connections, CLOSES_MAX at most. Return whether the pass reached the end of the list.

        *connections* may contain None. A pass over 8,192 takes 0.1 ms.
        """
        cdef int64_t now = monotonic_ns()
        cdef Connection connection
        cdef State state
        cdef int closed = 0
        while self.at < len(connections):
            slot = connections[self.at]
            self.at += 1
            if slot is None:
                continue
            connection = <Connection>slot
            state = late_state(connection, now)
            if state == CLOSED:
                if connection.state == LEAVING and connection.has_acknowledged_all():
                    connection.close_now()
                continue
            self.count(state)
            if state == FINISHING or state == LEAVING or state == LINGERING:
                connection.reset()  # the peer does not read: without a reset the kernel would keep the buffers
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
        return 0  # the end of LINGERING is not the peer's fault
