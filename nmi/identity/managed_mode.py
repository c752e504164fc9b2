"""Managed mode: no MIC and no assigned identities; the bindings of a pod's namespace select its identities.

Label, binding and identity, all three in one namespace, are joined here into the same `AssignedIdentity` values that
MIC's objects become in standard mode, so that one `decide` serves both. Another system attaches the identities to the
VMs (hence the name). NMI uses an identity as soon as its binding and identity exist.
"""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from nmi.identity.assigned_identity import AssignedIdentity, trimmed
from nmi.identity.decide import PodFacts
from nmi.identity.limited_map import LimitedMap, OverLimitCount
from nmi.identity.verification_reads import VerificationReads
from nmi.identity.watches import AffectedPods, PodUpdates, Watches
from podidentity.object_limits import oversized
from podidentity.resources import ASSIGNED, BINDINGS, IDENTITIES, AzureIdentity, AzureIdentityBinding

BINDINGS_MAX: Final = 64
"""Bindings of one namespace with one selector that count: the first by name."""
ALWAYS: Final = float("-inf")

Key = tuple[str, str]
V = TypeVar("V")


class BoundIdentities:
    """Bindings and identities of the two watches.

    The cost of an event depends on the changed objects, not on the number of all: a binding is joined when it or its
    identity changes, and all pods with one label share one value.
    """

    watched = ("bindings", "identities")

    def __init__(self, reads: VerificationReads, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._reads = reads
        self._clock = clock
        self._identities: dict[Key, tuple[AzureIdentity, float]] = {}
        """By namespace and name, with the time of its last change: IMDS may lag behind a new identity."""
        self._naming: dict[Key, dict[str, AzureIdentityBinding]] = {}
        """Bindings by the identity that they name, then by their own name."""
        self._given: dict[Key, LimitedMap[tuple[str], AssignedIdentity]] = {}
        """The identities that bindings give, by namespace and selector, and then by the binding's name."""
        self._beyond = OverLimitCount(
            "a selector has more bindings in its namespace than the limit; delete some", clock
        )

    def add_watches(self, watches: Watches, update: Callable[[AffectedPods], None]) -> None:
        watches.add("bindings", BINDINGS, PodUpdates(self.binding_upserted, self.binding_deleted, update))
        watches.add("identities", IDENTITIES, PodUpdates(self.identity_upserted, self.identity_deleted, update))

    def of(self, pod: PodFacts) -> tuple[AssignedIdentity, ...]:
        given = self._given.get((pod.namespace, pod.label)) if pod.label else None
        return given.counted if given is not None else ()

    @property
    def beyond_limit(self) -> int:
        return self._beyond.count

    async def read(self, pod: PodFacts) -> tuple[AssignedIdentity, ...]:
        if not pod.label:
            return ()
        bindings = await self._reads.bindings(pod.namespace)
        identities = {identity.metadata.name: identity for identity in await self._reads.identities(pod.namespace)}
        current: LimitedMap[tuple[str], AssignedIdentity] = LimitedMap(BINDINGS_MAX)
        for binding in bindings:
            identity = identities.get(binding.spec.azure_identity)
            if identity is not None and binding.spec.selector == pod.label and _fits(binding, identity):
                # A read does not show since when the identity exists, and IMDS may lag behind a new one.
                watched, since = self._identities.get(identity.key, (None, ALWAYS))
                # Another spec may be another identity, which IMDS may not know yet.
                same = watched is not None and watched.spec == identity.spec
                joined = join(binding, identity, since if same else self._clock())
                key = (binding.metadata.name,)
                current.put(key, joined, key)
        return current.counted

    # Watch events. Each method returns the pods whose identities may have changed.

    def binding_upserted(self, old: AzureIdentityBinding | None, new: AzureIdentityBinding) -> list[AffectedPods]:
        """Add or replace a binding."""
        # It may have selected other pods, or named another identity.
        if old is not None and old.spec != new.spec:
            self._unbind(old)
        self._naming.setdefault(_named_by(new), {})[new.metadata.name] = new
        self._give(new)
        return [(new.metadata.namespace, "")]

    def binding_deleted(self, old: AzureIdentityBinding) -> list[AffectedPods]:
        """Remove a binding."""
        self._unbind(old)
        return [(old.metadata.namespace, "")]

    def identity_upserted(
        self,
        old: AzureIdentity | None,  # noqa: ARG002 - compared with its own
        new: AzureIdentity,
    ) -> list[AffectedPods]:
        """Add or replace an identity."""
        former, since = self._identities.get(new.key, (None, ALWAYS))
        if former is None or former.spec != new.spec:
            since = self._clock()
        self._identities[new.key] = (new, since)
        return self._identity_changed(new.key)

    def identity_deleted(self, old: AzureIdentity) -> list[AffectedPods]:
        """Remove an identity."""
        self._identities.pop(old.key, None)
        return self._identity_changed(old.key)

    def _identity_changed(self, key: Key) -> list[AffectedPods]:
        bindings = list(self._naming.get(key, {}).values())
        for binding in bindings:
            self._give(binding)
        return [(key[0], "")] if bindings else []

    def _give(self, binding: AzureIdentityBinding) -> None:
        """Join *binding* with the identity that it names."""
        identity, since = self._identities.get(_named_by(binding), (None, ALWAYS))
        if identity is None or not _fits(binding, identity):
            # An oversized or missing identity counts as absent, also if it was served before.
            self._take(binding)
            return
        label, key = (binding.metadata.namespace, binding.spec.selector), (binding.metadata.name,)
        given = self._given.get(label)
        if given is None:
            given = self._given[label] = LimitedMap(BINDINGS_MAX)
        joined = join(binding, identity, since)
        if given.get(key) != joined:
            # Otherwise keep the same object, which is fast to compare.
            given.put(key, joined, key)
            self._beyond.note(label, given.beyond)

    def _take(self, binding: AzureIdentityBinding) -> None:
        label = (binding.metadata.namespace, binding.spec.selector)
        given = self._given.get(label)
        if given is not None and given.remove((binding.metadata.name,)):
            self._beyond.note(label, given.beyond)
            if not given:
                del self._given[label]

    def _unbind(self, binding: AzureIdentityBinding) -> None:
        self._take(binding)
        _drop(self._naming, _named_by(binding), binding.metadata.name)


def _named_by(binding: AzureIdentityBinding) -> Key:
    return binding.metadata.namespace, binding.spec.azure_identity


def _fits(binding: AzureIdentityBinding, identity: AzureIdentity) -> bool:
    return not oversized(binding) and not oversized(identity)


def _drop(nested: dict[Key, dict[str, V]], key: Key, name: str) -> None:
    """Remove *name* from the group *key*, and remove the group if it is empty."""
    group = nested.get(key, {})
    group.pop(name, None)
    if not group:
        nested.pop(key, None)


def join(binding: AzureIdentityBinding, identity: AzureIdentity, usable_since: float = ALWAYS) -> AssignedIdentity:
    """Return the identity as *binding* gives it to every pod that it selects; unusable if either is being deleted."""
    deleting = [resource.metadata.deletion_timestamp is not None for resource in (binding, identity)]
    return AssignedIdentity(
        binding=binding.metadata.name,
        selector=binding.spec.selector,
        # No MIC writes a state in this mode, so what the binding gives counts as assigned.
        status=ASSIGNED,
        deleting=any(deleting),
        # The binding selects all pods of the label, so the value is shared and names none of them.
        pod_uid="",
        home=binding.metadata.namespace if binding.metadata.namespace == identity.metadata.namespace else "",
        identity=trimmed(identity),
        usable_since=usable_since,
    )
