"""The memory, CPU time and wake-ups of a running NMI on a node of 250 pods, and the modules that it does not load.

The figures are those of docs/performance.md. Excluded: growth over time (tests/nightly/soak), and the cost of requests
(benchmarks/guard).
"""

import asyncio
import sys
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
async def busy_node() -> AsyncIterator[int]:
    """Run a node whose PODS pods have all sent requests. Yield NMI's pid."""
    async with SoakNode(20) as soak_node:
        addresses = [f"127.78.{number // 200}.{number % 200 + 1}" for number in range(PODS)]
        for number, address in enumerate(addresses):
            identity = soak_node.identities[number % 20]
            run_pod(soak_node, Slot(address, name=f"pod-{number}", identities=[identity]), identity, number)
        waiting = asyncio.Semaphore(AT_ONCE)

        async def served(address: str) -> None:
            async with waiting:
                await ask(address, soak_node.port)

        await asyncio.gather(*(served(address) for address in addresses))
        yield soak_node.nmi.pid


@pytest.mark.programs
async def test_250_pods_that_all_send_requests_are_served_within_the_limit() -> None:
    async with busy_node() as pid:
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
WAKE_UPS_MAX = 7.0
"""Per second, of all threads; 5 today, four of them for the measurement of the event loop's lag."""
TIMES_MAX = 3.0
"""NMI's CPU time is at most this multiple of the WAKING program's; 1.0 to 2.0 today."""
WAKING = """
import asyncio, uvloop
async def main():
    while True:
        await asyncio.sleep(0.2)
uvloop.run(main())
"""
"""A program that wakes as often as NMI and does nothing. What a wake-up costs depends on the machine and its load."""


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads, in seconds."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def wake_ups(pid: int) -> int:
    """Return how often a thread began to run after it had waited."""
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


@pytest.mark.programs
@pytest.mark.measures
async def test_an_idle_nmi_wakes_seldom_and_needs_little_more_than_its_wake_ups() -> None:
    waking = await asyncio.create_subprocess_exec(sys.executable, "-c", WAKING)
    try:
        async with busy_node() as pid:

            async def cost() -> tuple[float, float]:
                """Return NMI's wake-ups per second, and its CPU time as a multiple of the program's."""
                begun, woken, cpu = time.monotonic(), wake_ups(pid), [cpu_seconds(pid), cpu_seconds(waking.pid)]
                await asyncio.sleep(SECONDS)
                rate = (wake_ups(pid) - woken) / (time.monotonic() - begun)
                return rate, (cpu_seconds(pid) - cpu[0]) / (cpu_seconds(waking.pid) - cpu[1])

            # Work that follows the requests ends in the first seconds.
            await until(cost, holds=lambda value: value[0] <= WAKE_UPS_MAX and value[1] <= TIMES_MAX)
    finally:
        waking.terminate()
        await waking.wait()
