"""Drives the rounds: what the view marks dirty is worked on soon, and everything is looked at from time to time."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

from mic.cluster.view import ClusterView
from mic.reconciliation.work_queue import PassResult, WorkQueue
from podidentity.resources import AzureIdentity

log = logging.getLogger(__name__)

BESIDE_SECONDS: Final = 0.01
"""One drain of a node is one sweep over its host's open claims, and nobody notices ten milliseconds."""


class HostPasses(Protocol):
    """What is driven: `mic.reconciliation.host_reconciler.Applier`."""

    async def reconcile(self, key: str) -> PassResult:
        """Bring the place a step nearer to what it should be."""

    async def revoke(self, key: str) -> PassResult:
        """Revoke what nobody wants any more there."""

    async def assign(self, key: str) -> PassResult:
        """Write what pods need there that no host has to have."""

    def look_again(self, key: str) -> None:
        """Have the next round ask Azure in any case."""

    def retry_identity(self, identity_key: str) -> list[str]:
        """Try the identity again; the places where it had been refused."""


class Controller:
    """Owns the tasks that give rounds. `running` turns true once they are given.

    A round may be waiting minutes for Azure. So revocations have a queue of their own, as a pod that is gone, or whose
    binding is, must not be served for so long; and so has the assigning of what is on no host, which never concerns
    Azure. The two are apart, since the latter may be many writes and no revocation is to wait for them.
    """

    def __init__(
        self,
        view: ClusterView,
        host_reconciler: HostPasses,
        *,
        look_seconds: float,
        resync_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        on_fault: Callable[[], None] = lambda: None,
    ) -> None:
        """*look_seconds*: how often each host is compared with Azure; *resync_seconds*: how often everything that is
        not as it should be gets a round whether or not an event asked for one. *on_fault* is called when a pass has
        raised an exception."""
        self._view = view
        self._passes = WorkQueue(clock=clock, on_fault=on_fault)
        self._revocations, self._assignments = (
            WorkQueue(gather_seconds=BESIDE_SECONDS, gather_most_seconds=BESIDE_SECONDS, clock=clock, on_fault=on_fault)
            for _ in range(2)
        )
        self._host_reconciler = host_reconciler
        self._look_seconds = look_seconds
        self._resync_seconds = resync_seconds
        self.running = False

    def __len__(self) -> int:
        """Hosts that wait for a round or have one."""
        return len(self._passes)

    def state(self) -> dict[str, object]:
        """For /debug/state."""
        return {
            "rounds": self._passes.state(),
            "revocations": self._revocations.state(),
            "assignments": self._assignments.state(),
        }

    def dirty(self, key: str) -> None:
        """Something about this place is not as it should be."""
        self._revocations.add(key)
        self._assignments.add(key)
        self._passes.add(key)

    def identity_changed(self, identity: AzureIdentity) -> None:
        """Try it again where Azure had refused it: whoever changed it may have put it right."""
        for key in self._host_reconciler.retry_identity(identity.spec.resource_id.lower()):
            self._passes.add(key)

    async def run(self) -> NoReturn:
        """Give rounds until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._revocations.run(self._host_reconciler.revoke), name="revoke")
            tasks.create_task(self._assignments.run(self._host_reconciler.assign), name="assign what is on no host")
            tasks.create_task(self._look_at_all(), name="compare hosts with Azure")
            tasks.create_task(self._resync(), name="full resync")
            self.running = True
            try:
                await self._passes.run(self._host_reconciler.reconcile)
            finally:
                self.running = False

    async def _look_at_all(self) -> NoReturn:
        """One GET for each host in each interval, spread evenly over it: no peak at Azure, none in our own loop."""
        while True:
            keys = [host.key for host in self._view.host_states() if host.host is not None and host.usages]
            pause = self._look_seconds / (len(keys) + 1)
            for key in keys:
                await asyncio.sleep(pause)
                self._host_reconciler.look_again(key)
                self._passes.later(key, 0.0)
            await asyncio.sleep(pause)

    async def _resync(self) -> NoReturn:
        while True:
            await asyncio.sleep(self._resync_seconds)
            keys = [host.key for host in self._view.host_states() if host.has_work]
            log.info("full resync", extra={"count": len(keys)})
            for key in keys:
                self._passes.later(key, 0.0)
