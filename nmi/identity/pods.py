"""One pod of this node as the token server knows it: facts, assigned identities, and who waits for a change.

A `PodEntry` is the owner of its native `PodRecord`. Only `feed` and what it is made of change an entry; each change
begins a new generation of the record (its ready answers are gone) and wakes every request that waits on it.
"""

import asyncio
from collections.abc import Hashable, Mapping
from typing import Final

from _native.index import PodRecord
from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.decide import PodFacts
from podidentity.resources import Pod

SERVED_MAX: Final = 64
"""Tokens noted per pod; a pod that asks for more different ones than this begins anew."""


class PodEntry:
    """A pod, for as long as it lives under one uid. Never a finished one; one on the host's network has no address."""

    __slots__ = (
        "_assigned",
        "_confirmed",
        "_ending",
        "_gone",
        "_sandbox_down",
        "_served",
        "_suspended",
        "_terminated",
        "_waiters",
        "addresses",
        "facts",
        "pod",
        "record",
    )

    def __init__(
        self, pod: Pod, assigned: tuple[AssignedIdentity, ...] = (), *, exempt: str = "", confirmed: bool = True
    ) -> None:
        """*confirmed*: a watch event told of it; else a single read did, and the watch may yet say otherwise."""
        self.record = PodRecord(self)
        self.pod = pod
        self.facts = facts(pod, exempt)
        self.addresses = own_addresses(pod)
        self._assigned = assigned
        self._ending = pod.ending
        self._terminated = pod.terminated
        self._sandbox_down = pod.sandbox_down
        self._confirmed = confirmed
        self._suspended = False
        self._gone = False
        # Thousands of pods never ask: sets of their own come with the first request.
        self._waiters: set[asyncio.Future[None]] | None = None
        self._served: set[Hashable] | None = None
        self.record.suspended = self.doubtful

    @property
    def namespace(self) -> str:
        return self.facts.namespace

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def uid(self) -> str:
        return self.facts.uid

    @property
    def key(self) -> str:
        """`namespace/name`: the field `pod` of a log line, and whom the governor charges."""
        return f"{self.facts.namespace}/{self.facts.name}"

    @property
    def labels(self) -> Mapping[str, str]:
        return self.pod.metadata.labels or {}

    @property
    def assigned(self) -> tuple[AssignedIdentity, ...]:
        """What names this pod by namespace and name; whether it is this pod's own is for `decide` to say."""
        return self._assigned

    @property
    def ending(self) -> bool:
        """Being deleted, or every container has terminated: its address may be another's before the watch says so."""
        return self._ending

    @property
    def terminated(self) -> bool:
        """Every container has terminated: no token until the watch reports one that runs."""
        return self._terminated

    @property
    def sandbox_down(self) -> bool:
        """The kubelet reports no sandbox with a network: what asks from the pod's address is another pod."""
        return self._sandbox_down

    @property
    def suspended(self) -> bool:
        """By local evidence its address has changed hands (`suspensions`): no token to what asks from there."""
        return self._suspended

    @property
    def gone(self) -> bool:
        """Deleted, finished or replaced. Final."""
        return self._gone

    @property
    def confirmed(self) -> bool:
        """Whether the watch has told of it, as it is here."""
        return self._confirmed

    @property
    def doubtful(self) -> bool:
        """Whether each grant needs a word from the API server first; then no ready answer is served either."""
        return self._ending or self._sandbox_down or self._suspended or not self._confirmed

    @property
    def _deciding(self) -> tuple[object, ...]:
        """Everything of the pod's own that a decision depends on."""
        state = (self._ending, self._terminated, self._sandbox_down, self._confirmed)
        return (self.facts, self.addresses, self.labels, *state)

    def update(self, pod: Pod, exempt: str = "") -> bool:
        """Take over what the watch now says of the same pod; whether that changed anything a decision depends on."""
        before = self._deciding
        self.pod = pod
        self.facts = facts(pod, exempt)
        self.addresses = own_addresses(pod)
        self._ending = pod.ending
        self._terminated = pod.terminated
        self._sandbox_down = pod.sandbox_down
        self._confirmed = True
        changed = before != self._deciding
        if changed:
            self.bump()
        return changed

    def exempt(self, why: str) -> bool:
        """The exceptions have changed: *why* is what they say of it now. Whether that changes anything."""
        changed = self.facts.exempt != why
        if changed:
            self.facts = facts(self.pod, why)
            self.bump()
        return changed

    def doubt(self, address: str) -> None:
        """A read knows the pod at *address* too, which the watch has not told of: doubtful until it does."""
        self.addresses = (*self.addresses, address)
        self._confirmed = False
        self.bump()

    def suspend(self) -> None:
        """See `suspended`."""
        self._suspended = True
        self.bump()

    def lift(self) -> None:
        """The address is certainly the pod's again."""
        self._suspended = False
        self.bump()

    def assign(self, assigned: tuple[AssignedIdentity, ...]) -> bool:
        """Replace the assigned identities; whether that changed anything a decision depends on."""
        changed = assigned != self._assigned
        self._assigned = assigned
        if changed:
            self.bump()
        return changed

    def retire(self) -> None:
        """The pod is gone: no answer of its record is served again, and whoever waits on it is told."""
        self._gone = True
        self.bump()

    def bump(self) -> None:
        """Begin a new generation and wake the waiters."""
        self.record.suspended = self.doubtful or self._gone
        self.record.invalidate()
        waiters, self._waiters, self._served = self._waiters, None, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def serve(self, key: Hashable) -> None:
        """Note that a ready answer may be made of the token kept under *key*."""
        if self._served is not None and len(self._served) >= SERVED_MAX:
            # Rather than forget which tokens its answers hold, forget the answers.
            self.bump()
        if self._served is None:
            self._served = set()
        self._served.add(key)

    def serves(self, key: Hashable) -> bool:
        """Whether a ready answer may hold the token kept under *key*."""
        return self._served is not None and key in self._served

    async def changed(self, generation: int) -> None:
        """Return as soon as the record's generation is no longer *generation*. The caller sets the deadline."""
        while self.record.generation == generation:
            waiter = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = set()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                if self._waiters is not None:
                    self._waiters.discard(waiter)


def facts(pod: Pod, exempt: str = "") -> PodFacts:
    """What of *pod* a decision depends on; *exempt* is `exempting`'s word."""
    metadata = pod.metadata
    return PodFacts(metadata.namespace, metadata.name, metadata.uid, pod.binding_label, exempt, pod.mirror)


def own_addresses(pod: Pod) -> tuple[str, ...]:
    """The addresses that are the pod's alone: none where it shares the node's."""
    return () if pod.spec.host_network else pod.addresses
