"""The base of the sandbox's demos: a sequence of steps, each executed, observed and reported, or failed.

Each report contains observations only.
"""

import abc
import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from podidentity.resources import PODS
from podidentity_sandbox.cluster import kind_of
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox

Document = Mapping[str, Any]

STEP_SECONDS: Final = 30.0  # each takes about a second; NMI holds a request whose identity is being assigned for 45
POLL_SECONDS: Final = 0.05


class DemoError(Exception):
    """A step failed. The message describes the observation."""


@dataclass(frozen=True, slots=True)
class Step:
    """A completed step, its observation and its duration."""

    name: str
    answer: str
    seconds: float


class DemoRun(abc.ABC):
    """The steps, which start and stop the sandbox."""

    def __init__(self, sandbox: Sandbox, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sandbox = sandbox
        self._clock = clock
        self.lines: list[str] = []
        """The result in a few lines, after it was observed."""
        self.doing = ""
        """The name of the current step."""

    @abc.abstractmethod
    def steps(self) -> AsyncIterator[Step]:
        """Run the demo and clean up. Raise DemoError, or an exception of the sandbox's start."""

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
            return "nodes and pods are network namespaces; a nat rule redirects requests to 169.254.169.254 to NMI"
        url = self._sandbox.metadata_url(self._sandbox.node_names[0])
        reason = self._sandbox.network_choice.reason
        return f"{reason}: pods are loopback addresses, there is no nat rule, they ask NMI at {url}"

    async def _rule_present(self) -> str:
        if not self._sandbox.redirects:
            return f"none: {self._sandbox.network_choice.reason}"
        rules = await self._rules()
        translation = next((rule for rule in rules if "dnat" in rule.lower()), "")
        if not translation:
            raise DemoError(f"the node has no rule that translates the address: {rules}")
        return translation

    async def _apply(self, documents: Sequence[Document]) -> str:
        for document in documents:
            await self._sandbox.cluster.apply(document)
        return ", ".join(f"{document['kind']} {document['metadata']['name']}" for document in documents)

    async def _pod_runs(self, name: str) -> str:
        while True:
            pod = await self._sandbox.cluster.client.get(PODS, "default", name)
            if pod.status.phase == "Running":
                return f"on {pod.spec.node_name} at {pod.status.pod_ip}"
            await asyncio.sleep(POLL_SECONDS)

    async def _delete(self, documents: Sequence[Document]) -> str:
        client = self._sandbox.cluster.client
        for document in reversed(documents):
            await client.delete(kind_of(document), "default", document["metadata"]["name"])
        pods = [document["metadata"]["name"] for document in documents if document["kind"] == "Pod"]
        while True:
            if not any(pod.metadata.name in pods for pod in await client.list(PODS, "default")):
                return "gone"
            await asyncio.sleep(POLL_SECONDS)

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
        return f"NMI ended with code 0; no {self._sandbox.network_choice.owner} rule is left"

    async def _rules(self) -> list[str]:
        """Return the lines of the node's nat rules that are NMI's."""
        context = self._sandbox.contexts[self._sandbox.node_names[0]]
        choice = self._sandbox.network_choice
        return choice.rules_in(await _output(context, *choice.listing))

    def _last_words(self) -> str:
        """Return the last line of each program, as a hint for the diagnosis."""
        sandbox = self._sandbox
        programs = [sandbox.mic] if sandbox.mic is not None else []
        programs += [nmi.program for nmi in sandbox.nmis.values()]
        words = []
        for program in programs:
            last = (program.output().strip().splitlines() or ["nothing"])[-1]
            words.append(f"{program.name} wrote last: {last[-300:]}")
        return "; ".join(words)


async def _output(context: ExecutionContext, *argv: str) -> str:
    """Return the output of the command in *context*. Raise DemoError if it fails."""
    process = await asyncio.create_subprocess_exec(
        *context.command(argv), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise DemoError(f"{' '.join(argv)} ended with code {process.returncode}: {errors.decode()[:300].strip()}")
    return output.decode()
