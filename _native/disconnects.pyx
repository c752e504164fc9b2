"""Notification of general lanes that their connection ended, and the log of their failures."""

cimport cython
from libc.stdint cimport int64_t

from _native.clock cimport NANOSECONDS, monotonic_ns

import logging

log = logging.getLogger(__name__)

cdef int64_t QUIET_NS = 60 * <int64_t>NANOSECONDS  # between two log lines: a peer may cause many


@cython.final
cdef class Disconnects:
    def __init__(self):
        self.pending = []

    cdef int put(self, object general, bint turning) except -1:
        """Call general.connection_lost() as soon as no call into or out of a general lane is on the stack.

        *turning*: a turn of the lane is on the stack, which ends with notify().
        """
        self.pending.append(general)
        if not turning and not self.notifying and not self.closed and len(self.pending) == 1:
            self.loop.call_soon(self._notify)
        return 0

    def _notify(self):
        self.notify()

    cdef int notify(self) except -1:
        if not self.pending:
            return 0
        try:
            self.notify_all()
        finally:
            if self.pending and not self.notifying:  # after an interrupt only
                self.loop.call_soon(self._notify)
        return 0

    cdef int notify_all(self) except -1:
        """Notify the pending general lanes one by one, never from within a notification."""
        if self.notifying:
            return 0
        self.notifying = True
        try:
            while self.pending:
                general = self.pending.pop()
                try:
                    general.connection_lost()
                except BaseException as error:
                    self.record_failure("", error)
        finally:
            self.notifying = False
        return 0

    cdef int record_failure(self, str peer, object error) except -1:
        """Count a failure and log it, once per QUIET_NS. Re-raise KeyboardInterrupt and SystemExit."""
        cdef int64_t now = monotonic_ns()
        self.failed += 1
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        if self.logged_ns and now - self.logged_ns < QUIET_NS:
            return 0
        self.logged_ns = now
        log.error(
            "connection closed because its handler failed; report this traceback, it is a defect in NMI",
            exc_info=error,
            extra={"peer": peer, "count": self.failed},
        )
        return 0
