"""Who says which identities a pod has: the one question in which the two operation modes differ, and standard's answer.

Standard mode: MIC does, by AzureAssignedIdentity objects that name the pod. Managed mode is in `managed`.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from nmi.identity.decide import PodFacts
from nmi.identity.reads import DoubtReads
from nmi.identity.standard import Assigned, project
from nmi.identity.watching import Watches
from podidentity.resources import ASSIGNED_IDENTITIES, NODENAME_LABEL, AzureAssignedIdentity, nodename_label

Changed = Callable[[str, str], None]
"""Called with a namespace and the name of a pod whose identities may have changed; with an empty name, of any pod."""


class Assignments(Protocol):
    """One mode's answer."""

    @property
    def watched(self) -> Sequence[str]:
        """The names of the watches that it goes by."""

    def of(self, pod: PodFacts) -> tuple[Assigned, ...]:
        """What may be *pod*'s, by what the watches have told; whether it is, is for `decide` to say."""

    async def read(self, pod: PodFacts) -> tuple[Assigned, ...]:
        """The same, by what the API server says now. Raises UnansweredError."""


class MicAssignments:
    """Standard mode: what names the pod by namespace and name. The handler of the watch that it adds."""

    watched = ("assigned_identities",)

    def __init__(
        self,
        watches: Watches,
        reads: DoubtReads,
        changed: Changed,
        *,
        node: str,
        scale_features: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*scale_features*: MIC labels assigned identities with their node, so only this node's are watched."""
        self._reads = reads
        self._changed = changed
        self._node = node
        self._clock = clock
        self._selector = f"{NODENAME_LABEL}={nodename_label(node)}" if scale_features else ""
        self._by_pod: dict[tuple[str, str], dict[tuple[str, str], Assigned]] = {}
        watches.add("assigned_identities", ASSIGNED_IDENTITIES, self, label_selector=self._selector)

    def of(self, pod: PodFacts) -> tuple[Assigned, ...]:
        return tuple(self._by_pod.get((pod.namespace, pod.name), {}).values())

    async def read(self, pod: PodFacts) -> tuple[Assigned, ...]:
        known = {each.identity.metadata.name: each.usable_since for each in self.of(pod)}
        return tuple(
            project(each, known.get(each.spec.azure_identity_ref.metadata.name, self._clock()))
            for each in await self._reads.assigned(self._selector)
            if self._names(each) == (pod.namespace, pod.name)
        )

    # The watch's handler.

    def upserted(self, old: AzureAssignedIdentity | None, new: AzureAssignedIdentity) -> None:
        """An assigned identity is, or has become, like *new*."""
        names = self._names(new)
        if old is not None and (former := self._names(old)) is not None and former != names:
            self._unassign(former, old.key)
        if names is None:
            return
        bucket = self._by_pod.setdefault(names, {})
        before = bucket.get(new.key)
        since = before.usable_since if before is not None and before.usable else self._clock()
        bucket[new.key] = project(new, since)
        self._changed(*names)

    def deleted(self, old: AzureAssignedIdentity) -> None:
        """An assigned identity is gone."""
        names = self._names(old)
        if names is not None:
            self._unassign(names, old.key)

    def _names(self, assigned: AzureAssignedIdentity) -> tuple[str, str] | None:
        """The pod that it names, or None if that pod would be on another node."""
        spec = assigned.spec
        return (spec.pod_namespace, spec.pod) if spec.nodename in {"", self._node} else None

    def _unassign(self, names: tuple[str, str], key: tuple[str, str]) -> None:
        bucket = self._by_pod.get(names, {})
        if bucket.pop(key, None) is None:
            return
        if not bucket:
            del self._by_pod[names]
        self._changed(*names)
