"""Tests that a flood from one pod leaves another pod's p99 at the real NMI under 50 ms and its requests unrefused.

The two pods are separate programs (isolated/greedy.py, isolated/modest.py), so they share only NMI. The greedy pod has
the lowest priority. The modest pod sends requests at a steady rate, half of them on new connections, and the time of
each request runs from its scheduled time.

The limit applies to NMI's own work. The time in which NMI or the modest pod waited for a processor, as the kernel
reports it (/proc/PID/schedstat), does not count. On a machine with two free cores this time is zero. Noise only adds
time, so the best of six runs counts. An error in any of the runs fails the test.
"""

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.support.identity_requests import metric, run_bound_pod
from tests.support.waiting import until

pytestmark = [pytest.mark.measures, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

HERE = Path(__file__).parent / "isolated"
P99_MS = 50.0
REQUESTS = 100
RUNS = 6
SLOTS = 8192
DESCRIPTORS = 12_000
SILENT_FOR_A_MINUTE = "--first-byte-timeout=60s"
"""With the default, NMI on a slow machine closes the hoarders' first connections before they open the last ones."""
MEMORY_BOUND = (512 << 20) // 4
PODS = 16
WATCH_SECONDS = 8.0
TOKEN_P99_MS = 250.0
STRUCTURES = 1400
"""Bytes of the kernel's structures for a socket, in addition to what it reports (SO_MEMINFO, read with ss)."""
HOARDERS = [f"127.250.0.{number}" for number in range(1, 17)]


@pytest.fixture(scope="module", autouse=True)
def enough_descriptors() -> Iterator[None]:
    """Raise the limit of file descriptors, which the programs inherit.

    Every open connection uses one descriptor in NMI and one in the greedy program.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class GreedySandbox:
    """Sandbox with greedy pods and one modest pod. NMI's cache contains a token for each."""

    def __init__(self, sandbox: Sandbox, greedy: list[str], modest: str) -> None:
        self.greedy, self.modest = greedy, modest
        nmi = sandbox.nmis["node-0"]
        self._sandbox, self.pid = sandbox, nmi.program.pid
        self.host, _, self.port = nmi.url.removeprefix("http://").partition(":")

    @asynccontextmanager
    async def flooded(self, kind: str, connections: int, *sources: str) -> AsyncIterator[dict[str, int]]:
        """Let the greedy pod send *kind* of traffic in this context. Afterwards the value contains the pod's counts."""
        did: dict[str, int] = {}
        command = (kind, self.host, self.port, str(connections), *(sources or self.greedy))
        process = await started(HERE / "greedy.py", *command)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(30):
                assert await process.stdout.readline() == b"flooding\n"
            yield did
        finally:
            process.stdin.close()
            async with asyncio.timeout(60):
                did.update(json.loads(await process.stdout.read()))
                await process.wait()

    async def asked(self, source: str, requests: int = REQUESTS) -> tuple[float, float]:
        """Return the p99 of a pod's requests in milliseconds: by the clock, and without waits for a processor."""
        process = await started(HERE / "modest.py", self.host, self.port, source, str(requests), str(self.pid))
        output, _ = await process.communicate()
        found = json.loads(output)
        assert found["wrong"] == []
        by_clock, unhindered = sorted(found["milliseconds"]), sorted(found["unhindered"])
        at = len(by_clock) * 99 // 100 - 1
        return by_clock[at], unhindered[at]

    async def metric(self, name: str) -> int:
        """Return the value of NMI's metric; *name* includes the labels."""
        return int(await metric(self._sandbox, name))

    async def limit(self, name: str) -> int:
        """Return how often a limit was applied."""
        return await self.metric(f'aadpodidentity_nmi_limits_hit_total{{limit="{name}"}}')

    async def filled(self) -> None:
        """Wait until every connection slot is in use."""
        await until(lambda: self.metric("aadpodidentity_nmi_connections_open"), holds=SLOTS.__le__)

    async def hold_to_the_bound(self) -> None:
        runs = []
        for _ in range(RUNS):
            by_clock, unhindered = await self.asked(self.modest)
            runs.append(f"p99 {by_clock:.1f} ms, {unhindered:.1f} ms without waits for a processor")
            if unhindered <= P99_MS:
                return
        pytest.fail(f"over {P99_MS:g} ms: {'; '.join(runs)}")


async def started(*argv: str | Path) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, *argv, stdin=pipe, stdout=pipe)


@asynccontextmanager
async def sandbox_with(*nmi_flags: str, greedy: int = 1) -> AsyncIterator[GreedySandbox]:
    async with Sandbox(Settings(namespaces=False, environment=os.environ, nmi_flags=nmi_flags)) as sandbox:
        _, modest = await run_bound_pod(sandbox, "modest")
        sources = [(await run_bound_pod(sandbox, f"greedy-{number}"))[1].address for number in range(greedy)]
        found = GreedySandbox(sandbox, sources, modest.address)
        for address in (modest.address, *sources):
            await found.asked(address, 2)  # afterwards their tokens are in the cache
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_sandbox() -> AsyncIterator[GreedySandbox]:
    async with sandbox_with(SILENT_FOR_A_MINUTE) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bounded() -> AsyncIterator[GreedySandbox]:
    async with sandbox_with(f"--max-connection-bytes={MEMORY_BOUND}", greedy=PODS) as found:
        yield found


