"""The CPU time and the wake-ups of an idle NMI on a node of 250 pods, which all have their tokens.

Excluded: the cost of requests (benchmarks/guard) and of changes in the cluster (tests/benchmarks).
"""

import asyncio
from pathlib import Path

import pytest

from tests.nmi.test_memory_use import busy_node

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
