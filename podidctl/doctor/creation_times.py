"""Creation times of objects, which show whether MIC has had enough time for them.

The projections that the daemons share omit these fields because the daemons do not use them.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from podidctl.diagnosis.several_identities import VariablePod
from podidctl.doctor.state import ObjectReference
from podidentity.resources import Kind, PodCondition, PodMeta, PodStatus

SCHEDULED: Final = "PodScheduled"


class DatedMeta(PodMeta, frozen=True):
    creation_timestamp: str | None = None


class DatedCondition(PodCondition, frozen=True):
    last_transition_time: str | None = None


class DatedStatus(PodStatus, frozen=True):
    conditions: Sequence[DatedCondition] = msgspec.field(default_factory=list)


class DatedPod(VariablePod, frozen=True):
    """A pod with the times that show since when it is on its node, and the names of its environment variables."""

    metadata: DatedMeta = DatedMeta()
    status: DatedStatus = DatedStatus()

    @property
    def since(self) -> datetime | None:
        """Time of creation or scheduling, whichever is later: MIC does not act before a pod is scheduled."""
        scheduled = (each.last_transition_time for each in self.status.conditions if each.type == SCHEDULED)
        times = map(parse_time, (self.metadata.creation_timestamp, *scheduled))
        return max((each for each in times if each is not None), default=None)


DATED_PODS: Final = Kind("Pod", "pods", DatedPod)


class _Meta(msgspec.Struct):
    creation: str = msgspec.field(name="creationTimestamp", default="")


class _DatedObject(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


_DECODER: Final = msgspec.json.Decoder(_DatedObject)


def creation_time(raw: msgspec.Raw) -> datetime | None:
    """Return the creation time of a readable object, or None."""
    try:
        return parse_time(_DECODER.decode(raw).metadata.creation)
    except (msgspec.DecodeError, RecursionError):
        return None


def parse_time(spelled: str | None) -> datetime | None:
    """Return the time that the API server wrote, or None for other text."""
    try:
        found = datetime.fromisoformat(spelled or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def pod_times(pods: Iterable[DatedPod]) -> dict[ObjectReference, datetime]:
    """Return since when each pod is on its node."""
    return {ObjectReference("pods", *each.key): since for each in pods if (since := each.since) is not None}
