"""Tests of the memory that NMI and the kernel use for connections that pipeline requests and read no answer.

The memory stays within a limit, and another pod still gets its token. The limit is `--max-connection-bytes`, by default
a quarter of the container's memory limit (nmi/connection_limits.py). The tests measure the growth of NMI's resident
memory, and add the memory that the kernel reports for NMI's sockets (SO_MEMINFO, read with ss), which the kernel
charges to NMI's container, and 1.4 KiB for the structures of each socket.
"""

import asyncio
import os
import re
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.identity_requests import run_bound_pod
from tests.integration.test_greedy_pods import GreedySandbox

pytestmark = [pytest.mark.measures, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]

MEMORY_LIMIT = 512 << 20
BOUND = MEMORY_LIMIT // 4
PODS = 16
DESCRIPTORS = 12_000
WATCH_SECONDS = 8.0
TOKEN_P99_MS = 250.0
STRUCTURES = 1400


@pytest.fixture(scope="module", autouse=True)
def enough_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Measured:
    """Measurement of NMI's memory. *sources* are the addresses of pods that have tokens."""

    def __init__(self, shared_sandbox: GreedySandbox, sources: list[str]) -> None:
        self.shared_sandbox, self.sources = shared_sandbox, sources
        self.before = self.resident()

    def resident(self) -> int:
        status = Path(f"/proc/{self.shared_sandbox.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) * 1024

    def kernel(self) -> tuple[int, int]:
        """Return the number of sockets on NMI's port, and the bytes that the kernel holds for them."""
        command = ["ss", "-tnmH", "-a", "sport", "=", f":{self.shared_sandbox.port}"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        # r: receive buffer, f: reserved, w: send buffer, bl: backlog; SKMEM of linux/sock_diag.h.
        found = re.findall(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+),o\d+,bl(\d+)", listed)
        return len(found), sum(int(part) for each in found for part in each)

    async def most(self) -> tuple[int, int]:
        """Return the largest cost within WATCH_SECONDS, and the number of connections at that time."""
        worst, sockets = 0, 0
        end = asyncio.get_running_loop().time() + WATCH_SECONDS
        while asyncio.get_running_loop().time() < end:
            count, kernel_bytes = await asyncio.to_thread(self.kernel)
            cost = self.resident() - self.before + kernel_bytes + count * STRUCTURES
            if cost > worst:
                worst, sockets = cost, count
            await asyncio.sleep(0.2)
        return worst, sockets


@asynccontextmanager
async def measured(*flags: str) -> AsyncIterator[Measured]:
    async with Sandbox(Settings(namespaces=False, environment=os.environ, nmi_flags=flags)) as sandbox:
        _, modest = await run_bound_pod(sandbox, "modest")
        sources = [(await run_bound_pod(sandbox, f"greedy-{number}"))[1].address for number in range(PODS)]
        shared_sandbox = GreedySandbox(sandbox, sources[0], modest.address)
        for address in (modest.address, *sources):
            await shared_sandbox.asked(address, 2)  # afterwards their tokens are in the cache
        yield Measured(shared_sandbox, sources)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bounded() -> AsyncIterator[Measured]:
    async with measured(f"--max-connection-bytes={BOUND}") as found:
        yield found


async def limit(shared_sandbox: GreedySandbox, name: str) -> int:
    return await shared_sandbox.metric(f'aadpodidentity_nmi_limits_hit_total{{limit="{name}"}}')


@pytest.mark.parametrize("kind", ["pipeline-unread", "general-unread"])
@pytest.mark.parametrize("connections", [2048, 8192])
async def test_connections_that_read_nothing_stay_within_the_memory_limit(
    bounded: Measured, kind: str, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREEDY_SEND_BYTES", "8192")  # larger buffers exhaust this machine's memory for TCP
    shared_sandbox = bounded.shared_sandbox
    async with shared_sandbox.flooded(kind, connections, *bounded.sources) as did:
        worst, sockets = await bounded.most()
        times = [await shared_sandbox.asked(shared_sandbox.modest) for _ in range(3)]
        narrowed, refused, evicted = [
            await limit(shared_sandbox, f"memory_{name}") for name in ("narrowed", "refused", "evicted")
        ]
    print(  # noqa: T201
        f"{kind} {connections}: {worst >> 20} MiB at most, of {sockets} sockets; another pod's p99 {times}; "
        f"narrowed {narrowed}, refused {refused}, evicted {evicted}, {did}"
    )
    assert worst < BOUND
    assert min(unhindered for _, unhindered in times) < TOKEN_P99_MS
