"""The demos of the sandbox, end to end: one list of steps, each executed, observed and reported, or failed.

Each report contains observations only. `Demo` is the demo of the README with a user-assigned identity (type 0), which
MIC attaches to the node's VM. `federated_demo` has the demos of federated identities (type 3).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nmi.subprocesses import run
from podidentity.kube.informer import Informer
from podidentity.resources import ASSIGNED, ASSIGNED_IDENTITIES, CREATED, PODS, AzureAssignedIdentity
from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.cluster import DEMO, kind_of, read_documents
from podidentity_sandbox.machines import Machine
from podidentity_sandbox.sandbox import Sandbox

Document = Mapping[str, Any]
Action = tuple[str, Callable[[], Awaitable[str]]]
"""The name of a step, and the function that executes it and returns its observation."""

STEP_SECONDS: Final = 30.0  # each takes about a second; NMI holds a request whose identity is being assigned for 45
POLL_SECONDS: Final = 0.05


class DemoError(Exception):
    """A step failed. The message describes the observation."""


@dataclass(frozen=True, slots=True)
class Step:
    """A completed step, the report of its observation, and its duration."""

    name: str
    report: str
    seconds: float


class _Assignments:
    """The assigned identity of each pod, and its statuses in order; None after its deletion."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[str, list[str | None]]] = {}

    def upserted(self, old: AzureAssignedIdentity | None, new: AzureAssignedIdentity) -> None:
        del old
        self._note(new, new.status.status)

    def deleted(self, old: AzureAssignedIdentity) -> None:
        self._note(old, None)

    def _note(self, assigned: AzureAssignedIdentity, status: str | None) -> None:
        _, statuses = self.seen.setdefault(assigned.spec.pod, (assigned.metadata.name, []))
        if not statuses or statuses[-1] != status:
            statuses.append(status)

    def all_are(self, status: str | None, pods: Sequence[str]) -> bool:
        """Return whether this is the last status of the assigned identity of every pod."""
        return all(pod in self.seen and self.seen[pod][1][-1] == status for pod in pods)


