"""Since when objects are there, as far as that tells whether MIC has had time for them.

The projections that the programs share leave it out, since they have no use for it.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from podidctl.doctor.state import ObjectReference
from podidentity.resources import Kind, Pod, PodCondition, PodMeta, PodStatus

SCHEDULED: Final = "PodScheduled"


class DatedMeta(PodMeta, frozen=True):
    creation_timestamp: str | None = None


class DatedCondition(PodCondition, frozen=True):
    last_transition_time: str | None = None


class DatedStatus(PodStatus, frozen=True):
    conditions: Sequence[DatedCondition] = msgspec.field(default_factory=list)


class DatedPod(Pod, frozen=True):
    """A pod with the times that tell since when it is on its node."""

    metadata: DatedMeta = DatedMeta()
    status: DatedStatus = DatedStatus()

    @property
    def since(self) -> datetime | None:
        """MIC has nothing to do for it before a node is found."""
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
    """When an object that can be read was made, if it says so."""
    try:
        return parse_time(_DECODER.decode(raw).metadata.creation)
    except (msgspec.DecodeError, RecursionError):
        return None


def parse_time(spelled: str | None) -> datetime | None:
    """A time as the API server writes it; None for anything else."""
    try:
        found = datetime.fromisoformat(spelled or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def pod_times(pods: Iterable[DatedPod]) -> dict[ObjectReference, datetime]:
    """Since when each is on its node."""
    return {ObjectReference("pods", *each.key): since for each in pods if (since := each.since) is not None}
