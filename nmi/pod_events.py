"""Kubernetes Events on the pod for refusals with a possible fix, as `kubectl describe pod` shows them.

They supplement the log, so they may be late, truncated or left out, and never delay a response: `EventRecorder` queues,
limits and sends them, and an API server that rejects Events costs a warning. Failures of all pods of a node (IMDS
unavailable, too many calls) are for metrics and the log: their Event would be the same on each pod.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from nmi.refusal import Reason, Refusal
from podidentity.kube.events import EventRecorder
from podidentity.resources import PODS, Pod, PodMeta
from podidentity.telemetry.logs import redact

if TYPE_CHECKING:  # podidctl imports this module without compiled modules
    from nmi.identity.pod_entry import PodEntry

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
        self._recorded: OrderedDict[tuple[str, Reason], tuple[float, int]] = OrderedDict()
        """Time of the last Event by the pod's uid and the reason, and the hash of its text."""

    def record(self, entry: "PodEntry", refusal: Refusal) -> bool:
        """Record an Event for `Decisions`. Neither blocks nor raises.

        Return False if the pod had an Event with the same reason and another text within QUIET_SECONDS, so that a
        repeat of this refusal must be reported later.
        """
        reason = REASONS.get(refusal.reason)
        if reason is None:
            return True
        text = message(refusal)
        now, key, digest = self._clock(), (entry.uid, refusal.reason), hash(text)
        at, earlier = self._recorded.get(key, (float("-inf"), 0))
        # A pod may repeat a refused request without end, and each Event costs a write to the API server.
        if now < at + QUIET_SECONDS:
            return earlier == digest
        self._recorded[key] = now, digest
        self._recorded.move_to_end(key)
        if len(self._recorded) > REMEMBERED_MAX:
            # Pods come and go, so the oldest entry is that of a pod without recent refusals.
            self._recorded.popitem(last=False)
        pod = Pod(metadata=PodMeta(namespace=entry.namespace, name=entry.name, uid=entry.uid))
        self._recorder.record(pod, PODS, "Warning", reason, text)
        return True


def message(refusal: Refusal) -> str:
    """Return the Event's text: the detail for an operator, printable and without credentials. The recorder limits its
    length.
    """
    text = redact(refusal.detail or refusal.sentence)
    return "".join(character if character.isprintable() else " " for character in text)
