"""The pod entry: one pod of this node with its properties, assigned identities and waiting requests.

A `PodEntry` owns its native `PodRecord`. Only `cluster_cache` and its parts change an entry. Each change begins a new
generation of the record (its ready responses are discarded) and wakes every request that waits for the pod.
"""

import asyncio
import math
from collections.abc import Hashable, Mapping
from typing import Final

from _native.index import PodRecord
from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.pods import facts, own_addresses
from podidentity.resources import Pod

SERVED_MAX: Final = 64
"""Tokens noted per pod. The notes are cleared when a pod requests more different tokens than this."""
MISSING_MAX: Final = 16
"""Different missing identities of a pod whose first request is noted. One more replaces the oldest note."""


class PodEntry:
    """A pod, as long as it exists with one uid. Never a finished pod. A pod on the host's network has no address."""

    __slots__ = (
        "_assigned",
        "_confirmed",
        "_ending",
        "_first_requests",
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
        """Create the entry. *confirmed*: a watch event reported the pod; otherwise a single read did, and the watch may
        disagree later.
        """
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
        # Most pods never send a request, so these are created with the first one.
        self._first_requests: dict[int, float] | None = None
        self._waiters: set[asyncio.Future[bool]] | None = None
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
        """`namespace/name`: the field `pod` of a log line, and the governor's key for this pod."""
        return f"{self.facts.namespace}/{self.facts.name}"

    @property
    def labels(self) -> Mapping[str, str]:
        return self.pod.metadata.labels or {}

    @property
    def assigned(self) -> tuple[AssignedIdentity, ...]:
        """The identities that name this pod by namespace and name; `decide` checks whether they are this pod's."""
        return self._assigned

    @property
    def ending(self) -> bool:
        """Whether the pod is being deleted, or all containers have terminated: another pod may get its address before
        the watch reports it.
        """
        return self._ending

    @property
    def terminated(self) -> bool:
        """Whether all containers have terminated: no token until the watch reports a running one."""
        return self._terminated

    @property
    def sandbox_down(self) -> bool:
        """Whether the kubelet reports no sandbox with a network: another pod sends the requests from its address."""
        return self._sandbox_down

    @property
    def suspended(self) -> bool:
        """Whether local evidence shows that its address changed its owner (`suspensions`): no token there."""
        return self._suspended

    @property
    def gone(self) -> bool:
        """Whether the pod is deleted, finished or replaced. Final."""
        return self._gone

    @property
    def confirmed(self) -> bool:
        """Whether the watch has reported the pod in this state."""
        return self._confirmed

    @property
    def doubtful(self) -> bool:
        """Whether each grant needs a verification read first. Then no ready response is served either."""
        return self._ending or self._sandbox_down or self._suspended or not self._confirmed

    @property
    def _deciding(self) -> tuple[object, ...]:
        """All properties of the pod itself that a decision depends on."""
        state = (self._ending, self._terminated, self._sandbox_down, self._confirmed)
        return (self.facts, self.addresses, self.labels, *state)

    def update(self, pod: Pod, exempt: str = "") -> bool:
        """Apply a new state of the same pod from the watch. Return whether a decision depends on the change."""
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

    def exempt(self, reason: str) -> bool:
        """Set the exemption to *reason*, after a change of the exceptions. Return whether it differs."""
        changed = self.facts.exempt != reason
        if changed:
            self.facts = facts(self.pod, reason)
            self.bump()
        return changed

    def add_unconfirmed(self, address: str) -> None:
        """Add *address*, which only a read has reported: the entry is doubtful until the watch confirms it."""
        self.addresses = (*self.addresses, address)
        self._confirmed = False
        self.bump()

    def suspend(self) -> None:
        """Begin a suspension: see `suspended`."""
        self._suspended = True
        self.bump()

    def lift(self) -> None:
        """End the suspension: the address is certainly the pod's again."""
        self._suspended = False
        self.bump()

    def assign(self, assigned: tuple[AssignedIdentity, ...]) -> bool:
        """Replace the assigned identities. Return whether a decision depends on the change."""
        changed = assigned != self._assigned
        self._assigned = assigned
        if changed:
            self.bump()
        return changed

    def retire(self) -> None:
        """Mark the pod as removed: its record serves no ready response again, and all waiting requests continue."""
        self._gone = True
        self.bump()

    def bump(self) -> None:
        """Begin a new generation, forget the first requests, and wake the waiters."""
        # The lane reads the flag for each request, so no doubtful pod gets a ready response of the new generation.
        self.record.suspended = self.doubtful or self._gone
        self.discard_ready_responses()
        waiters, self._waiters, self._first_requests = self._waiters, None, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(True)

    def discard_ready_responses(self) -> None:
        """Begin a new generation of the record, although no decision depends on a change: its tokens are outdated."""
        self.record.invalidate()
        self._served = None

    def serve(self, key: Hashable) -> None:
        """Note that a ready response may contain the token cached under *key*."""
        if self._served is not None and len(self._served) >= SERVED_MAX:
            # The notes must stay complete, so the ready responses are discarded with them.
            self.discard_ready_responses()
        if self._served is None:
            self._served = set()
        self._served.add(key)

    def serves(self, key: Hashable) -> bool:
        """Return whether a ready response may contain the token cached under *key*."""
        return self._served is not None and key in self._served

    def first_request(self, missing: Hashable, now: float) -> float:
        """Return when the pod first requested what is *missing*, since the last change: *now* if it does so now.

        Only hashes are kept, so that the texts of a pod use no memory. A collision ends a hold of this pod early.
        """
        if self._first_requests is None:
            self._first_requests = {}
        key, noted = hash(missing), self._first_requests
        # Only the first request counts: a client that asks again must not extend its hold.
        if key not in noted:
            # A pod may ask for ever new identities, and must not fill NMI's memory with the times.
            if len(noted) >= MISSING_MAX:
                del noted[next(iter(noted))]
            noted[key] = now
        return noted[key]

    def forget_first_request(self, missing: Hashable) -> None:
        """Let the next request for what is *missing* count as the first one."""
        if self._first_requests is not None:
            self._first_requests.pop(hash(missing), None)

    async def changed(self, generation: int, until: float = math.inf) -> bool:
        """Wait until something has changed for the pod since *generation* of its record. Return False if nothing has by
        *until* (the loop's time).
        """
        # The change may have come between the decision and this call.
        if self.record.generation != generation:
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        if self._waiters is None:
            self._waiters = set()
        self._waiters.add(waiter)
        # A future with its own timer takes half of the memory of asyncio.timeout(), and many requests may wait.
        timer = loop.call_at(until, _end_wait, waiter) if until < math.inf else None
        try:
            return await waiter
        finally:
            if timer is not None:
                timer.cancel()
            if self._waiters is not None:
                self._waiters.discard(waiter)


def _end_wait(waiter: "asyncio.Future[bool]") -> None:
    if not waiter.done():
        waiter.set_result(False)
