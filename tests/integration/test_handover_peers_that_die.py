"""A real NMI whose successor or predecessor dies at a step of the handover."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from podidentity_sandbox.processes import python
from podidentity_sandbox.sandbox import Sandbox
from tests.integration.handover_peer import PREDECESSOR_STEPS, SUCCESSOR_STEPS
from tests.integration.handovers import connector, end, logged, sandboxed, sending, served
from tests.integration.identity_requests import NODE


class Peers:
    """Processes that play one end of a handover and kill themselves at a step."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def begin(self, step: str) -> None:
        """Start the next one."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{step}\n".encode())
        await self._process.stdin.drain()

    async def line(self) -> str:
        """Return the next line of their output: `listening`, or the number of the signal that ended one."""
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            return (await self._process.stdout.readline()).decode().strip()


@asynccontextmanager
async def peers(sandbox: Sandbox, role: str, directory: Path) -> AsyncIterator[Peers]:
    nmi = sandbox.nmis[NODE]
    ports = [nmi.url.rpartition(":")[2], str(nmi.probe_port), str(nmi.metrics_port)]
    command = python("tests.integration.handover_peer", role, str(directory / "nmi.sock"), *ports)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Peers(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()  # its input ends, and it does too
        await process.wait()


KILLED = str(signal.SIGKILL.value)


async def test_a_successor_that_dies_at_any_step_costs_no_request(directory: Path) -> None:
    async with sandboxed(directory) as sandbox, peers(sandbox, "successor", directory) as successors:
        nmi = sandbox.nmis[NODE].program
        with sending(connector(sandbox)) as clients:
            for step in SUCCESSOR_STEPS:
                await successors.begin(step)
                assert await successors.line() == KILLED, step
                await served(clients, 100)
                assert nmi.returncode is None, step
                assert clients.failures == [], step
            # After these, a real successor takes over.
            await sandbox.start_nmi(NODE)
            await logged(sandbox, "this NMI has taken over", 1)
            assert await end(nmi) == 0
        assert clients.failures == []


async def test_a_predecessor_that_dies_at_any_step_does_not_prevent_its_successor(directory: Path) -> None:
    async with sandboxed(directory) as sandbox, peers(sandbox, "predecessor", directory) as predecessors:
        for step in PREDECESSOR_STEPS:
            assert await end(sandbox.nmis[NODE].program) == 0
            await predecessors.begin(step)
            assert await predecessors.line() == "listening"
            await sandbox.start_nmi(NODE)
            assert await predecessors.line() == KILLED, step
            await sandbox.nmi_active(NODE)
            with sending(connector(sandbox)) as clients:
                await served(clients, 100)
            assert clients.failures == [], step
