"""Refusals that somebody can do something about, as Events on the pod: what `kubectl describe pod` shows.

A courtesy beside the log, so it may be late, cut or left out, and never disturbs an answer: `EventRecorder` queues,
bounds and sends, and an API server that takes no Events costs a warning. What happens to every pod of a node at once
(IMDS away, too many calls) is for metrics and the log: it would say the same under each of them.
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
"""The Event's reason by the refusal's; a refusal that is not here has no Event."""


class PodEvents:
    """Tells of refusals through *recorder*, whose `run` is its owner's task."""

    def __init__(self, recorder: EventRecorder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._recorder = recorder
        self._clock = clock
        self._told: OrderedDict[tuple[str, Reason], float] = OrderedDict()

    def tell(self, entry: PodEntry, refusal: Refusal) -> None:
        """For `Decisions`: neither blocks nor raises."""
        reason = REASONS.get(refusal.reason)
        if reason is None or self._is_told(entry.uid, refusal.reason):
            return
        pod = Pod(metadata=PodMeta(namespace=entry.namespace, name=entry.name, uid=entry.uid))
        self._recorder.record(pod, PODS, "Warning", reason, message(refusal))

    def _is_told(self, uid: str, reason: Reason) -> bool:
        """Whether the same was said of this pod just now, if in other words: refusals of many audiences are one."""
        now, key = self._clock(), (uid, reason)
        if now < self._told.get(key, float("-inf")) + QUIET_SECONDS:
            return True
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > REMEMBERED_MAX:
            self._told.popitem(last=False)
        return False


def message(refusal: Refusal) -> str:
    """What the Event says: the detail for an operator, plain and without credentials. Its length is the recorder's."""
    text = redact(refusal.detail or refusal.sentence)
    return "".join(character if character.isprintable() else " " for character in text)