class Demo:
    """The demo of the README, and the base of the others. The steps start and stop the sandbox."""

    nmi_flags: Sequence[str] = ()
    rbac = False
    """Whether the sandbox's API server authorizes by roles."""
    pods: Sequence[str] = ("demo",)
    statuses: Sequence[str] = (CREATED, ASSIGNED)
    """The statuses of an assigned identity, in order."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._assignments = _Assignments()
        self._watching: asyncio.Task[object] | None = None
        self.lines: list[str] = []
        """The result in a few lines, after it was observed."""
        self.doing = ""
        """The name of the current step."""

    async def steps(self) -> AsyncIterator[Step]:
        """Run the demo and clean up. Raise DemoError, or an exception of the sandbox's start."""
        try:
            for name, act in self.actions():
                yield await self._step(name, act)
        finally:
            if self._watching is not None:
                self._watching.cancel()
                await asyncio.wait([self._watching])
            await self._sandbox.stop()

    def actions(self) -> list[Action]:
        """Return the steps in order."""
        return [
            ("start the sandbox, MIC and NMI", self._start),
            ("look at the node's nat rule", self._rule_present),
            ("apply deploy/demo: identity, binding, pod", self._apply_all),
            ("the pod runs", self._run),
            ("MIC assigns: AzureAssignedIdentity", self._assigned),
            ("ARM: the VM has the identity", self._on_vm),
            ("the pod uses its identity: kubectl logs demo", self._four_lines),
            ("delete pod, binding and identity", self._delete_all),
            ("MIC revokes: AzureAssignedIdentity", self._revoked),
            ("ARM: the identity has left the VM", self._off_vm),
            ("stop NMI: the node's nat table", self._rule_gone),
        ]

    def _documents(self) -> list[dict[str, Any]]:
        """Return the objects of the demo. Block."""
        return read_documents(DEMO)

    async def _step(self, name: str, act: Callable[[], Awaitable[str]]) -> Step:
        self.doing = name
        began = time.monotonic()
        try:
            async with asyncio.timeout(STEP_SECONDS):
                report = await act()
        except TimeoutError as late:
            reason = self._sandbox.failure() or self._last_words()
            raise DemoError(f"{name}: not within {STEP_SECONDS:g} s. {reason}") from late
        return Step(name, report, time.monotonic() - began)

    async def _start(self) -> str:
        await self._sandbox.start()
        informer = Informer(self._sandbox.cluster.client, ASSIGNED_IDENTITIES, self._assignments)
        self._watching = asyncio.create_task(informer.run(), name="watch assigned identities")
        if self._sandbox.network.redirects:
            return "nodes and pods are network namespaces; a nat rule redirects requests to 169.254.169.254 to NMI"
        url = self._sandbox.metadata_url(self._sandbox.node_names[0])
        reason = self._sandbox.network_choice.reason
        return f"{reason}: pods are loopback addresses, there is no nat rule, they ask NMI at {url}"

    async def _rule_present(self) -> str:
        if not self._sandbox.network.redirects:
            return f"none: {self._sandbox.network_choice.reason}"
        rules = await self._rules()
        translation = next((rule for rule in rules if "dnat" in rule.lower()), "")
        if not translation:
            raise DemoError(f"the node has no rule that translates the address: {rules}")
        return translation

    async def _apply_all(self) -> str:
        return await self._apply(await asyncio.to_thread(self._documents))

    async def _apply(self, documents: Sequence[Document]) -> str:
        for document in documents:
            await self._sandbox.cluster.apply(document)
        return ", ".join(f"{document['kind']} {document['metadata']['name']}" for document in documents)

    async def _run(self) -> str:
        return await self._pod_runs(self.pods[0])

    async def _pod_runs(self, name: str) -> str:
        while True:
            pod = await self._sandbox.cluster.client.get(PODS, "default", name)
            if pod.status.phase == "Running":
                return f"on {pod.spec.node_name} at {pod.status.pod_ip}"
            await asyncio.sleep(POLL_SECONDS)

    async def _assigned(self) -> str:
        await until(lambda: self._assignments.all_are(ASSIGNED, self.pods))
        observed = [self._assignments.seen[pod] for pod in self.pods]
        for name, statuses in observed:
            if statuses != list(self.statuses):
                raise DemoError(f"{name} went through {statuses} instead of {', '.join(self.statuses)}")
        return "\n".join(f"{name}: {' → '.join(self.statuses)}" for name, _ in observed)

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
            printed = (await self._sandbox.cluster.pod_log("default", "demo")).splitlines()
            self.lines = [line for line in printed if line.startswith("successfully")]
            if set(wanted) <= set(self.lines):
                self.lines = wanted
                return "\n".join(wanted)
            await asyncio.sleep(POLL_SECONDS)

    async def _delete_all(self) -> str:
        client = self._sandbox.cluster.client
        for document in reversed(await asyncio.to_thread(self._documents)):
            await client.delete(kind_of(document), "default", document["metadata"]["name"])
        while True:
            if not any(pod.metadata.name in self.pods for pod in await client.list(PODS, "default")):
                return "gone"
            await asyncio.sleep(POLL_SECONDS)

    async def _revoked(self) -> str:
        await until(lambda: self._assignments.all_are(None, self.pods))
        return "gone"

    async def _off_vm(self) -> str:
        machine = self._machine()
        await until(lambda: not machine.identities and not machine.updating)
        writes = len(self._sandbox.azure.arm.writes(machine.resource_id))
        return f"{machine.name}: no identity; {writes} PATCHes in all"

    async def _rule_gone(self) -> str:
        node = self._sandbox.node_names[0]
        code = await self._sandbox.nmis[node].program.stop()
        if code != 0:
            raise DemoError(f"NMI ended with code {code}: {self._last_words()}")
        if not self._sandbox.network.redirects:
            return "NMI ended with code 0; there was no rule"
        rules = await self._rules()
        if rules:
            raise DemoError(f"NMI has left rules on the node: {rules}")
        return f"NMI ended with code 0; no {self._sandbox.network_choice.owner} rule is left"

    async def _rules(self) -> list[str]:
        """Return the lines of the node's nat rules that are NMI's."""
        context = self._sandbox.contexts[self._sandbox.node_names[0]]
        choice = self._sandbox.network_choice
        listed = await run(context.command(choice.listing))
        if listed.code != 0:
            raise DemoError(f"{' '.join(choice.listing)} ended with code {listed.code}: {listed.complaint}")
        return choice.rules_in(listed.stdout)

    def _machine(self) -> Machine:
        return self._sandbox.azure.arm.vm(self._sandbox.vm_id(self._sandbox.node_names[0]))

    def _last_words(self) -> str:
        """Return the last line of each program, as a hint for the diagnosis."""
        programs = self._sandbox.programs().values()
        return "; ".join(f"{program.name} wrote last: {program.last_line('nothing')}" for program in programs)


async def until(holds: Callable[[], bool]) -> None:
    """Return when *holds* is true."""
    while not holds():  # noqa: ASYNC110 - nothing reports a change
        await asyncio.sleep(POLL_SECONDS)
