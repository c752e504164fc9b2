"""Rollouts and changes of the redirect while pods send thousands of requests a second on new and kept connections.

No request reaches IMDS and none fails. ROLLOUTS and RATE of `make e2e-node` set the number of rollouts and the requests
a second.
"""

import functools
import itertools
import os
import statistics
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from tests.system.node import client
from tests.system.node.bed import Bed
from tests.system.node.data_planes import Backend, Target, redirect_values
from tests.system.node.processes import wait_for
from tests.system.node.scenario import Load, Scenarios

ROLLOUTS: Final = int(os.environ.get("ROLLOUTS", "20"))
RATE: Final = float(os.environ.get("RATE", "2000"))
ROLLOUT_SECONDS: Final = 60
MEMORY_GROWTH_MAX: Final = 0.05
"""The share by which the memory of the last successors may be larger than that of the first ones."""
DEFAULT: Final[tuple[Backend, Target]] = ("auto", "auto")
CHANGES: Final[Sequence[tuple[Backend, Target]]] = (
    DEFAULT,
    ("iptables-legacy", "node"),
    ("nftables", "loopback"),
    ("iptables-nft", "node"),
    DEFAULT,
)
"""tests/system/local has every ordered pair of two backends, without kube-proxy and kubelet."""


@pytest.fixture
def load(bed: Bed) -> Iterator[Load]:
    """Pods that request tokens of their own identities all the time."""
    running = Load(bed, RATE)
    running.start()
    yield running
    running.stop()


@pytest.mark.long
def test_a_change_of_the_backend_fails_no_request(bed: Bed, scenarios: Scenarios, load: Load) -> None:
    try:
        for (former, former_target), (backend, target) in itertools.pairwise(CHANGES):
            name = f"redirect by `{former}` to `{former_target}` changed to `{backend}` to `{target}`, under load"
            upgrade = functools.partial(bed.install, redirect_values(backend, target), command="upgrade")
            result = scenarios.measure(name, upgrade, load=load)
            assert result.has_no_effect, result
            assert result.interruption_seconds == 0, result
            selected, selected_target = client.selection(bed.nodes[0])
            # The test bed's kube-proxy and kubelet use iptables with the nft backend, which `auto` follows.
            assert selected == ("iptables-nft" if backend == "auto" else backend)
            assert target in {"auto", selected_target}
            assert client.verified(bed) == (0, {bed.nodes[0].name: "nmi"})
    finally:
        bed.install(command="upgrade")


def resident_mib(bed: Bed) -> float:
    """Return the resident memory of NMI on the first node, in MiB."""
    return int(bed.nodes[0].run("grep", "VmRSS", f"/proc/{bed.nmi_pid()}/status").split()[1]) / 1024


@pytest.mark.timeout(ROLLOUTS * ROLLOUT_SECONDS + 400)
def test_rollouts_under_load_fail_no_request(bed: Bed, scenarios: Scenarios, load: Load) -> None:
    memory: list[float] = []

    def act() -> None:
        for _ in range(ROLLOUTS):
            bed.roll_out_nmi()
            wait_for(lambda: len(bed.nmi_pids()) == 1, ROLLOUT_SECONDS, "the former NMI has not ended")
            memory.append(resident_mib(bed))

    result = scenarios.measure(f"{ROLLOUTS} rollouts of NMI in a row under load", act, load=load)
    sizes = ", ".join(f"{size:.1f}" for size in memory)
    scenarios.add_remark(f"Planned: {RATE:g} requests a second. Memory of the successors in order: {sizes} MiB.")
    assert result.interruption_seconds == 0, result
    assert result.has_no_effect, result
    few = max(1, ROLLOUTS // 4)
    first, last = statistics.median(memory[:few]), statistics.median(memory[-few:])
    assert last <= first * (1 + MEMORY_GROWTH_MAX), memory
