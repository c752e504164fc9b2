"""Queues and workers that run the reconcile passes: for each dirty host soon, and periodically for all hosts."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

from mic.cluster.view import ClusterView
from mic.reconciliation.work_queue import PassResult, WorkQueue
from podidentity.azure.resource_ids import id_key
from podidentity.resources import AzureIdentity

log = logging.getLogger(__name__)

COLLECT_SECONDS: Final = 0.01
"""Time for which events of a host are collected: one drained node then causes one pass over its host."""


class HostPasses(Protocol):
    """The passes that the controller runs: `HostReconciler`, or a fake."""

    async def reconcile(self, key: str) -> PassResult:
        """Reconcile the host once."""

    async def revoke(self, key: str) -> PassResult:
        """Revoke objects of the host without a desired assignment."""

    async def assign(self, key: str) -> PassResult:
        """Write assignments of the host's pods that need no host."""

    def request_read(self, key: str) -> None:
        """Make the next pass read the host from Azure."""

    def retry_identity(self, identity_key: str) -> list[str]:
        """Retry the identity. Return the hosts where Azure had refused it."""


class Controller:
    """Owner of the queues and their tasks. `running` is true while passes run.

    A pass may wait minutes for Azure. Revocations therefore have their own queue, so that NMI stops serving a deleted
    pod, or one without a binding, without that delay. Assignments that need no host have another, because they never
    involve Azure. The two are separate because the latter may be many writes, and no revocation may wait for them.
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
        """*look_seconds*: interval at which each host is compared with Azure. *resync_seconds*: interval at which every
        host that is out of sync gets a pass, with or without an event. *on_fault* is called after a pass raised an
        exception."""
        self._view = view
        self._passes = WorkQueue(clock=clock, on_fault=on_fault)
        # The maximum equals the time without events: further ones must not postpone a revocation.
        self._revocations, self._assignments = (
            WorkQueue(
                gather_seconds=COLLECT_SECONDS, gather_most_seconds=COLLECT_SECONDS, clock=clock, on_fault=on_fault
            )
            for _ in range(2)
        )
        self._host_reconciler = host_reconciler
        self._look_seconds = look_seconds
        self._resync_seconds = resync_seconds
        self.running = False

    def __len__(self) -> int:
        """Return the number of hosts with a waiting or running pass."""
        return len(self._passes)

    def state(self) -> dict[str, object]:
        """Return the state of the queues, for /debug/state."""
        return {
            "rounds": self._passes.state(),
            "revocations": self._revocations.state(),
            "assignments": self._assignments.state(),
        }

    def dirty(self, key: str) -> None:
        """Queue the host, which is out of sync."""
        self._revocations.add(key)
        self._assignments.add(key)
        self._passes.add(key)

    def identity_changed(self, identity: AzureIdentity) -> None:
        """Retry the identity where Azure had refused it, because the change may have corrected it."""
        for key in self._host_reconciler.retry_identity(id_key(identity.spec.resource_id)):
            self._passes.add(key)

    async def run(self) -> NoReturn:
        """Run passes until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._revocations.run(self._host_reconciler.revoke), name="revoke")
            tasks.create_task(self._assignments.run(self._host_reconciler.assign), name="assignments without a host")
            tasks.create_task(self._read_all_hosts(), name="compare hosts with Azure")
            tasks.create_task(self._resync(), name="full resync")
            self.running = True
            try:
                await self._passes.run(self._host_reconciler.reconcile)
            finally:
                self.running = False

    async def _read_all_hosts(self) -> NoReturn:
        """Read each host once per interval, spread evenly, without a peak at Azure or in the event loop."""
        while True:
            # The others have nothing that could differ from Azure.
            keys = [host.key for host in self._view.host_states() if host.host is not None and host.usages]
            # Plus one, so that the loop pauses without any host too.
            pause = self._look_seconds / (len(keys) + 1)
            for key in keys:
                await asyncio.sleep(pause)
                self._host_reconciler.request_read(key)
                # The passes only: Azure's state causes no revocation and no write without a host.
                self._passes.later(key, 0.0)
            await asyncio.sleep(pause)

    async def _resync(self) -> NoReturn:
        while True:
            await asyncio.sleep(self._resync_seconds)
            keys = [host.key for host in self._view.host_states() if host.has_work]
            log.info("full resync", extra={"count": len(keys)})
            for key in keys:
                self._passes.later(key, 0.0)
