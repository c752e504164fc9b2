"""One round for one VM or scale set: look, write, change Azure, write again, each planned from the picture of then.

The order is `plan`'s; here are the calls, what is remembered between rounds, and what a failure means for the next.
A round that is cut short anywhere, by an error or by the end of the process, leaves nothing that the next cannot mend.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from mic import plan
from mic.azure.errors import AzureError, BadIdentities, Conflict, Missing, Refused
from mic.azure.identities import MOST_IN_ONE_UPDATE, Change, HostIdentities
from mic.azure.memory import HostMemory
from mic.measures import Measures
from mic.plan import Policy
from mic.queueing import Done
from mic.stakes import Picture
from mic.view import View
from mic.writing import APPLY_ERROR, Writer
from podidentity.azure.resource_ids import Host
from podidentity.kube.events import EventRecorder
from podidentity.resources import BINDINGS

log = logging.getLogger(__name__)

STALE_SECONDS: Final = 0.05
"""Pause before a round is repeated because an object was other than thought."""
CONFLICTS_MOST: Final = 3
"""How often in one round a host is read again because somebody else changed it."""
SETTLING_MOST_SECONDS: Final = 120.0
"""How long the first change of a host waits for an operation that is not ours to end."""
LEASE_WAIT_SECONDS: Final = 30.0
TOLD_MOST: Final = 10
"""Of how many pods an Event tells that their identity was refused; the message of each object tells it too."""
REFUSED_SECONDS: Final = 15.0
"""Pause before an object that the API server refused is tried again; events of the host try it too."""
IDLE_SECONDS: Final = 30.0
"""Pause of a host that waits for something else: the news of that is an event, and this only in case it is missed."""


class Hosts(Protocol):
    """What Azure is asked: `mic.azure.compute.Compute`, or a stand-in."""

    async def get(self, host: Host) -> HostIdentities:
        """What is on the host; `GONE` where there is no such host. Raises AzureError."""

    async def update(self, host: Host, change: Change) -> HostIdentities:
        """Carry out the change; what is there afterwards. Raises AzureError."""


class Applier:
    """Rounds for all hosts; one at a time for each, which the queue sees to."""

    def __init__(
        self,
        view: View,
        writer: Writer,
        hosts: Hosts,
        recorder: EventRecorder,
        measures: Measures,
        *,
        policy: Policy,
        max_retries: int,
        retry_seconds: float,
        gone_seconds: float,
        lease_needed_seconds: float,
        lease_remaining: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """*gone_seconds*: pause between looks at a host that Azure does not know. A change of Azure is only begun
        while *lease_remaining* is more than *lease_needed_seconds*."""
        self._view = view
        self._writer = writer
        self._hosts = hosts
        self._recorder = recorder
        self._measures = measures
        self._policy = policy
        self._max_retries = max_retries
        self._retry_seconds = retry_seconds
        self._gone_seconds = gone_seconds
        self._lease_needed = lease_needed_seconds
        self._lease_remaining = lease_remaining
        self._clock = clock
        self._sleep = sleep
        self._memories: dict[str, HostMemory] = {}
        self._looks: set[str] = set()

    def look_again(self, key: str) -> None:
        """Have the next round ask Azure even where the cluster gives no reason to."""
        self._looks.add(key)

    def forgive(self, identity_key: str) -> list[str]:
        """The identity was changed: try it again everywhere; the hosts where it had been refused."""
        return [key for key, memory in self._memories.items() if memory.forgive([identity_key])]

    def barred(self) -> int:
        """How many identities are held back on how many hosts, for a metric."""
        return sum(len(memory.barred()) for memory in self._memories.values())

    async def round(self, key: str) -> Done:
        """Bring the place a step nearer to what it should be; how, and when, to go on."""
        began = self._clock()
        picture = self._view.place(key)
        if picture.empty:
            self._memories.pop(key, None)
            self._looks.discard(key)
            return Done()
        try:
            return await self._round(key, picture)
        finally:
            self._measures.round_done(self._clock() - began)

    async def revoke(self, key: str) -> Done:
        """Revoke what nobody wants any more. Beside the rounds, since those may be waiting for Azure."""
        written = await self._writer.carry_out(plan.revocations(self._view.place(key)))
        return Done(failed=written.error is not None, again_after=REFUSED_SECONDS if written.refused else None)

    async def _round(self, key: str, picture: Picture) -> Done:
        memory = self._memories.setdefault(key, HostMemory(self._clock))
        asked = await self._look(key, picture, memory)
        before = await self._writer.carry_out(plan.prepare(picture, memory.known, self._policy))
        if asked:
            # Also where some write failed: what has no record is not added, and what still stands is not taken off.
            await self._change(key, memory)
        picture = self._view.place(key)
        why = self._reasons(picture, memory)
        after = await self._writer.carry_out(plan.settle(picture, memory.known, self._policy, why))
        error = before.error or after.error
        if error is not None:
            return Done(failed=True)
        if before.stale or after.stale:
            return Done(again_after=STALE_SECONDS)
        again = self._next_try(self._view.place(key), memory, asked=asked)
        if before.refused or after.refused:
            again = REFUSED_SECONDS if again is None else min(again, REFUSED_SECONDS)
        return Done(again_after=again)

    async def _look(self, key: str, picture: Picture, memory: HostMemory) -> bool:
        """Ask Azure if there is reason to and the time has come; whether `memory.known` is fresh."""
        host = picture.host
        due = key in self._looks or self._asks(picture, memory)
        if host is None or not due or memory.reads.until > self._clock():
            return False
        if memory.known is not None and memory.writes.until > self._clock() and key not in self._looks:
            return False  # nothing could be done about the answer yet
        self._looks.discard(key)
        return await self._read(host, memory)

    async def _read(self, host: Host, memory: HostMemory) -> bool:
        try:
            memory.known = await self._hosts.get(host)
        except AzureError as error:
            memory.reads.failed(error, self._clock())
            self._warn("Azure did not say what is on the host; trying again", host, error)
            memory.known = None
            return False
        memory.reads.succeeded()
        return True

    async def _change(self, key: str, memory: HostMemory) -> None:
        """One merged update of the host, and another without what Azure refuses in it."""
        conflicts = retries = 0
        while memory.known is not None and not memory.known.gone and memory.writes.until <= self._clock():
            host = self._view.place(key).host
            if host is None or self._planned(self._view.place(key), memory) is None:
                return
            if not await self._may_write(host, memory):
                return
            change = self._planned(
                self._view.place(key), memory
            )  # anew: waiting for the lease or for Azure took its time
            if change is None:
                return
            try:
                memory.known = await self._hosts.update(host, change)
            except AzureError as error:
                again = await self._failed(host, memory, change, error)
                match error:
                    case BadIdentities() if again and retries < self._max_retries:
                        retries += 1
                        await self._sleep(self._retry_seconds)
                    case Refused() if again and not isinstance(error, BadIdentities):
                        continue  # half of it, at once: it is known how many halves there are
                    case Conflict() if again and conflicts < CONFLICTS_MOST:
                        conflicts += 1
                    case _:
                        return
                continue
            memory.changed = True
            memory.writes.succeeded()
            memory.most_adds = MOST_IN_ONE_UPDATE
            memory.forgive(text.lower() for text in change.adds)
            log.info(
                "identities on the host changed",
                extra={"vm": host.text, "status": f"{len(change.adds)} added, {len(change.removes)} removed"},
            )
            return

    def _planned(self, picture: Picture, memory: HostMemory) -> Change | None:
        if memory.known is None:
            return None
        return plan.azure_change(picture, memory.known, self._policy, memory.barred(), most_adds=memory.most_adds)

    async def _may_write(self, host: Host, memory: HostMemory) -> bool:
        """Wait until the lease is sure to last for the request, and an earlier leader's operation is over."""
        try:
            async with asyncio.timeout(LEASE_WAIT_SECONDS):
                while self._lease_remaining() <= self._lease_needed:
                    await self._sleep(0.1)
        except TimeoutError:
            log.warning("the leader lease is not renewed in time, so Azure is left alone", extra={"vm": host.text})
            return False
        until, pause = self._clock() + SETTLING_MOST_SECONDS, 0.2
        while not memory.changed and memory.known is not None and memory.known.updating and self._clock() < until:
            await self._sleep(pause)
            pause = min(pause * 1.5, 5.0)
            if not await self._read(host, memory):
                return False
        return memory.known is not None and not memory.known.gone

    async def _failed(self, host: Host, memory: HostMemory, change: Change, error: AzureError) -> bool:
        """Draw the lesson of a failed update, and look at what it has left; whether to try again within this round."""
        adds = [text.lower() for text in change.adds]
        again, about = False, adds
        match error:
            case BadIdentities() if bad := [key for key in adds if key in error.ids]:
                for key in bad:
                    memory.bar([key], _advice(key, error))
                again, about = True, bad
                self._warn("Azure refuses identities, which are left out and tried again later", host, error)
            case Refused() if _narrows(error) and len(adds) > 1:
                memory.most_adds = len(adds) // 2
                again, about = True, []
                self._warn("Azure refuses identities without saying which; trying with half of them", host, error)
            case Refused() if _narrows(error) and adds:
                memory.bar(adds, _advice(adds[0], error))
                again = True
                self._warn("Azure refuses an identity, which is left out and tried again later", host, error)
            case Conflict() if error.status == 412:
                again, about = True, []
            case _:
                memory.writes.failed(error, self._clock())
                self._warn("Azure did not change the host; trying again", host, error)
        for key in about:
            self._tell(key, host, error)
        if not await self._read(host, memory):
            return False
        return again

    def _tell(self, identity_key: str, host: Host, error: AzureError) -> None:
        """Say on the bindings concerned why their identity is not on the host."""
        stake = self._view.place(host.key).stakes.get(identity_key)
        if stake is None or isinstance(error, Conflict):
            return
        for held in list(stake.holders.values())[:TOLD_MOST]:
            spec = held.object.spec
            message = (
                f"Binding {spec.azure_binding_ref.metadata.name} not applied on node {held.node} for pod "
                f"{held.claim.pod_namespace}/{held.claim.pod}: {_advice(stake.identity_id.text, error)}"
            )
            self._recorder.record(spec.azure_binding_ref, BINDINGS, "Warning", APPLY_ERROR, message)

    def _reasons(self, picture: Picture, memory: HostMemory) -> dict[str, str]:
        """Why identities are not on the host, for the objects that wait for them."""
        if memory.known is not None and memory.known.gone and picture.host is not None:
            why = f"Azure knows no {picture.host.text}"
            return dict.fromkeys(picture.stakes, why)
        refusal = memory.reads.refusal or memory.writes.refusal
        if refusal and picture.host is not None:
            why = f"Azure refuses MIC on {picture.host.text} ({refusal}): check its credentials and its role there"
            return dict.fromkeys(picture.stakes, why) | memory.barred()
        return memory.barred()

    def _next_try(self, picture: Picture, memory: HostMemory, *, asked: bool) -> float | None:
        """Seconds until this host is worth another round by itself; None where only an event can make it so."""
        known = memory.known
        if picture.host is None:
            return None
        if known is not None and known.gone:
            return self._gone_seconds if picture.stakes else None
        if not self._asks(picture, memory):
            missing = [
                key for key, stake in picture.stakes.items() if stake.wanted and known and key not in known.attached
            ]
            return memory.next_trial(missing)
        wait = max(memory.reads.until, memory.writes.until) - self._clock()
        if wait > 0:
            return wait
        return STALE_SECONDS if not asked or self._planned(picture, memory) is not None else IDLE_SECONDS

    def _asks(self, picture: Picture, memory: HostMemory) -> bool:
        return plan.asks_azure(picture, memory.known, self._policy, memory.barred())

    def _warn(self, message: str, host: Host, error: AzureError) -> None:
        log.warning(message, extra={"vm": host.text, "status": error.status, "reason": error.code, "error": error})


def _narrows(error: Refused) -> bool:
    """Whether the refusal is about what the update asks for, so that a part of it may be taken."""
    return error.status == 400 or isinstance(error, BadIdentities | Missing)


def _advice(identity_id: str, error: AzureError) -> str:
    """Why the identity is not on the host, and what to do, for whoever made it."""
    match error.code.lower():
        case "linkedauthorizationfailed":
            return f"MIC may not assign {identity_id}: grant it the role Managed Identity Operator there ({error.code})"
        case "failedidentityoperation":
            return f"Azure cannot assign {identity_id}: check that it exists ({error.code})"
        case _:
            return f"Azure did not assign {identity_id}: {error.message}"
