"""The memory, CPU time and wake-ups of a running NMI on a node of 250 pods, and the modules that it does not load.

The figures are those of docs/performance.md. Excluded: growth over time (tests/nightly/soak), and the cost of requests
(benchmarks/guard).
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from podidentity.resources import ASSIGNED_IDENTITIES, BINDING_LABEL
from podidentity_sandbox.directory import ManagedIdentity
from tests.nightly.soak.pods import NAMESPACE, Slot, assigned_identity, selector
from tests.nightly.soak.soak_node import NODE, SoakNode
from tests.support.nmi.heavy_packages import HEAVY
from tests.support.waiting import until

PODS = 250
LIMIT_MIB = 48
RESOURCES = ("https%3A%2F%2Fmanagement.azure.com%2F", "https%3A%2F%2Fvault.azure.net")
ROUNDS = 10
AT_ONCE = 32


@asynccontextmanager
async def busy_node() -> AsyncIterator[tuple[int, float]]:
    """Run a node whose PODS pods all send requests. Then yield NMI's pid, and the CPU time of one request."""
    async with SoakNode(20) as soak_node:
        pid = soak_node.nmi.pid
        addresses = [f"127.78.{number // 200}.{number % 200 + 1}" for number in range(PODS)]
        for number, address in enumerate(addresses):
            identity = soak_node.identities[number % 20]
            run_pod(soak_node, Slot(address, name=f"pod-{number}", identities=[identity]), identity, number)
        cpu, waiting = cpu_seconds(pid), asyncio.Semaphore(AT_ONCE)

        async def served(address: str) -> None:
            async with waiting:
                await ask(address, soak_node.port)

        await asyncio.gather(*(served(address) for address in addresses))
        yield pid, (cpu_seconds(pid) - cpu) / (PODS * len(RESOURCES) * ROUNDS)


@pytest.mark.programs
async def test_250_pods_that_all_send_requests_are_served_within_the_limit() -> None:
    async with busy_node() as (pid, _):
        assert resident_mib(pid) <= LIMIT_MIB
        mapped = packages_mapped(pid)
        assert "uvloop" in mapped
        assert mapped & HEAVY == set()


def run_pod(soak_node: SoakNode, slot: Slot, identity: ManagedIdentity, serial: int) -> None:
    """As the kubelet and MIC would write it, with the annotations that deployments carry along."""
    pod = {
        "metadata": {
            "name": slot.name,
            "namespace": NAMESPACE,
            "labels": {BINDING_LABEL: selector(slot.identities), "app": f"app-{serial % 20}"},
            "annotations": {"example.com/configuration": "x" * 20_000},
        },
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "pause"}]},
    }
    soak_node.api.store.create("pods", pod, NAMESPACE)
    slot.uid = soak_node.api.store.get("pods", slot.name, NAMESPACE)["metadata"]["uid"]
    status = {"phase": "Running", "podIP": slot.address, "podIPs": [{"ip": slot.address}]}
    soak_node.api.store.patch("pods", slot.name, {"status": status}, NAMESPACE, subresource="status")
    kind = f"{ASSIGNED_IDENTITIES.plural}.{ASSIGNED_IDENTITIES.group}"
    soak_node.api.store.create(kind, assigned_identity(slot, identity, serial), NAMESPACE)


async def ask(address: str, port: int) -> None:
    """Request both resources ROUNDS times on one connection. The first may be held until the watch has delivered the
    pod.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    try:
        for resource in RESOURCES * ROUNDS:
            writer.write(
                f"GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource} HTTP/1.1\r\n"
                f"Host: 169.254.169.254\r\nMetadata: true\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0]))
    finally:
        writer.close()


def resident_mib(pid: int) -> float:
    """VmRSS, in MiB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


def packages_mapped(pid: int) -> set[str]:
    """The packages whose compiled modules the process has loaded."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {folder for line in lines if line.endswith(".so") for folder in line.split("/")[1:-1]}


SECONDS = 4
REQUESTS_MAX = 16.0
"""An idle second costs at most the CPU time of as many requests of those before; of 11 today."""
WAKE_UPS_MAX = 7.0
"""Per second, of all threads; 5 today, four of them for the measurement of the event loop's lag."""


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads, in seconds."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def wake_ups(pid: int) -> int:
    """Return how often a thread began to run after it had waited."""
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


@pytest.mark.programs
@pytest.mark.measures
async def test_an_idle_nmi_uses_at_most_the_cpu_time_of_a_few_requests() -> None:
    """On a slow machine requests take as much longer. A busy one wakes NMI less often."""
    async with busy_node() as (pid, of_request):

        async def idle_second() -> tuple[float, float]:
            """Return the wake-ups within a second, and the number of requests of the same CPU time."""
            begun, cpu, woken = time.monotonic(), cpu_seconds(pid), wake_ups(pid)
            await asyncio.sleep(SECONDS)
            seconds = time.monotonic() - begun
            return (wake_ups(pid) - woken) / seconds, (cpu_seconds(pid) - cpu) / seconds / of_request

        # Work that follows the requests ends in the first seconds, and other programs only add to the CPU time.
        await until(idle_second, holds=lambda cost: cost[0] <= WAKE_UPS_MAX and cost[1] <= REQUESTS_MAX)
