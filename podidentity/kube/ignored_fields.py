"""Reports of fields that a program ignores because they are spelled as before v1.6.0.

The object counts with its other fields, as for an admission policy. Its author must see why the rest has no effect: one
log line and one Event for each version of an object, with the limits of `skipped`.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from podidentity.kube.object_reports import EVENTS, LINES, ObjectReports, Record, ReportedVersions
from podidentity.resources import BareMeta, Kind, Resource

log = logging.getLogger(__name__)

OMISSION: Final = "more objects with ignored fields than are logged individually; podidctl doctor lists them"
EVENT_REASON: Final = "FieldsIgnored"
REMEDY: Final = "write them as kubectl explain shows them (podidctl migrate from-reference -f rewrites manifests)"


class IgnoredFields:
    """The reports of one program. `report` never blocks and never raises."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._reports = ObjectReports(lines=LINES, events=EVENTS, omission=OMISSION, clock=clock)
        self._reported = ReportedVersions()

    def record_with(self, record: Record) -> None:
        """Write Events with *record* from now on."""
        self._reports.record_with(record)

    def report(self, kind: Kind[Any], meta: BareMeta, fields: Sequence[str]) -> None:
        """Report that *fields*, paths as spelled in the object, are ignored."""
        if not self._reported.add(kind, meta):
            return
        named = ", ".join(fields)
        if self._reports.may_log(meta.namespace):
            log.warning(
                "fields ignored because of their spelling from before v1.6.0; correct it",
                extra={"resource": f"{kind.plural} {meta.namespace}/{meta.name}", "reason": named},
            )
        message = f"Ignored fields, spelled as before v1.6.0: {named}; {REMEDY}"
        self._reports.warn(meta.namespace, Resource(metadata=meta), kind, EVENT_REASON, message)
