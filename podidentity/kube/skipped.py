"""Objects that a program skips because it cannot decode or handle them: counted, logged and reported in Events.

Tenants write these objects, and every NMI of the cluster may see the same one. Each program reports each version of an
object once, with a limit per hour, and counts the rest in a metric.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from podidentity.kube.decoding import Malformed, TooDeep, TooLarge, TooLong
from podidentity.kube.object_reports import EVENTS, LINES, ObjectReports, Record, ReportedVersions
from podidentity.resources import BareMeta, Kind, Resource

log = logging.getLogger(__name__)

Reason = Literal["size", "depth", "unreadable", "limits", "handler"]
"""`size`: too large; `depth`: nested too deep; `unreadable`: not JSON or other field types than the kind's; `limits`: a
field over its limit; `handler`: an exception of the program's handler.
"""
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

OMISSION: Final = "more skipped objects than are logged individually; see the metric objects_skipped_total"
TRACEBACKS_MAX: Final = 32
EVENT_REASON: Final = "ObjectSkipped"


class SkippedObjects:
    """Skipped objects of one program. `report` never blocks and never raises."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._counts: Counter[tuple[str, Reason]] = Counter()
        self.counts: Mapping[tuple[str, Reason], int] = MappingProxyType(self._counts)
        """By the kind's plural name and reason; a live view."""
        self._reports = ObjectReports(lines=LINES, events=EVENTS, omission=OMISSION, clock=clock)
        self._reported = ReportedVersions()
        self._traced: set[tuple[str, str]] = set()

    def record_with(self, record: Record) -> None:
        """Write Events with *record* from now on."""
        self._reports.record_with(record)

    def report(self, kind: Kind[Any], meta: BareMeta, error: Exception) -> None:
        """Report that an object of *kind* is skipped because of *error*."""
        reason = reason_of(error)
        self._counts[kind.plural, reason] += 1
        if not self._reported.add(kind, meta):
            return
        if self._reports.may_log(meta.namespace):
            self._log(kind, meta, reason, error)
        self._reports.warn(meta.namespace, Resource(metadata=meta), kind, EVENT_REASON, _message(kind, reason, error))

    def _log(self, kind: Kind[Any], meta: BareMeta, reason: Reason, error: Exception) -> None:
        fields = {"resource": f"{kind.plural} {meta.namespace}/{meta.name}", "reason": reason, "error": error}
        if reason != "handler":
            log.warning("object skipped and treated as absent; correct or delete it", extra=fields)
            return
        where = (type(error).__name__, kind.plural)
        # One traceback for each class and kind, because an author could cause one with each object.
        fresh = where not in self._traced and len(self._traced) < TRACEBACKS_MAX
        self._traced.add(where)
        log.error(
            "object skipped and treated as absent because handling it failed; report this line as a bug",
            extra={**fields, "error": f"{type(error).__name__}: {error}"},
            exc_info=error if fresh else None,
        )


def reason_of(error: Exception) -> Reason:
    """Return the reason under which *error* is counted."""
    match error:
        case TooDeep():
            return "depth"
        case TooLarge():
            return "size"
        case TooLong():
            return "limits"
        case Malformed():
            return "unreadable"
        case _:
            return "handler"


def _message(kind: Kind[Any], reason: Reason, error: Exception) -> str:
    cause = "handling it failed (see the log)" if reason == "handler" else str(error)
    return f"This {kind.name} is ignored and treated as absent: {cause}"
