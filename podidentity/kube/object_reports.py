"""Log lines and Events about objects that a program does not use, within limits.

Tenants write these objects, in any number. Each limit has a part for one group of objects (those of one namespace, for
example), so that one tenant cannot hide the reports about objects of other tenants.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from podidentity.resources import BareMeta, Kind, Resource
from podidentity.telemetry.log_limit import LogLimit
from podidentity.telemetry.token_bucket import SharedTokenBucket

GROUP_SHARE: Final = 0.25
"""Part of the lines and Events for one group."""

Record: TypeAlias = Callable[[Resource, Kind[Any], Literal["Normal", "Warning"], str, str], None]
"""`EventRecorder.record`."""


class Rate(NamedTuple):
    """Reports that may be made immediately, and per second in the long run."""

    burst: float
    per_second: float


LINES: Final = Rate(burst=100.0, per_second=100 / 3600)
EVENTS: Final = Rate(burst=20.0, per_second=20 / 3600)
"""For each sort of reports. NMIs on 1,000 nodes may see the same objects: together they write 6 Events a second of each
sort in the long run, 12 for skipped objects and ignored fields."""
REMEMBERED_MAX: Final = 4096
"""Versions of objects whose reports are remembered."""


class ReportedVersions:
    """Versions of objects that a program has reported, up to a limit: the least recent ones are forgotten."""

    def __init__(self) -> None:
        self._versions: OrderedDict[tuple[str, str, str, str, str], None] = OrderedDict()

    def add(self, kind: Kind[Any], meta: BareMeta) -> bool:
        """Return whether this version of an object of *kind* is new, and remember it."""
        version = (kind.plural, meta.namespace, meta.name, meta.uid, meta.resource_version)
        if version in self._versions:
            self._versions.move_to_end(version)
            return False
        self._versions[version] = None
        while len(self._versions) > REMEMBERED_MAX:
            self._versions.popitem(last=False)
        return True


class ObjectReports:
    """The limits of one program's reports about one sort of objects. No method blocks."""

    def __init__(
        self,
        *,
        lines: Rate,
        events: Rate,
        omission: str,
        record: Record | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*omission*: the warning that replaces the first line beyond the limit. *record* may be set later, with
        `record_with`; before that no Events are recorded."""
        self._lines = LogLimit(
            burst=lines.burst, per_second=lines.per_second, share=GROUP_SHARE, omission=omission, clock=clock
        )
        self._events = SharedTokenBucket(events.per_second, events.burst, GROUP_SHARE, clock)
        self._record = record

    def record_with(self, record: Record) -> None:
        """Write Events with *record* from now on."""
        self._record = record

    def may_log(self, group: str) -> bool:
        """Return whether a line about an object of *group* may be logged now; True counts the line."""
        return self._lines.allows(group)

    def warn(self, group: str, regarding: Resource, kind: Kind[Any], reason: str, message: str) -> None:
        """Record a warning Event about *regarding*, an object of *group*, unless there are too many."""
        # The name of an object that cannot be decoded may be unknown, and an Event needs it.
        if self._record is not None and regarding.metadata.name and self._events.take(group):
            self._record(regarding, kind, "Warning", reason, message)
