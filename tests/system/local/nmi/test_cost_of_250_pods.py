"""The memory, CPU time and wake-ups of a running NMI on a node of 250 pods, and the modules that it does not load.

The figures are those of docs/performance.md. Excluded: growth over time (tests/nightly/soak), and the cost of requests
(benchmarks/guard).
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from podidentity.resources import ASSIGNED_IDENTITIES, BINDING_LABEL
from podidentity_sandbox.directory import ManagedIdentity
from tests.nightly.soak.pods import NAMESPACE, Slot, assigned_identity, selector
from tests.nightly.soak.soak_node import NODE, SoakNode

PODS = 250
LIMIT_MIB = 48
RESOURCES = ("https%3A%2F%2Fmanagement.azure.com%2F", "https%3A%2F%2Fvault.azure.net")
ROUNDS = 10
AT_ONCE = 32
HEAVY = frozenset(
    (
        *("aiohttp", "azure", "cryptography", "difflib", "email", "iptc", "kubernetes", "msal", "multiprocessing"),
        *("requests", "rich", "typer", "yarl", "yaml"),
    )
)
"""Each but difflib takes megabytes. A module that needs one imports it late, outside the event loop or in another
process.
"""


@asynccontextmanager
async def busy_node() -> AsyncIterator[SoakNode]:
    """Yield a node whose PODS pods have all sent requests."""
    async with SoakNode(20) as soak_node:
        slots = [
            Slot(
                f"127.78.{number // 200}.{number % 200 + 1}",
                name=f"pod-{number}",
                uid=str(uuid.UUID(int=number + 1)),
                identities=[soak_node.identities[number % 20]],
            )
            for number in range(PODS)
        ]
        for serial, slot in enumerate(slots):
            run_pod(soak_node, slot, slot.identities[0], serial)
        waiting = asyncio.Semaphore(AT_ONCE)

        async def served(slot: Slot) -> None:
            async with waiting:
                await ask(slot.address, soak_node.port)

        await asyncio.gather(*(served(slot) for slot in slots))
        yield soak_node


@pytest.mark.programs
async def test_250_pods_that_all_send_requests_are_served_within_the_limit() -> None:
    async with busy_node() as soak_node:
        assert resident_mib(soak_node.nmi.pid) <= LIMIT_MIB
        mapped = packages_mapped(soak_node.nmi.pid)
        assert "uvloop" in mapped
        assert mapped & HEAVY == set()


def run_pod(soak_node: SoakNode, slot: Slot, identity: ManagedIdentity, serial: int) -> None:
    """As the kubelet and MIC would write it, with the annotations that deployments carry along."""
    pod = {
        "metadata": {
            "name": slot.name,
            "namespace": NAMESPACE,
            "uid": slot.uid,
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
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [each for each in lines if each.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


def packages_mapped(pid: int) -> set[str]:
    """The packages whose compiled modules the process has loaded."""
    return {
        folder
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        for folder in line.split("/")[1:-1]
        if line.endswith(".so")
    }


SECONDS = 4
TIMES_MAX = 10
CPU_SHARE_MAX = 0.002
"""Of one core; 0.0014 on a busy machine."""
WAKE_UPS_MAX = 7.0
"""Per second, of all threads; 5 today, four of them for the measurement of the event loop's lag."""


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads, in seconds."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def wake_ups(pid: int) -> int:
    """Return how often a thread began to run after it had waited."""
    lines = [line for path in Path(f"/proc/{pid}/task").glob("*/status") for line in path.read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


@pytest.mark.programs
@pytest.mark.measures
@pytest.mark.timeout(120)
async def test_an_idle_nmi_uses_at_most_a_five_hundredth_of_a_core() -> None:
    async with busy_node() as node:
        await asyncio.sleep(3)  # work that follows the requests
        # Other programs on the machine only increase the CPU time, so the lowest value is the best. Next to four
        # processes of tests the lowest was 0.00203, because they displace NMI from the processor's caches.
        measured: list[tuple[float, float]] = []
        while not within_limits(measured) and len(measured) < TIMES_MAX:
            measured.append(await idle_cost(node.nmi.pid))

    assert within_limits(measured), measured


def within_limits(measured: list[tuple[float, float]]) -> bool:
    shares, wake_ups_per_second = [share for share, _ in measured], [woken for _, woken in measured]
    return bool(measured) and min(shares) <= CPU_SHARE_MAX and min(wake_ups_per_second) <= WAKE_UPS_MAX


async def idle_cost(pid: int) -> tuple[float, float]:
    """Return the used share of a core, and the wake-ups per second, during SECONDS."""
    cpu, woken = cpu_seconds(pid), wake_ups(pid)
    await asyncio.sleep(SECONDS)
    return (cpu_seconds(pid) - cpu) / SECONDS, (wake_ups(pid) - woken) / SECONDS
