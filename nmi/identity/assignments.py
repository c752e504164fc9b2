"""The identities of a pod: the interface of both operation modes, and the implementation of standard mode.

In standard mode MIC assigns identities by AzureAssignedIdentity objects that name the pod. `managed_mode` implements
managed mode.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from nmi.identity.assigned_identity import AssignedIdentity, project
from nmi.identity.decide import PodFacts
from nmi.identity.kept_parts import KeptParts
from nmi.identity.limited_map import LimitedMap, OverLimitCount
from nmi.identity.verification_reads import VerificationReads
from nmi.identity.watches import AffectedPods, PodUpdates, Watches
from podidentity.resources import ASSIGNED_IDENTITIES, NODENAME_LABEL, AzureAssignedIdentity, nodename_label


class IdentityAssignments(Protocol):
    """The identities of pods in one operation mode."""

    @property
    def watched(self) -> Sequence[str]:
        """Names of the watches that this mode depends on."""

    def add_watches(self, watches: Watches, update: Callable[[AffectedPods], None]) -> None:
        """Add these watches. *update* is called with the pods whose identities may have changed."""

    def of(self, pod: PodFacts) -> tuple[AssignedIdentity, ...]:
        """Return the identities that may be *pod*'s according to the watches; `decide` checks whether they are."""

    async def read(self, pod: PodFacts) -> tuple[AssignedIdentity, ...]:
        """Return the same from the API server's current state. Raises UnansweredError."""

    @property
    def beyond_limit(self) -> int:
        """Number of objects that are ignored because other objects fill a limit."""


ASSIGNED_MAX: Final = 256
"""Assigned identities of one pod that count. MIC writes at most 128, and those of an earlier pod of the same name may
still exist."""

MIC_NAMESPACE: Final = "default"
"""The namespace in which MIC writes assigned identities whose identity serves pods of every namespace."""


class MicAssignments:
    """Standard mode: the assigned identities that name a pod by namespace and name."""

    watched = ("assigned_identities",)

    def __init__(
        self,
        reads: VerificationReads,
        *,
        node: str,
        scale_features: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the settings.

        *scale_features*: MIC labels assigned identities with their node, so only those of this node are watched.
        """
        self._reads = reads
        self._node = node
        self._clock = clock
        self._selector = f"{NODENAME_LABEL}={nodename_label(node)}" if scale_features else ""
        self._by_pod: dict[tuple[str, str], LimitedMap[tuple[str, str], AssignedIdentity]] = {}
        self._beyond = OverLimitCount(
            "a pod has more AzureAssignedIdentities than the limit; check which clients besides MIC may write them",
            clock,
        )

    def add_watches(self, watches: Watches, update: Callable[[AffectedPods], None]) -> None:
        watches.add(
            "assigned_identities",
            ASSIGNED_IDENTITIES,
            PodUpdates(self.upserted, self.deleted, update),
            label_selector=self._selector,
            keep=KeptParts().assigned,
        )

    def of(self, pod: PodFacts) -> tuple[AssignedIdentity, ...]:
        bucket = self._by_pod.get((pod.namespace, pod.name))
        return bucket.counted if bucket is not None else ()

    @property
    def beyond_limit(self) -> int:
        return self._beyond.count

    async def read(self, pod: PodFacts) -> tuple[AssignedIdentity, ...]:
        usable_since = {assignment.identity.metadata.name: assignment.usable_since for assignment in self.of(pod)}
        # The limit of the watch, in the same order: a read must not grant what the watch would ignore.
        current: LimitedMap[tuple[str, str], AssignedIdentity] = LimitedMap(ASSIGNED_MAX)
        for assigned in await self._reads.assigned(self._selector):
            if self._names(assigned) == (pod.namespace, pod.name):
                # A read does not show since when. Those that the watch has delivered keep their time.
                since = usable_since.get(assigned.spec.azure_identity_ref.metadata.name, self._clock())
                current.put(assigned.key, project(assigned, since), assigned_order(assigned))
        return current.counted

    # Watch events. Each method returns the pods whose identities may have changed.

    def upserted(self, old: AzureAssignedIdentity | None, new: AzureAssignedIdentity) -> Iterator[AffectedPods]:
        """Add or replace an assigned identity.

        The caller updates the pod that *old* names before the identity is given to another one: if that fails, or the
        new state cannot be applied, no pod keeps the identity or gets it.
        """
        names = self._names(new)
        if old is not None and (former := self._names(old)) is not None and former != names:
            yield from self._unassign(former, old.key)
        if names is None:
            return
        bucket = self._by_pod.get(names)
        if bucket is None:
            bucket = self._by_pod[names] = LimitedMap(ASSIGNED_MAX)
        before = bucket.get(new.key)
        # IMDS may not know an identity that has just become usable: the broker retries for a while after this time.
        since = before.usable_since if before is not None and before.usable else self._clock()
        bucket.put(new.key, project(new, since), assigned_order(new))
        self._beyond.note(names, bucket.beyond)
        yield names

    def deleted(self, old: AzureAssignedIdentity) -> list[AffectedPods]:
        """Remove an assigned identity."""
        names = self._names(old)
        return self._unassign(names, old.key) if names is not None else []

    def _names(self, assigned: AzureAssignedIdentity) -> tuple[str, str] | None:
        """Return the pod that *assigned* names, or None if that pod is on another node."""
        spec = assigned.spec
        return (spec.pod_namespace, spec.pod) if spec.nodename in {"", self._node} else None

    def _unassign(self, names: tuple[str, str], key: tuple[str, str]) -> list[AffectedPods]:
        bucket = self._by_pod.get(names)
        if bucket is None or not bucket.remove(key):
            return []
        self._beyond.note(names, bucket.beyond)
        if not bucket:
            del self._by_pod[names]
        return [names]


def assigned_order(assigned: AzureAssignedIdentity) -> tuple[bool, bool, str, str]:
    """Return the sort key of *assigned* among those of its pod.

    Those in MIC's own namespaces (the pod's namespace, or `default`) come first, and of these the ones whose identity
    is in the pod's namespace.
    """
    namespace, name = assigned.key
    spec = assigned.spec
    # At the limit, identities of other namespaces must not push out those of the pod's own.
    foreign = spec.azure_identity_ref.metadata.namespace != spec.pod_namespace
    return namespace not in {spec.pod_namespace, MIC_NAMESPACE}, foreign, namespace, name
