"""Reads and updates of hosts on Azure, and the reaction to each failure of them.

An update that Azure refuses because of certain identities is sent again without them; if the refusal names none, with a
part of them, until the refused one is found. `HostMemory` keeps the result for the next reconcile pass.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Final

from mic.azure.errors import (
    AzureError,
    BadIdentities,
    LooksThrottled,
    Missing,
    Refused,
    SignInFailed,
    Throttled,
    UpdateConflict,
)
from mic.azure.host_client import HostClient
from mic.azure.identities import Change
from mic.azure.memory import HostMemory
from mic.cluster.view import ClusterView
from mic.decisions import host_change
from mic.decisions.identity_usage import HostView
from mic.decisions.policy import Policy, Restraint
from mic.reconciliation.events import advice, refusal, throttled
from podidentity.azure.resource_ids import Host, id_key

log = logging.getLogger(__name__)

REFUSED: Final = (
    "Azure refuses an identity, which is left out and tried again later; see that it exists and MIC may assign it"
)
CONFLICTS_MOST: Final = 3
"""Reads per update of a host that another client changes concurrently."""
LEASE_WAIT_SECONDS: Final = 30.0


class HostUpdater:
    """Reads and updates of all hosts. The caller makes at most one call per host concurrently."""

    def __init__(
        self,
        view: ClusterView,
        client: HostClient,
        *,
        policy: Policy,
        max_retries: int,
        retry_seconds: float,
        gone_seconds: float,
        lease_needed_seconds: float,
        lease_remaining: Callable[[], float],
        grace_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """*grace_seconds*: how long an identity that no pod needs stays attached; a new leader starts it again.
        *gone_seconds*: pause between reads of a host that Azure does not know. A change of Azure starts only while
        *lease_remaining* exceeds *lease_needed_seconds*."""
        self.policy = policy
        """The operator's settings, and the protected identities."""
        self._view = view
        self._client = client
        self._max_retries = max_retries
        self._retry_seconds = retry_seconds
        self._gone_seconds = gone_seconds
        self._lease_needed = lease_needed_seconds
        self._lease_remaining = lease_remaining
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._sleep = sleep

    def protect(self, identity: str) -> None:
        """Neither detach nor assign the cluster's own identity with this client id or resource id from now on."""
        names = {id_key(identity)}
        self.policy = replace(self.policy, immutable=self.policy.immutable | names, own=self.policy.own | names)

    async def read(self, host: Host, memory: HostMemory) -> bool:
        """Read the host. Return whether the response is reliable."""
        try:
            response = await self._client.get(host)
        except AzureError as error:
            memory.read_failed(error, refusal(host, error), _throttling(host, error, memory))
            self._warn("cannot read the host's identities from Azure; trying again", host, error)
            return False
        # Before the next plan, which must not attach the cluster's own identity by another of its ids.
        self.policy = self.policy.informed(response)
        memory.learn(response, self._gone_seconds)
        if response.gone:
            log.warning(
                "Azure does not know the host of a node; reading it again before its objects are removed",
                extra={"vm": host.text, "seconds": round(memory.reads.until - self._clock())},
            )
        return memory.identities is not None

    async def update(self, key: str, memory: HostMemory) -> dict[str, str]:
        """Update the host, and again without the identities that Azure refuses. Return the identities (keys) that an
        update left out or failed to attach, with the reason."""
        failed: dict[str, str] = {}
        conflicts = retries = 0
        while (ready := await self._next_change(key, memory)) is not None:
            host, change = ready
            try:
                after = await self._client.update(host, change)
            except AzureError as error:
                again = await self._failed(host, memory, change, error, failed)
                match error:
                    case BadIdentities() if again and retries < self._max_retries:
                        retries += 1
                        await self._sleep(self._retry_seconds)
                    case Refused() if again and not isinstance(error, BadIdentities):
                        pass  # continue with a part immediately: the number of parts is limited
                    case UpdateConflict() if again and conflicts < CONFLICTS_MOST:
                        conflicts += 1
                    case _:
                        break
                continue
            self.policy = self.policy.informed(after)
            memory.learn(after, self._gone_seconds)
            if after.gone:
                break
            if not after.shows(change):
                idle = AzureError("Azure accepted the update, but the host does not show it")
                memory.had_no_effect(idle)
                self._warn("an update had no effect; trying again", host, idle)
                break
            memory.accepted([id_key(text) for text in (*change.adds, *change.removes)])
            log.info(
                "identities on the host changed",
                extra={"vm": host.text, "status": f"{len(change.adds)} added, {len(change.removes)} removed"},
            )
            # The pods of these identities do not wait for the rest, which the next pass sends.
            break
        return failed

    def planned(self, key: str, memory: HostMemory) -> Change | None:
        """Return the change that the host needs now; None if there is none, or the host's state is unknown."""
        if memory.identities is None or memory.identities.gone:
            return None
        host_view = self._view.host_state(key)
        return host_change.azure_change(host_view, memory.identities, self.policy, self.restraint(host_view, memory))

    def restraint(self, host_view: HostView, memory: HostMemory) -> Restraint:
        """Return the changes of the host that must wait."""
        return Restraint(memory.quarantined(), memory.retry_due(), self.in_grace_period(host_view, memory), memory.most)

    def in_grace_period(self, host_view: HostView, memory: HostMemory) -> dict[str, float]:
        """Return the identities (keys) of the host within their grace period, with the remaining seconds. An identity
        that is in use gets the whole period again."""
        return memory.in_grace_period(host_change.idle(host_view), self._grace_seconds)

    async def _next_change(self, key: str, memory: HostMemory) -> tuple[Host, Change] | None:
        """Return the update to send now, if any, from the current state. If it could overwrite another client's change,
        MIC reads the host first."""
        host = self._view.host_state(key).host
        # Planned here too, so that a host without a change does not wait for the lease.
        if host is None or memory.writes.until > self._clock() or self.planned(key, memory) is None:
            return None
        if not await self._may_write(host, memory):
            return None
        change = self.planned(key, memory)  # planned again, because the wait for the lease or for Azure took time
        if change is not None and change.retypes and not change.etag:
            change = self.planned(key, memory) if await self.read(host, memory) else None
        return None if change is None else (host, change)

    async def _may_write(self, host: Host, memory: HostMemory) -> bool:
        """Wait until the lease lasts for the request and an earlier leader's operation has ended. Return whether to
        write."""
        try:
            async with asyncio.timeout(LEASE_WAIT_SECONDS):
                while self._lease_remaining() <= self._lease_needed:
                    await self._sleep(0.1)
        except TimeoutError:
            log.warning("leader lease not renewed in time; Azure is not changed", extra={"vm": host.text})
            return False
        await self._operation_ends(host, memory)
        return memory.identities is not None and not memory.identities.gone

    async def _operation_ends(self, host: Host, memory: HostMemory) -> None:
        """Wait for an operation that an earlier leader, or this process before its connection broke, may have started.
        Until its end Azure shows only its intended result."""
        while memory.doubtful:
            await self._sleep(memory.next_poll())
            await self.read(host, memory)

    async def _failed(
        self, host: Host, memory: HostMemory, change: Change, error: AzureError, failed: dict[str, str]
    ) -> bool:
        """Process a failed update: record the refused identities in *failed*, and read the host again. Return whether
        to retry now."""
        texts = {id_key(text): text for text in (*change.adds, *change.removes)}
        adds = {id_key(text) for text in change.adds}
        on_host = memory.identities.attached.keys() if memory.identities is not None else set()
        again, about, reason = True, [*texts], ""
        # Azure may still carry out the update that failed here, and shows its intended result meanwhile.
        memory.over = False
        match error:
            case BadIdentities() if bad := [key for key in texts if key in error.ids]:
                for key in bad:
                    memory.quarantine(key, advice(texts[key], error), adding=key in adds)
                    self._warn(REFUSED, host, error, texts[key])
                about = bad
            case Refused() if _narrows(error, on_host) and len(texts) > 1:
                memory.refused_together(texts.keys())
                # The refused one is unknown, and the others must get no wrong message.
                about = []
                self._warn("Azure refuses identities without saying which; trying with a part of them", host, error)
            case Refused() if _narrows(error, on_host):
                (key,) = about
                memory.refused_alone(key, advice(texts[key], error), adding=key in adds)
                self._warn(REFUSED, host, error, texts[key])
            case UpdateConflict() if error.status == 412:
                # Another client has changed the host since the read. With 409 its operation still runs: MIC pauses.
                about = []
            case LooksThrottled():
                # A read now would be throttled, too.
                memory.read_failed(error, "", _throttling(host, error, memory))
                self._warn("Azure does not say for now how an update went; looking again later", host, error)
                return False
            case _:
                again, reason = False, refusal(host, error)
                memory.writes.failed(error, self._clock(), reason, _throttling(host, error, memory))
                self._warn("Azure did not change the host; trying again", host, error)
        # A conflict states nothing about the identities, and no pod waits for a removal.
        if not isinstance(error, UpdateConflict):
            failed |= {key: reason or advice(texts[key], error) for key in about if key in adds}
        # The read in any case: after a failed update the host's state is unknown.
        return await self.read(host, memory) and again

    def _warn(self, message: str, host: Host, error: AzureError, identity: str | None = None) -> None:
        about = {"identity": identity, "status": error.status, "reason": error.code, "error": error, "vm": host.text}
        log.warning(message, extra=about)


def _throttling(host: Host, error: AzureError, memory: HostMemory) -> str:
    """Return the message for objects that wait for the host, if Azure throttled the call; else an empty string."""
    return throttled(host, error, memory.retry_text(error.retry_after or 0.0)) if isinstance(error, Throttled) else ""


def _narrows(error: Refused, on_host: Collection[str]) -> bool:
    """Return whether the refusal concerns the content of the update, so that Azure may accept a part. It does not if it
    names only identities that are already attached."""
    if isinstance(error, BadIdentities):
        return error.ids.isdisjoint(on_host)
    return isinstance(error, Missing) or (error.status == 400 and not isinstance(error, SignInFailed))
