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
from podidentity.kube.object_reports import ObjectReports, Rate
from podidentity.resources import PODS, ScheduledPod

log = logging.getLogger(__name__)

IGNORED: Final = "MirrorPodIgnored"
"""The Event's reason."""
REPORTS: Final = Rate(burst=50.0, per_second=1.0)
"""Pods reported, of all nodes together."""
OMISSION: Final = "more mirror pods with a binding label than are logged individually; `podidctl plan` lists all"
MESSAGE: Final = (
    "it is a mirror pod (owned by a Node, or annotated kubernetes.io/config.mirror), to which its node's kubelet could "
    "have given any namespace and labels, so it gets no identity: use a DaemonSet or Deployment instead"
)


class MirrorPods:
    """Handler of the pod watch that reports labelled mirror pods and passes every change on.

    It writes one log line and one Event per pod and label. The number of reports is limited in total and for one node,
    because a kubelet may create pods without end, in any namespace.
    """

    def __init__(
        self, inner: Changes[ScheduledPod], recorder: EventRecorder, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner = inner
        self._reports = ObjectReports(
            lines=REPORTS, events=REPORTS, omission=OMISSION, record=recorder.record, clock=clock
        )

    def upserted(self, old: ScheduledPod | None, new: ScheduledPod) -> None:
        if new.mirror and new.binding_label and not new.finished and _is_news(old, new):
            if self._reports.may_log(new.spec.node_name):
                log.warning(
                    "mirror pod with a binding label gets no identity; find its creator on that node",
                    extra={"pod": "/".join(new.key), "node": new.spec.node_name, "binding": new.binding_label},
                )
            self._reports.warn(new.spec.node_name, new, PODS, IGNORED, f"pod {'/'.join(new.key)}: {MESSAGE}")
        self._inner.upserted(old, new)

    def deleted(self, old: ScheduledPod) -> None:
        self._inner.deleted(old)


def _is_news(old: ScheduledPod | None, new: ScheduledPod) -> bool:
    return old is None or (old.metadata.uid, old.binding_label) != (new.metadata.uid, new.binding_label)
