"""Reports of mirror pods, which get no identity: a kubelet creates them on its own node, in any namespace, with any
labels.

A compromised node could otherwise name every identity of the cluster. `assignments.may_have_identities` excludes them.
This module reports each one to the operator, because a static pod that the operator labelled on purpose gets no
identity either.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from mic.cluster.changes import Changes
from podidentity.kube.events import EventRecorder
from podidentity.resources import PODS, Pod
from podidentity.telemetry.token_bucket import TokenBucket

log = logging.getLogger(__name__)

IGNORED: Final = "MirrorPodIgnored"
"""The Event's reason."""
LINES_BURST: Final = 50.0
LINES_PER_SECOND: Final = 1.0
WHY: Final = (
    "it is a mirror pod (owned by a Node, or annotated kubernetes.io/config.mirror), to which its node's kubelet could "
    "have given any namespace and labels, so it gets no identity: use a DaemonSet or Deployment instead"
)


class MirrorPods:
    """Handler of the pod watch that reports labelled mirror pods and passes every change on.

    It writes one log line and one Event per pod and label. A kubelet that creates pods without end gets LINES_BURST
    lines, then one per second, and as many Events as `EventRecorder` allows.
    """

    def __init__(
        self, inner: Changes[Pod], recorder: EventRecorder, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner = inner
        self._recorder = recorder
        self._lines = TokenBucket(LINES_PER_SECOND, LINES_BURST, clock)

    def upserted(self, old: Pod | None, new: Pod) -> None:
        if new.mirror and new.binding_label and not new.finished and _is_news(old, new):
            if self._lines.take():
                log.warning(
                    "mirror pod with a binding label gets no identity; find its creator on that node",
                    extra={"pod": "/".join(new.key), "node": new.spec.node_name, "binding": new.binding_label},
                )
            self._recorder.record(new, PODS, "Warning", IGNORED, f"pod {'/'.join(new.key)}: {WHY}")
        self._inner.upserted(old, new)

    def deleted(self, old: Pod) -> None:
        self._inner.deleted(old)


def _is_news(old: Pod | None, new: Pod) -> bool:
    return old is None or (old.metadata.uid, old.binding_label) != (new.metadata.uid, new.binding_label)
