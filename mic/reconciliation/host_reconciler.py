"""Reconcile pass of one VM or scale set: read Azure, write objects, update Azure, write objects again.

`mic.decisions` decides each step from the state at that time. This module makes the calls, keeps the state between
passes, and handles failures. A pass that ends early, by an error or with the process, leaves nothing that the next pass
cannot repair.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Final, Protocol

from mic.azure.errors import AzureError, BadIdentities, Conflict, LooksThrottled, Missing, Refused, SignInFailed
from mic.azure.identities import Change, HostIdentities
from mic.azure.memory import HostMemory
from mic.cluster.view import ClusterView
from mic.decisions import client_ids, completion, host_change, preparation, steps
from mic.decisions.assignments import DesiredAssignment
from mic.decisions.identity_usage import HostView
from mic.decisions.policy import Policy, Restraint
from mic.metrics import MicMetrics
from mic.reconciliation.events import AssignmentEvents, advice, delay, refusal
from mic.reconciliation.left_out import FAULT_SECONDS, Skipped
from mic.reconciliation.work_queue import PassResult
from mic.reconciliation.writer import Writer
from podidentity.azure.resource_ids import Host
from podidentity.kube.events import EventRecorder

log = logging.getLogger(__name__)

REFUSED: Final = (
    "Azure refuses an identity, which is left out and tried again later; see that it exists and MIC may assign it"
)
FAULTY: Final = "an AzureIdentity names another identity's client id and is not assigned; correct its clientID"
BLOCKED_SCAN_MAX: Final = 5000
"""Blocked assignments that one scrape skips: some milliseconds, because it blocks the event loop."""
SHOWN_MOST: Final = 100
"""Hosts that /debug/state lists."""
DOUBT_SECONDS: Final = 30.0
"""Age of a response after which MIC reads the host again before it reports an AzureIdentity as faulty."""
STALE_SECONDS: Final = 0.05
"""Pause before a pass is repeated because an object had changed."""
CONFLICTS_MOST: Final = 3
"""Reads per pass of a host that another client changes concurrently."""
LEASE_WAIT_SECONDS: Final = 30.0
REFUSED_SECONDS: Final = 15.0
"""Pause before MIC writes an object again that the API server refused; events of the host trigger it too."""
IDLE_SECONDS: Final = 30.0
"""Pause of a host that waits for an event, in case the event is lost."""


class Hosts(Protocol):
    """The requests to Azure: `mic.azure.compute.Compute`, or a fake."""

    async def get(self, host: Host) -> HostIdentities:
        """Return the identities of the host; `GONE` if it does not exist. Raise AzureError."""

    async def update(self, host: Host, change: Change) -> HostIdentities:
        """Make the change and return the identities afterwards. Raise AzureError."""


class HostReconciler:
    """Reconcile passes of all hosts. The work queue runs at most one pass per host concurrently."""

    def __init__(
        self,
        view: ClusterView,
        writer: Writer,
        hosts: Hosts,
        recorder: EventRecorder,
        metrics: MicMetrics,
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
        self._view = view
        self._writer = writer
        self._hosts = hosts
        self._recorder = recorder
        self._metrics = metrics
        self._policy = policy
        self._max_retries = max_retries
        self._retry_seconds = retry_seconds
        self._grace_seconds = grace_seconds
        self._gone_seconds = gone_seconds
        self._lease_needed = lease_needed_seconds
        self._lease_remaining = lease_remaining
        self._clock = clock
        self._sleep = sleep
        self._memories: dict[str, HostMemory] = {}
        self._looks: set[str] = set()

    def look_again(self, key: str) -> None:
        """Make the next pass read the host from Azure even without a reason in the cluster."""
        self._looks.add(key)

    def protect(self, identity: str) -> None:
        """Never detach the identity with this client id or resource id from now on."""
        self._policy = replace(self._policy, immutable=self._policy.immutable | {identity.lower()})

    def retry_identity(self, identity_key: str) -> list[str]:
        """Retry a changed identity on every host, apart from others. Return the hosts where Azure had refused it."""
        return [key for key, memory in self._memories.items() if memory.retry_now(identity_key)]

    def quarantined(self) -> int:
        """Return the number of quarantined identities, counted per host, for a metric."""
        return sum(len(memory.quarantined()) for memory in self._memories.values())

    def oldest_pending_seconds(self) -> float:
        """Return the age of the oldest pending assignment that is not blocked by a quarantined identity or a faulty
        AzureIdentity.

        If more than BLOCKED_SCAN_MAX are blocked, the next one counts as not blocked.
        """
        now = self._clock()
        for number, (key, since) in enumerate(self._view.waiting.items()):
            if number >= BLOCKED_SCAN_MAX:
                return max(0.0, now - since)
            assignment = self._view.assignment(key)
            desired = assignment.desired if assignment is not None else None
            if assignment is None or desired is None:
                continue
            memories = [
                self._memories[host_key] for host_key in assignment.out_of_sync_at if host_key in self._memories
            ]
            if not any(_is_blocked(desired, each) for each in memories):
                return max(0.0, now - since)
        return 0.0

    def state(self) -> dict[str, object]:
        """Return the hosts with a notable state, for /debug/state; only the first ones if there are many."""
        notable = {key: state for key, memory in self._memories.items() if (state := memory.state())}
        return {"known": len(self._memories), "noted": len(notable), "first": dict(islice(notable.items(), SHOWN_MOST))}

    async def reconcile(self, key: str) -> PassResult:
        """Run one pass for the host and return when to run the next one."""
        began = self._clock()
        host_view = self._view.host_state(key)
        if host_view.empty:
            self._memories.pop(key, None)
            self._looks.discard(key)
            return PassResult()
        try:
            return await self._reconcile(key, host_view)
        finally:
            self._metrics.reconciled(self._clock() - began)

    async def revoke(self, key: str) -> PassResult:
        """Revoke objects without a desired assignment. Runs in parallel with passes, which may wait for Azure."""
        written = await self._writer.carry_out(preparation.revocations(self._view.host_state(key)))
        again = STALE_SECONDS if written.stale else REFUSED_SECONDS if written.refused else None
        return PassResult(failed=written.error is not None, again_after=again)

    async def assign(self, key: str) -> PassResult:
        """Write assignments that need no host. Runs in parallel with passes, which may wait for Azure. A pass repeats
        writes that the API server refuses."""
        skipped = Skipped(key, self._metrics)
        written = await self._writer.carry_out(
            preparation.independent(self._view.host_state(key), self._policy, skipped.note)
        )
        again = STALE_SECONDS if written.stale else FAULT_SECONDS if skipped else None
        return PassResult(failed=written.error is not None, again_after=again)

    async def _reconcile(self, key: str, host_view: HostView) -> PassResult:
        memory = self._memories.setdefault(key, HostMemory(self._clock))
        asked = await self._look(key, host_view, memory)
        if asked and memory.known is not None and memory.known.gone:
            self._report_lost(self._view.host_state(key))
        skipped = Skipped(key, self._metrics)
        before = await self._writer.carry_out(preparation.prepare(host_view, memory.known, self._policy, skipped.note))
        failed: dict[str, str] = {}
        if asked:
            # Also after a failed write: an identity without a record is not attached, one in use is not detached.
            failed = await self._change(key, memory)
        host_view = self._view.host_state(key)
        outcomes = completion.finish(
            host_view, memory.known, self._policy, self._reasons(host_view, memory), skipped.note
        )
        self._report_failed(host_view, failed, outcomes)
        after = await self._writer.carry_out(outcomes)
        error = before.error or after.error
        if error is not None:
            return PassResult(failed=True)
        if before.stale or after.stale:
            return PassResult(again_after=STALE_SECONDS)
        again = self._next_try(key, memory, asked=asked)
        if before.refused or after.refused:
            again = REFUSED_SECONDS if again is None else min(again, REFUSED_SECONDS)
        if skipped:
            again = FAULT_SECONDS if again is None else max(again, FAULT_SECONDS)
        return PassResult(again_after=again)

    async def _look(self, key: str, host_view: HostView, memory: HostMemory) -> bool:
        """Read the host if there is a reason and the time has come. Return whether `memory.known` is fresh."""
        host = host_view.host
        due = key in self._looks or self._asks(host_view, memory) or self._doubts(host_view, memory)
        if host is None or not due or memory.reads.until > self._clock():
            return False
        if memory.known is not None and memory.writes.until > self._clock() and key not in self._looks:
            return False  # MIC could not act on the response yet
        self._looks.discard(key)
        return await self._read(host, memory)

    async def _read(self, host: Host, memory: HostMemory) -> bool:
        """Read the host. Return whether the response is reliable."""
        try:
            found = await self._hosts.get(host)
        except AzureError as error:
            memory.unanswered(error, refusal(host, error))
            self._warn("cannot read the host's identities from Azure; trying again", host, error)
            return False
        memory.learn(found, self._gone_seconds)
        if found.gone:
            log.warning(
                "Azure does not know the host of a node; reading it again before its objects are removed",
                extra={"vm": host.text, "seconds": round(memory.reads.until - self._clock())},
            )
        return memory.known is not None

    async def _change(self, key: str, memory: HostMemory) -> dict[str, str]:
        """Update the host, and again without the identities that Azure refuses. Return the identities (keys) that an
        update left out or failed to attach, with the reason."""
        failed: dict[str, str] = {}
        conflicts = retries = 0
        while (ready := await self._next_change(key, memory)) is not None:
            host, change = ready
            try:
                after = await self._hosts.update(host, change)
            except AzureError as error:
                again = await self._failed(host, memory, change, error, failed)
                match error:
                    case BadIdentities() if again and retries < self._max_retries:
                        retries += 1
                        await self._sleep(self._retry_seconds)
                    case Refused() if again and not isinstance(error, BadIdentities):
                        pass  # continue with a part immediately: the number of parts is limited
                    case Conflict() if again and conflicts < CONFLICTS_MOST:
                        conflicts += 1
                    case _:
                        break
                continue
            memory.learn(after, self._gone_seconds)
            if after.gone:
                break
            if not after.shows(change):
                idle = AzureError("Azure accepted the update, but the host does not show it")
                memory.had_no_effect(idle)
                self._warn("an update had no effect; trying again", host, idle)
                break
            memory.accepted([text.lower() for text in (*change.adds, *change.removes)])
            log.info(
                "identities on the host changed",
                extra={"vm": host.text, "status": f"{len(change.adds)} added, {len(change.removes)} removed"},
            )
            break
        return failed

    async def _next_change(self, key: str, memory: HostMemory) -> tuple[Host, Change] | None:
        """Return the update to send now, if any, from the current state. If it could overwrite another client's change,
        MIC reads the host first."""
        host = self._view.host_state(key).host
        if host is None or memory.writes.until > self._clock() or self._planned(key, memory) is None:
            return None
        if not await self._may_write(host, memory):
            return None
        change = self._planned(key, memory)  # planned again, because the wait for the lease or for Azure took time
        if change is not None and change.retypes and not change.etag:
            change = self._planned(key, memory) if await self._read(host, memory) else None
        return None if change is None else (host, change)

    def _planned(self, key: str, memory: HostMemory) -> Change | None:
        if memory.known is None or memory.known.gone:
            return None
        host_view = self._view.host_state(key)
        return host_change.azure_change(host_view, memory.known, self._policy, self._restraint(host_view, memory))

    def _restraint(self, host_view: HostView, memory: HostMemory) -> Restraint:
        warm = memory.warm(host_change.idle(host_view), self._grace_seconds)
        return Restraint(memory.quarantined(), memory.retry_due(), warm, memory.most)

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
        return memory.known is not None and not memory.known.gone

    async def _operation_ends(self, host: Host, memory: HostMemory) -> None:
        """Wait for an operation that an earlier leader, or this process before its connection broke, may have started.
        Until its end Azure shows only its intended result."""
        while memory.doubtful:
            await self._sleep(memory.next_poll())
            await self._read(host, memory)

    async def _failed(
        self, host: Host, memory: HostMemory, change: Change, error: AzureError, failed: dict[str, str]
    ) -> bool:
        """Process a failed update: record the refused identities in *failed*, and read the host again. Return whether
        to retry now."""
        texts = {text.lower(): text for text in (*change.adds, *change.removes)}
        adds = {text.lower() for text in change.adds}
        on_host = memory.known.attached.keys() if memory.known is not None else set()
        again, about, why = True, [*texts], ""
        memory.over = False
        match error:
            case BadIdentities() if bad := [key for key in texts if key in error.ids]:
                for key in bad:
                    memory.quarantine(key, advice(texts[key], error), adding=key in adds)
                    self._warn(REFUSED, host, error, texts[key])
                about = bad
            case Refused() if _narrows(error, on_host) and len(texts) > 1:
                memory.refused_together(texts.keys())
                about = []
                self._warn("Azure refuses identities without saying which; trying with a part of them", host, error)
            case Refused() if _narrows(error, on_host):
                (key,) = about
                memory.refused_alone(key, advice(texts[key], error), adding=key in adds)
                self._warn(REFUSED, host, error, texts[key])
            case Conflict() if error.status == 412:
                about = []
            case LooksThrottled():
                memory.unanswered(error, "")
                self._warn("Azure does not say for now how an update went; looking again later", host, error)
                return False
            case _:
                again, why = False, refusal(host, error)
                memory.writes.failed(error, self._clock(), why)
                self._warn("Azure did not change the host; trying again", host, error)
        if not isinstance(error, Conflict):
            failed |= {key: why or advice(texts[key], error) for key in about if key in adds}
        return await self._read(host, memory) and again

    def _report_failed(
        self, host_view: HostView, failed: Mapping[str, str], outcomes: Iterable[steps.FinishStep]
    ) -> None:
        """Record Events with the reason why identities are not attached: for the pods of each newly failed identity,
        and for objects that have no message yet."""
        events = AssignmentEvents(self._recorder)
        for key, why in failed.items():
            usage = host_view.usages.get(key)
            events.not_applied(usage.active.values() if usage else (), why)
        for step in outcomes:
            if not isinstance(step, steps.Explain) or step.existing.identity_id is None:
                continue
            if step.existing.identity_id.key not in failed or step.identity_at_fault:
                events.not_applied([step.existing], step.message)
            if step.identity_at_fault:
                events.invalid_identity(step.existing, step.message)
                identity = "/".join(step.existing.object.spec.azure_identity_ref.key)
                log.warning(FAULTY, extra={"identity": identity, "error": step.message})

    def _report_lost(self, host_view: HostView) -> None:
        """Record Events for the pods that wait on a host that Azure no longer knows."""
        if host_view.host is None:
            return
        why, events = _lost(host_view.host), AssignmentEvents(self._recorder)
        events.not_applied((existing for usage in host_view.usages.values() for existing in usage.active.values()), why)
        out_of_sync = host_view.out_of_sync_assignments()
        events.not_created(
            (desired for desired, active in out_of_sync if desired and desired.identity_id and not active), why
        )

    def _reasons(self, host_view: HostView, memory: HostMemory) -> dict[str, str]:
        """Return why identities are not attached, for the messages of their objects."""
        if memory.missing_since is not None and host_view.host is not None:
            return dict.fromkeys(host_view.usages, _lost(host_view.host))
        if why := memory.reads.refusal or memory.writes.refusal:
            return dict.fromkeys(host_view.usages, why) | memory.quarantined()
        if memory.delayed() and host_view.host is not None:
            return dict.fromkeys(host_view.usages, delay(host_view.host)) | memory.quarantined()
        return memory.quarantined()

    def _next_try(self, key: str, memory: HostMemory, *, asked: bool) -> float | None:
        """Return the seconds until the next pass of this host, or None if only an event can require one."""
        host_view = self._view.host_state(key)
        if host_view.host is None:
            return None
        if not self._asks(host_view, memory):
            return self._next_retry(host_view, memory)
        wait = max(memory.reads.until, memory.writes.until) - self._clock()
        if wait > 0:
            return wait
        if not asked or self._planned(key, memory) is not None:
            return STALE_SECONDS
        return memory.next_poll() if memory.known is not None and memory.known.updating else IDLE_SECONDS

    def _next_retry(self, host_view: HostView, memory: HostMemory) -> float | None:
        """Return the seconds until the next retry of a refused identity or the end of a grace period."""
        if memory.known is None:
            return None
        attached, retries = memory.known.attached, []
        for key, usage in host_view.usages.items():
            if (usage.needed > 0) != (key in attached) and (retry := memory.next_retry(key)) is not None:
                retries.append(retry)
        warm = memory.warm(host_change.idle(host_view), self._grace_seconds)
        return min([*retries, *(seconds for key, seconds in warm.items() if key in attached)], default=None)

    def _doubts(self, host_view: HostView, memory: HostMemory) -> bool:
        """Return whether to read the host again before MIC reports a faulty AzureIdentity. Not soon after the last
        response: a client that changes AzureIdentities without end must not cause calls without end."""
        old = memory.known is not None and self._clock() - memory.learned_at >= DOUBT_SECONDS
        return old and memory.known is not None and client_ids.is_news(host_view, memory.known)

    def _asks(self, host_view: HostView, memory: HostMemory) -> bool:
        return host_change.asks_azure(host_view, memory.known, self._policy, self._restraint(host_view, memory))

    def _warn(self, message: str, host: Host, error: AzureError, identity: str | None = None) -> None:
        about = {"identity": identity, "status": error.status, "reason": error.code, "error": error, "vm": host.text}
        log.warning(message, extra=about)


def _is_blocked(desired: DesiredAssignment, memory: HostMemory) -> bool:
    """Return whether *desired* is blocked on this host until its identity is corrected."""
    key = desired.identity_id.key if desired.identity_id is not None else ""
    return memory.was_refused(key) or bool(client_ids.fault(desired, memory.known))


def _narrows(error: Refused, on_host: Collection[str]) -> bool:
    """Return whether the refusal concerns the content of the update, so that Azure may accept a part. It does not if it
    names only identities that are already attached."""
    if isinstance(error, BadIdentities):
        return error.ids.isdisjoint(on_host)
    return isinstance(error, Missing) or (error.status == 400 and not isinstance(error, SignInFailed))


def _lost(host: Host) -> str:
    return f"Azure knows no {host.text}: see whether it still exists and MIC may read it, or delete its node"
