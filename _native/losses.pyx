"""Telling general lanes that their connection has ended, and the log that something of ours failed on one."""

cimport cython
from libc.stdint cimport int64_t

from _native.clock cimport NANOSECONDS, monotonic_ns

import logging

log = logging.getLogger(__name__)

cdef int64_t QUIET_NS = 60 * <int64_t>NANOSECONDS  # between two log lines: a peer may cause many


@cython.final
cdef class Losses:
    def __init__(self):
        self.untold = []

    cdef int tell_all(self) except -1:
        """Tell everybody, one after the other and never within each other."""
        if not self.untold or self.telling:
            return 0
        self.telling = True
        try:
            while self.untold:
                general = self.untold.pop()
                try:
                    general.connection_lost()
                except BaseException as error:
                    self.note_failure("", error)
        finally:
            self.telling = False
        return 0

    cdef int note_failure(self, str peer, object error) except -1:
        """Count it and, if the log has been quiet for a while, tell of it. Raises what is meant for the program."""
        cdef int64_t now = monotonic_ns()
        self.failed += 1
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        if self.logged_ns and now - self.logged_ns < QUIET_NS:
            return 0
        self.logged_ns = now
        log.error(
            "closed a connection because its handler failed; this is a defect of ours, please report the traceback",
            exc_info=error,
            extra={"peer": peer, "count": self.failed},
        )
        return 0
