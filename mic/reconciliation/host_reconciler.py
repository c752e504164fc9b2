"""Reconcile pass of one VM or scale set: read Azure, write objects, update Azure, write objects again.

`mic.decisions` decides each step from the state at that time, `writer` writes the objects, and `host_updater` reads and
updates the host on Azure. This module orders the calls, keeps the state of each host between passes, and decides when
the next pass of a host is due. A pass that ends early, by an error or with the process, leaves nothing that the next
pass cannot repair.
"""

import logging
import time
from collections.abc import Callable
from itertools import islice
from typing import Final

from mic.azure.memory import HostMemory
from mic.cluster.view import ClusterView
from mic.decisions import client_ids, completion, host_change, preparation
from mic.decisions.assignments import DesiredAssignment
from mic.decisions.identity_usage import HostView
from mic.decisions.policy import Policy
from mic.metrics import MicMetrics
from mic.reconciliation.events import AssignmentEvents, delay, lost
from mic.reconciliation.host_updater import HostUpdater
from mic.reconciliation.left_out import FAULT_SECONDS, LeftOutObjects
from mic.reconciliation.work_queue import PassResult
from mic.reconciliation.writer import Writer
from podidentity.kube.events import EventRecorder
from podidentity.kube.object_reports import LINES
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

BLOCKED_SCAN_MAX: Final = 5000
"""Blocked assignments that one scrape skips: some milliseconds, because it blocks the event loop."""
SHOWN_MOST: Final = 100
"""Hosts that /debug/state lists."""
DOUBT_SECONDS: Final = 30.0
"""Age of a response after which MIC reads the host again before it reports an AzureIdentity as faulty."""
STALE_SECONDS: Final = 0.05
"""Pause before a pass is repeated because an object had changed."""
REFUSED_SECONDS: Final = 15.0
"""Pause before MIC writes an object again that the API server refused; events of the host trigger it too."""
IDLE_SECONDS: Final = 30.0
"""Pause of a host that waits for an event, in case the event is lost."""
OMISSION: Final = "more hosts that MIC does not change than are logged individually; podidctl plan lists their nodes"


