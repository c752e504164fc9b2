"""The demo of the README, end to end: each step is executed, observed and reported.

It applies the manifests of `deploy/demo`, waits until MIC assigns and ARM changes, reads the four lines of the demo
pod, and removes everything, including the rule on the node. Each report contains observations only.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from typing_extensions import override

from podidentity.kube.informer import Informer
from podidentity.resources import ASSIGNED, ASSIGNED_IDENTITIES, CREATED, AzureAssignedIdentity
from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.cluster import DEMO, read_documents
from podidentity_sandbox.demo_run import POLL_SECONDS, DemoError, DemoRun, Step
from podidentity_sandbox.machines import Machine
from podidentity_sandbox.sandbox import Sandbox

T = TypeVar("T")


class _Statuses:
    """The statuses of every assigned identity, in order; None after its deletion."""

    def __init__(self) -> None:
        self.seen: dict[str, list[str | None]] = {}
        self.changed = asyncio.Event()

    def upserted(self, old: AzureAssignedIdentity | None, new: AzureAssignedIdentity) -> None:
        del old
        self._note(new.metadata.name, new.status.status)

    def deleted(self, old: AzureAssignedIdentity) -> None:
        self._note(old.metadata.name, None)

    def _note(self, name: str, status: str | None) -> None:
        statuses = self.seen.setdefault(name, [])
        if not statuses or statuses[-1] != status:
            statuses.append(status)
        self.changed.set()

    async def until(self, wanted: Callable[[], T | None]) -> T:
        """Return the result of *wanted* as soon as a change makes it other than None."""
        while True:
            found = wanted()
            if found is not None:
                return found
            self.changed.clear()
            await self.changed.wait()


class Demo(DemoRun):
    """A demo with a user-assigned identity (type 0), which MIC attaches to the node's VM."""

    def __init__(self, sandbox: Sandbox, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(sandbox, clock=clock)
        self._statuses = _Statuses()

    @override
    async def steps(self) -> AsyncIterator[Step]:
        sandbox = self._sandbox
        try:
            yield await self._step("start the sandbox, MIC and NMI", self._start)
            informer = Informer(sandbox.cluster.client, ASSIGNED_IDENTITIES, self._statuses)
            watching = asyncio.create_task(informer.run(), name="watch assigned identities")
            try:
                yield await self._step("look at the node's nat rule", self._rule_present)
                yield await self._step("apply deploy/demo: identity, binding, pod", self._apply_files)
                yield await self._step("the pod runs", self._runs)
                yield await self._step("MIC assigns: AzureAssignedIdentity", self._assigned)
                yield await self._step("ARM: the VM has the identity", self._on_vm)
                yield await self._step("the pod uses its identity: kubectl logs demo", self._four_lines)
                yield await self._step("delete pod, binding and identity", self._delete_files)
                yield await self._step("MIC revokes: AzureAssignedIdentity", self._revoked)
                yield await self._step("ARM: the identity has left the VM", self._off_vm)
            finally:
                watching.cancel()
                await asyncio.wait([watching])
            yield await self._step("stop NMI: the node's nat table", self._rule_gone)
        finally:
            await sandbox.stop()

    async def _apply_files(self) -> str:
        return await self._apply(await asyncio.to_thread(read_documents, DEMO))

    async def _runs(self) -> str:
        return await self._pod_runs("demo")

    async def _assigned(self) -> str:
        def assigned() -> tuple[str, list[str | None]] | None:
            found = (entry for entry in self._statuses.seen.items() if entry[1][-1] == ASSIGNED)
            return next(found, None)

        name, statuses = await self._statuses.until(assigned)
        if statuses != [CREATED, ASSIGNED]:
            raise DemoError(f"{name} went through {statuses} instead of {CREATED}, {ASSIGNED}")
        return f"{name}: {' → '.join(str(status) for status in statuses)}"

    async def _on_vm(self) -> str:
        machine = self._machine()
        if self._sandbox.azure.demo.resource_id.lower() not in machine.identities:
            raise DemoError(f"ARM shows {sorted(machine.identities)} on {machine.name}")
        return f"{machine.name}: {machine.document()['identity']['type']}, {self._sandbox.azure.demo.resource_id}"

    async def _four_lines(self) -> str:
        endpoint = f"{self._sandbox.metadata_url(self._sandbox.node_names[0])}/metadata/identity/oauth2/token"
        wanted = [
            "successfully doARMOperations vm count 1",
            f"successfully acquired a token using the MSI, msiEndpoint({endpoint})",
            f"successfully acquired a token, userAssignedID MSI, msiEndpoint({endpoint}) clientID({DEMO_CLIENT_ID})",
            "successfully made GET on instance metadata",
        ]
        while True:
            said = (await self._sandbox.cluster.pod_log("default", "demo")).splitlines()
            self.lines = [line for line in said if line.startswith("successfully")]
            if set(wanted) <= set(self.lines):
                self.lines = wanted
                return "\n".join(wanted)
            await asyncio.sleep(POLL_SECONDS)

    async def _delete_files(self) -> str:
        return await self._delete(await asyncio.to_thread(read_documents, DEMO))

    async def _revoked(self) -> str:
        def all_gone() -> bool | None:
            return all(statuses[-1] is None for statuses in self._statuses.seen.values()) or None

        await self._statuses.until(all_gone)
        return "gone"

    async def _off_vm(self) -> str:
        machine = self._machine()
        while True:
            if not machine.identities and not machine.updating:
                break
            await asyncio.sleep(POLL_SECONDS)
        writes = len(self._sandbox.azure.arm.writes(machine.resource_id))
        return f"{machine.name}: no identity; {writes} PATCHes in all"

    def _machine(self) -> Machine:
        return self._sandbox.azure.arm.vm(self._sandbox.vm_id(self._sandbox.node_names[0]))
