"""The demo of the README, end to end, against a sandbox: each step is done, watched, and reported with its answer.

It applies the YAML of `deploy/demo`, sees MIC assign and ARM change, reads the demo pod's four lines, and takes
everything away again, down to the rule on the node. What it reports it has seen; nothing is assumed.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from podidctl.sandbox.azure import DEMO_CLIENT_ID
from podidctl.sandbox.cloud import Sandbox
from podidctl.sandbox.cluster import DEMO, kind_of, read_documents
from podidctl.sandbox.machines import Machine
from podidctl.sandbox.network import Place
from podidentity.kube.errors import NotFound
from podidentity.kube.informer import Informer
from podidentity.resources import ASSIGNED, ASSIGNED_IDENTITIES, CREATED, PODS, AzureAssignedIdentity

T = TypeVar("T")

STEP_SECONDS: Final = 30.0  # each takes about a second; NMI holds a request whose identity is being assigned for 45
POLL_SECONDS: Final = 0.05
CHAIN: Final = "aad-metadata"


class DemoError(Exception):
    """A step did not come out as it should; the message says what was seen instead."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step that worked: what was done, what was seen, and how long that took."""

    name: str
    answer: str
    seconds: float


class _Statuses:
    """Every assigned identity's status as it changes; None once it is gone."""

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
        """What *wanted* finds, as soon as a change lets it find something."""
        while True:
            found = wanted()
            if found is not None:
                return found
            self.changed.clear()
            await self.changed.wait()


class Demo:
    """The steps, in order, by `steps`. The sandbox is started and stopped by them: both are part of what is shown."""

    def __init__(self, sandbox: Sandbox, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sandbox = sandbox
        self._clock = clock
        self._statuses = _Statuses()
        self._lines: list[str] = []
        self.doing = ""
        """What is being waited for at this moment."""

    async def steps(self) -> AsyncIterator[Step]:
        """Do the demo. Raises DemoError, or whatever the sandbox's start raises; what was made is cleaned up."""
        sandbox = self._sandbox
        try:
            yield await self._step("start the sandbox, MIC and NMI", self._start)
            informer = Informer(sandbox.cluster.client, ASSIGNED_IDENTITIES, self._statuses)
            watching = asyncio.create_task(informer.run(), name="watch assigned identities")
            try:
                yield await self._step("look at the node's nat rule", self._rule_present)
                yield await self._step("apply deploy/demo: identity, binding, pod", self._apply)
                yield await self._step("the pod runs", self._pod_runs)
                yield await self._step("MIC assigns: AzureAssignedIdentity", self._assigned)
                yield await self._step("ARM: the VM has the identity", self._on_vm)
                yield await self._step("the pod uses its identity: kubectl logs demo", self._four_lines)
                yield await self._step("delete pod, binding and identity", self._delete)
                yield await self._step("MIC revokes: AzureAssignedIdentity", self._revoked)
                yield await self._step("ARM: the identity has left the VM", self._off_vm)
            finally:
                watching.cancel()
                await asyncio.wait([watching])
            yield await self._step("stop NMI: the node's nat table", self._rule_gone)
        finally:
            await sandbox.stop()

    @property
    def lines(self) -> list[str]:
        """The demo pod's four lines, once read."""
        return self._lines

    async def _step(self, name: str, act: Callable[[], Awaitable[str]]) -> Step:
        self.doing = name
        began = self._clock()
        try:
            async with asyncio.timeout(STEP_SECONDS):
                answer = await act()
        except TimeoutError as late:
            why = self._sandbox.failure() or self._last_words()
            raise DemoError(f"{name}: not within {STEP_SECONDS:g} s. {why}") from late
        return Step(name, answer, self._clock() - began)

    async def _start(self) -> str:
        await self._sandbox.start()
        if self._sandbox.redirects:
            return "nodes and pods are network namespaces; pods ask http://169.254.169.254, a nat rule leads to NMI"
        url = self._sandbox.metadata_url(self._sandbox.node_names[0])
        return f"{self._sandbox.why_loopback}: pods are loopback addresses, there is no nat rule, they ask NMI at {url}"

    async def _rule_present(self) -> str:
        if not self._sandbox.redirects:
            return "none: needs root"
        rules = await self._rules()
        found = next((rule for rule in rules if "DNAT" in rule), "")
        if not found:
            raise DemoError(f"the chain {CHAIN} has no DNAT rule: {rules}")
        return found

    async def _apply(self) -> str:
        documents = await asyncio.to_thread(read_documents, DEMO)
        for document in documents:
            await self._sandbox.cluster.apply(document)
        return ", ".join(f"{document['kind']} {document['metadata']['name']}" for document in documents)

    async def _pod_runs(self) -> str:
        while True:
            pod = await self._sandbox.cluster.client.get(PODS, "default", "demo")
            if pod.status.phase == "Running":
                return f"on {pod.spec.node_name} at {pod.status.pod_ip}"
            await asyncio.sleep(POLL_SECONDS)

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
            self._lines = [line for line in said if line.startswith("successfully")]
            if set(wanted) <= set(self._lines):
                self._lines = wanted
                return "\n".join(wanted)
            await asyncio.sleep(POLL_SECONDS)

    async def _delete(self) -> str:
        documents = await asyncio.to_thread(read_documents, DEMO)
        client = self._sandbox.cluster.client
        for document in reversed(documents):
            await client.delete(kind_of(document), "default", document["metadata"]["name"])
        while True:
            try:
                await client.get(PODS, "default", "demo")
            except NotFound:
                return "gone"
            await asyncio.sleep(POLL_SECONDS)

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

    async def _rule_gone(self) -> str:
        node = self._sandbox.node_names[0]
        code = await self._sandbox.nmis[node].program.stop()
        if code != 0:
            raise DemoError(f"NMI ended with code {code}: {self._last_words()}")
        if not self._sandbox.redirects:
            return "NMI ended with code 0; there was no rule"
        rules = await self._rules()
        if rules:
            raise DemoError(f"NMI has left rules on the node: {rules}")
        return f"NMI ended with code 0; no {CHAIN} rule is left"

    def _machine(self) -> Machine:
        return self._sandbox.azure.arm.vm(self._sandbox.vm_id(self._sandbox.node_names[0]))

    async def _rules(self) -> list[str]:
        """The lines of the node's nat table that speak of NMI's chain."""
        saved = await _output(self._sandbox.places[self._sandbox.node_names[0]], "iptables-save", "-t", "nat")
        return [line for line in saved.splitlines() if CHAIN in line]

    def _last_words(self) -> str:
        """What the programs said last: a hint for whoever looks for the fault."""
        sandbox = self._sandbox
        programs = [sandbox.mic] if sandbox.mic is not None else []
        programs += [nmi.program for nmi in sandbox.nmis.values()]
        words = []
        for program in programs:
            last = (program.said().strip().splitlines() or ["nothing"])[-1]
            words.append(f"{program.name} said last: {last[-300:]}")
        return "; ".join(words)


async def _output(place: Place, *argv: str) -> str:
    """What the command prints, run at *place*. Raises DemoError when it fails."""
    process = await asyncio.create_subprocess_exec(
        *place.command(argv), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise DemoError(f"{' '.join(argv)} ended with code {process.returncode}: {errors.decode()[:300].strip()}")
    return output.decode()
