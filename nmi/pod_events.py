"""Kubernetes Events on the pod for refusals with a possible fix, as `kubectl describe pod` shows them.

They supplement the log, so they may be late, truncated or left out, and never delay a response: `EventRecorder` queues,
limits and sends them, and an API server that rejects Events costs a warning. Failures of all pods of a node (IMDS
unavailable, too many calls) are for metrics and the log: their Event would be the same on each pod.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from nmi.identity.pods import PodEntry
from nmi.refusal import Reason, Refusal
from podidentity.kube.events import EventRecorder
from podidentity.resources import PODS, Pod, PodMeta
from podidentity.telemetry.logs import redact

NOT_ASSIGNED: Final = "IdentityNotAssigned"
TOKEN_REFUSED: Final = "TokenRefused"  # noqa: S105
REQUEST_REFUSED: Final = "RequestRefused"
QUIET_SECONDS: Final = 60.0
REMEMBERED_MAX: Final = 1024
REASONS: Final = MappingProxyType(
    {
        Reason.NOTHING_ASSIGNED: NOT_ASSIGNED,
        Reason.STILL_ASSIGNING: NOT_ASSIGNED,
        Reason.NO_MATCHING_IDENTITY: NOT_ASSIGNED,
        Reason.UNKNOWN_OBJECT_ID: NOT_ASSIGNED,
        Reason.UPSTREAM_REFUSED: TOKEN_REFUSED,
        Reason.POLICY: TOKEN_REFUSED,
        Reason.FORWARDED: REQUEST_REFUSED,
        Reason.DISGUISED_PATH: REQUEST_REFUSED,
        Reason.NOT_REDIRECTED: REQUEST_REFUSED,
        Reason.NOT_FROM_HOST: REQUEST_REFUSED,
    }
)
"""The Event's reason by the refusal's reason. A refusal without an entry has no Event."""


class PodEvents:
    """Composer of Events for refusals. The owner of *recorder* runs its `run` task."""

    def __init__(self, recorder: EventRecorder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._recorder = recorder
        self._clock = clock
        self._recorded_at: OrderedDict[tuple[str, Reason], float] = OrderedDict()

    def record(self, entry: PodEntry, refusal: Refusal) -> None:
        """Record an Event for `Decisions`. Neither blocks nor raises."""
        reason = REASONS.get(refusal.reason)
        if reason is None or self._is_repeated(entry.uid, refusal.reason):
            return
        pod = Pod(metadata=PodMeta(namespace=entry.namespace, name=entry.name, uid=entry.uid))
        self._recorder.record(pod, PODS, "Warning", reason, message(refusal))

    def _is_repeated(self, uid: str, reason: Reason) -> bool:
        """Return whether this pod had an Event with the same reason recently, for any audience."""
        now, key = self._clock(), (uid, reason)
        if now < self._recorded_at.get(key, float("-inf")) + QUIET_SECONDS:
            return True
        self._recorded_at[key] = now
        self._recorded_at.move_to_end(key)
        if len(self._recorded_at) > REMEMBERED_MAX:
            self._recorded_at.popitem(last=False)
        return False


def message(refusal: Refusal) -> str:
    """Return the Event's text: the detail for an operator, printable and without credentials. The recorder limits its
    length.
    """
    text = redact(refusal.detail or refusal.sentence)
    return "".join(character if character.isprintable() else " " for character in text)