async def test_the_control_run_without_a_flood_keeps_the_bound(shared_sandbox: GreedySandbox) -> None:
    await shared_sandbox.hold_to_the_bound()


@pytest.mark.parametrize(
    ("kind", "connections"),
    [
        ("drip", 500),
        ("pipeline", 512),
        ("pipeline-unread", 512),
        ("general", 512),
        ("general-unread", 512),
        ("unknown", 512),
        ("malformed", 64),
        ("churn", 64),
        ("churn-reset", 64),
    ],
)
async def test_a_flood_from_one_pod_does_not_change_another_pods_p99(
    shared_sandbox: GreedySandbox, kind: str, connections: int
) -> None:
    async with shared_sandbox.flooded(kind, connections) as did:
        await shared_sandbox.hold_to_the_bound()
    assert did["bytes_sent"] > 0


async def test_5000_idle_connections_from_one_pod_are_rejected_except_for_its_slots(
    shared_sandbox: GreedySandbox,
) -> None:
    before = await shared_sandbox.limit("connections_per_peer")
    async with shared_sandbox.flooded("hoard", 5000):
        await shared_sandbox.hold_to_the_bound()
        assert await shared_sandbox.metric("aadpodidentity_nmi_connections_open") <= 512 + 2, "and the modest pod's"
    assert await shared_sandbox.limit("connections_per_peer") - before >= 5000 - 512


async def test_sixteen_pods_that_hold_every_slot_do_not_exclude_a_seventeenth(shared_sandbox: GreedySandbox) -> None:
    async with shared_sandbox.flooded("hoard", SLOTS, *HOARDERS):
        await shared_sandbox.filled()
        await shared_sandbox.hold_to_the_bound()
        assert await shared_sandbox.limit("idle_evicted") > 0


async def test_sixteen_slow_pods_on_every_slot_do_not_exclude_a_seventeenth(
    shared_sandbox: GreedySandbox,
) -> None:
    async with shared_sandbox.flooded("drip", SLOTS, *HOARDERS):
        await shared_sandbox.hold_to_the_bound()
        assert await shared_sandbox.limit("slow_evicted") > 0


class Memory:
    """Growth of NMI's resident memory, and the kernel's memory for NMI's sockets, which its container is charged."""

    def __init__(self, sandbox: GreedySandbox) -> None:
        self._sandbox = sandbox
        self._before = self._resident()

    def _resident(self) -> int:
        status = Path(f"/proc/{self._sandbox.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) * 1024

    def _kernel(self) -> tuple[int, int]:
        """Return the number of sockets on NMI's port, and the bytes that the kernel holds for them."""
        command = ["ss", "-tnmH", "-a", "sport", "=", f":{self._sandbox.port}"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        # r: receive buffer, f: reserved, w: send buffer, bl: backlog; SKMEM of linux/sock_diag.h.
        found = re.findall(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+),o\d+,bl(\d+)", listed)
        return len(found), sum(int(part) for each in found for part in each)

    async def most(self) -> tuple[int, int]:
        """Return the largest cost within WATCH_SECONDS, and the number of connections at that time."""
        worst, sockets = 0, 0
        end = asyncio.get_running_loop().time() + WATCH_SECONDS
        while asyncio.get_running_loop().time() < end:
            count, kernel_bytes = await asyncio.to_thread(self._kernel)
            cost = self._resident() - self._before + kernel_bytes + count * STRUCTURES
            if cost > worst:
                worst, sockets = cost, count
            await asyncio.sleep(0.2)
        return worst, sockets


@pytest.mark.timeout(150)
@pytest.mark.parametrize("kind", ["pipeline-unread", "general-unread"])
@pytest.mark.parametrize("connections", [2048, 8192])
async def test_connections_that_read_nothing_stay_within_the_memory_limit(
    bounded: GreedySandbox, kind: str, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is `--max-connection-bytes`, by default a quarter of the container's (nmi/connection_limits.py)."""
    monkeypatch.setenv("GREEDY_SEND_BYTES", "8192")  # larger buffers exhaust this machine's memory for TCP
    memory = Memory(bounded)
    async with bounded.flooded(kind, connections) as did:
        worst, sockets = await memory.most()
        times = [await bounded.asked(bounded.modest) for _ in range(3)]
        applied = {name: await bounded.limit(f"memory_{name}") for name in ("narrowed", "refused", "evicted")}
    print(  # noqa: T201
        f"{kind} {connections}: {worst >> 20} MiB at most, of {sockets} sockets; another pod's p99 {times}; "
        f"{applied}, {did}"
    )
    assert worst < MEMORY_BOUND
    assert min(unhindered for _, unhindered in times) < TOKEN_P99_MS
