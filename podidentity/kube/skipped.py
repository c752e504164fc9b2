"""Objects that a program skips because it cannot decode or handle them: counted, logged and reported in Events.

Tenants write these objects, and every NMI of the cluster may see the same one. Each program reports each version of an
object once, with a limit per hour, and counts the rest in a metric.
"""

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from podidentity.kube.decoding import Malformed, TooDeep, TooLarge, TooLong
from podidentity.resources import BareMeta, Kind, Resource
from podidentity.telemetry.token_bucket import SharedTokenBucket

log = logging.getLogger(__name__)

Reason = Literal["size", "depth", "unreadable", "limits", "handler"]
"""`size`: too large; `depth`: nested too deep; `unreadable`: not JSON or other field types than the kind's; `limits`: a
field over its limit; `handler`: an exception of the program's handler.
"""
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

REMEMBERED_MAX: Final = 4096
"""Versions of objects whose reports are remembered."""
LINES_BURST: Final = 100.0
LINES_PER_SECOND: Final = 100 / 3600
EVENTS_BURST: Final = 20.0
EVENTS_PER_SECOND: Final = 20 / 3600
"""NMIs on 1,000 nodes may see the same objects: together they write 6 Events a second in the long run."""
NAMESPACE_SHARE: Final = 0.25
"""Part of the lines and Events for one namespace, so that one tenant cannot hide the objects of other tenants."""
TRACEBACKS_MAX: Final = 32
EVENT_REASON: Final = "ObjectSkipped"


Record = Callable[[Resource, Kind[Any], Literal["Normal", "Warning"], str, str], None]
"""`EventRecorder.record`."""


class SkippedObjects:
    """Skipped objects of one program. `report` never blocks and never raises."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._counts: Counter[tuple[str, Reason]] = Counter()
        self.counts: Mapping[tuple[str, Reason], int] = MappingProxyType(self._counts)
        """By the kind's plural name and reason; a live view."""
        self._record: Record | None = None
        self._reported: OrderedDict[tuple[str, str, str, str, str], None] = OrderedDict()
        self._traced: set[tuple[str, str]] = set()
        self._lines = SharedTokenBucket(LINES_PER_SECOND, LINES_BURST, NAMESPACE_SHARE, clock)
        self._events = SharedTokenBucket(EVENTS_PER_SECOND, EVENTS_BURST, NAMESPACE_SHARE, clock)
        self._silent = False

    def record_with(self, record: Record) -> None:
        """Write Events with *record* from now on."""
        self._record = record

    def report(self, kind: Kind[Any], meta: BareMeta, error: Exception) -> None:
        """Report that an object of *kind* is skipped because of *error*."""
        reason = reason_of(error)
        self._counts[kind.plural, reason] += 1
        version = (kind.plural, meta.namespace, meta.name, meta.uid, meta.resource_version)
        if version in self._reported:
            self._reported.move_to_end(version)
            return
        self._reported[version] = None
        while len(self._reported) > REMEMBERED_MAX:
            self._reported.popitem(last=False)
        self._log(kind, meta, reason, error)
        if self._record is not None and meta.name and self._events.take(meta.namespace):
            self._record(Resource(metadata=meta), kind, "Warning", EVENT_REASON, _told(kind, reason, error))

    def _log(self, kind: Kind[Any], meta: BareMeta, reason: Reason, error: Exception) -> None:
        if not self._lines.take(meta.namespace):
            if not self._silent:
                log.warning("more skipped objects than are logged individually; see the metric objects_skipped_total")
            self._silent = True
            return
        self._silent = False
        fields = {"resource": f"{kind.plural} {meta.namespace}/{meta.name}", "reason": reason, "error": error}
        if reason != "handler":
            log.warning("object skipped and treated as absent; correct or delete it", extra=fields)
            return
        where = (type(error).__name__, kind.plural)
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


def _told(kind: Kind[Any], reason: Reason, error: Exception) -> str:
    cause = "handling it failed (see the log)" if reason == "handler" else str(error)
    return f"This {kind.name} is ignored and treated as absent: {cause}"