class HostReconciler:
    """Reconcile passes of all hosts. The work queue runs at most one pass per host concurrently."""

    def __init__(
        self,
        view: ClusterView,
        writer: Writer,
        updater: HostUpdater,
        recorder: EventRecorder,
        metrics: MicMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._writer = writer
        self._recorder = recorder
        self._metrics = metrics
        self._updater = updater
        self._clock = clock
        self._memories: dict[str, HostMemory] = {}
        self._requested_reads: set[str] = set()
        self._lines = LogLimit(burst=LINES.burst, per_second=LINES.per_second, omission=OMISSION, clock=clock)

    def request_read(self, key: str) -> None:
        """Make the next pass read the host from Azure even without a reason in the cluster."""
        self._requested_reads.add(key)

    def protect(self, identity: str) -> None:
        """Neither detach nor assign the cluster's own identity with this client id or resource id from now on."""
        self._updater.protect(identity)

    def retry_identity(self, identity_key: str) -> list[str]:
        """Retry a changed identity on every host, apart from others. Return the hosts where Azure had refused it."""
        return [key for key, memory in self._memories.items() if memory.retry_now(identity_key)]

    def quarantined(self) -> int:
        """Return the number of quarantined identities, counted per host, for a metric."""
        return sum(len(memory.quarantined()) for memory in self._memories.values())

    def oldest_pending_seconds(self) -> float:
        """Return the age of the oldest pending assignment that is not blocked by a quarantined identity, a faulty
        AzureIdentity or a host that MIC may not change.

        If more than BLOCKED_SCAN_MAX are blocked, the next one counts as not blocked.
        """
        now = self._clock()
        # Oldest first, so the first one that is not blocked is the result.
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
            hosts = (self._view.host_state(host_key).host for host_key in assignment.out_of_sync_at)
            allowed = all(host is None or self._updater.policy.allows(host) for host in hosts)
            if allowed and not any(_is_blocked(desired, memory, self._updater.policy) for memory in memories):
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
            # Otherwise every host that ever existed would remain in memory.
            self._memories.pop(key, None)
            self._requested_reads.discard(key)
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
        left_out = LeftOutObjects(key, self._metrics)
        written = await self._writer.carry_out(
            preparation.independent(self._view.host_state(key), self._updater.policy, left_out.note)
        )
        again = STALE_SECONDS if written.stale else FAULT_SECONDS if left_out else None
        return PassResult(failed=written.error is not None, again_after=again)

    async def _reconcile(self, key: str, host_view: HostView) -> PassResult:
        # The host is in the memories from its first pass on, so that its refusal is logged once.
        refusal = self._updater.policy.refusal(host_view.host) if key not in self._memories else ""
        # Anyone with permission to write Nodes can name new hosts without end.
        if refusal and self._lines.allows():
            log.warning("MIC does not change the host of a node", extra={"vm": key, "reason": refusal})
        memory = self._memories.setdefault(key, HostMemory(self._clock))
        fresh = await self._read_if_due(key, host_view, memory)
        # Again after a read only: other passes would repeat the Events.
        if fresh:
            memory.reported_lost.clear()
        if memory.identities is not None and memory.identities.gone:
            AssignmentEvents(self._recorder).lost(self._view.host_state(key), memory.reported_lost)
        left_out = LeftOutObjects(key, self._metrics)
        before = await self._writer.carry_out(
            preparation.prepare(host_view, memory.identities, self._updater.policy, left_out.note)
        )
        failed: dict[str, str] = {}
        if fresh:
            # Also after a failed write: an identity without a record is not attached, one in use is not detached.
            failed = await self._updater.update(key, memory)
        # Again, because the cluster may have changed during the calls.
        host_view = self._view.host_state(key)
        reasons = self._reasons(host_view, memory)
        throttled = memory.reads.throttling or memory.writes.throttling
        outcomes = completion.finish(
            host_view,
            memory.identities,
            self._updater.policy,
            reasons,
            left_out.note,
            delays=dict.fromkeys(host_view.usages, throttled),
        )
        AssignmentEvents(self._recorder).failed(host_view, failed, outcomes)
        after = await self._writer.carry_out(outcomes)
        error = before.error or after.error
        if error is not None:
            return PassResult(failed=True)
        if before.stale or after.stale:
            return PassResult(again_after=STALE_SECONDS)
        again = self._next_try(key, memory, fresh=fresh)
        if before.refused or after.refused:
            again = REFUSED_SECONDS if again is None else min(again, REFUSED_SECONDS)
        if left_out:
            again = FAULT_SECONDS if again is None else max(again, FAULT_SECONDS)
        return PassResult(again_after=again)

    async def _read_if_due(self, key: str, host_view: HostView, memory: HostMemory) -> bool:
        """Read the host if there is a reason and the time has come. Return whether `memory.identities` is fresh."""
        host = host_view.host
        due = (
            key in self._requested_reads or self._needs_read(host_view, memory) or self._is_uncertain(host_view, memory)
        )
        if host is None or not due or memory.reads.until > self._clock() or not self._updater.policy.allows(host):
            return False
        if memory.identities is not None and memory.writes.until > self._clock() and key not in self._requested_reads:
            return False  # MIC could not act on the response yet
        # Before the read, so that a request during it causes another one.
        self._requested_reads.discard(key)
        return await self._updater.read(host, memory)

    def _reasons(self, host_view: HostView, memory: HostMemory) -> dict[str, str]:
        """Return why identities are not attached, for the messages of their objects."""
        if memory.missing_since is not None and host_view.host is not None:
            return dict.fromkeys(host_view.usages, lost(host_view.host))
        if reason := memory.reads.refusal or memory.writes.refusal:
            # The reason of one identity is more precise than that of its host.
            return dict.fromkeys(host_view.usages, reason) | memory.quarantined()
        if (cause := memory.delay_cause()) and host_view.host is not None:
            reason = cause.throttling or delay(host_view.host, cause.response)
            return dict.fromkeys(host_view.usages, reason) | memory.quarantined()
        return memory.quarantined()

    def _next_try(self, key: str, memory: HostMemory, *, fresh: bool) -> float | None:
        """Return the seconds until the next pass of this host, or None if only an event can require one."""
        host_view = self._view.host_state(key)
        if host_view.host is None:
            return None
        if not self._needs_read(host_view, memory):
            return self._next_retry(host_view, memory)
        # Both, because a read without the following update changes nothing.
        wait = max(memory.reads.until, memory.writes.until) - self._clock()
        if wait > 0:
            return wait
        if not fresh or self._updater.planned(key, memory) is not None:
            return STALE_SECONDS
        return memory.next_poll() if memory.identities is not None and memory.identities.updating else IDLE_SECONDS

    def _next_retry(self, host_view: HostView, memory: HostMemory) -> float | None:
        """Return the seconds until the next retry of a refused identity or the end of a grace period."""
        if memory.identities is None:
            return None
        attached, retries = memory.identities.attached, []
        for key, usage in host_view.usages.items():
            # An identity that is already as pods need it causes no pass.
            if (usage.needed > 0) != (key in attached) and (retry := memory.next_retry(key)) is not None:
                retries.append(retry)
        in_grace_period = self._updater.in_grace_period(host_view, memory)
        return min([*retries, *(seconds for key, seconds in in_grace_period.items() if key in attached)], default=None)

    def _is_uncertain(self, host_view: HostView, memory: HostMemory) -> bool:
        """Return whether to read the host again before MIC reports a faulty AzureIdentity. Not soon after the last
        response: a client that changes AzureIdentities without end must not cause calls without end."""
        old = memory.identities is not None and self._clock() - memory.learned_at >= DOUBT_SECONDS
        return (
            old
            and memory.identities is not None
            and client_ids.is_news(host_view, memory.identities, self._updater.policy)
        )

    def _needs_read(self, host_view: HostView, memory: HostMemory) -> bool:
        return host_change.needs_read(
            host_view, memory.identities, self._updater.policy, self._updater.restraint(host_view, memory)
        )


def _is_blocked(desired: DesiredAssignment, memory: HostMemory, policy: Policy) -> bool:
    """Return whether *desired* is blocked on this host until its identity is corrected."""
    key = desired.identity_id.key if desired.identity_id is not None else ""
    return memory.was_refused(key) or bool(client_ids.fault(desired, memory.identities, policy))
