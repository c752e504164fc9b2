"""Many rollouts of NMI in a row while pods send thousands of requests a second on new and kept connections.

ROLLOUTS and RATE of `make e2e-node` set their number and the requests a second.
"""

import os
import statistics

import pytest

from tests.system.node.bed import NAMESPACE, NMI, Bed
from tests.system.node.load import Load
from tests.system.node.processes import wait_for
from tests.system.node.scenario import Scenarios

ROLLOUTS = int(os.environ.get("ROLLOUTS", "20"))
RATE = float(os.environ.get("RATE", "2000"))
ROLLOUT_SECONDS = 60
MEMORY_GROWTH_MAX = 0.05
"""The share by which the memory of the last successors may be larger than that of the first ones."""


def resident_mib(bed: Bed) -> float:
    """Return the resident memory of NMI on the first node, in MiB."""
    status = bed.nodes[0].run("cat", f"/proc/{bed.nmi_pid()}/status")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


@pytest.mark.timeout(ROLLOUTS * ROLLOUT_SECONDS + 400)
def test_rollouts_under_load_fail_no_request(bed: Bed, scenarios: Scenarios) -> None:
    load = Load(bed, RATE)
    memory: list[float] = []

    def act() -> None:
        for _ in range(ROLLOUTS):
            bed.kubectl("rollout", "restart", NMI, f"--namespace={NAMESPACE}")
            bed.wait_for_nmi()
            wait_for(lambda: len(bed.nmi_pids()) == 1, ROLLOUT_SECONDS, "the former NMI has not ended")
            memory.append(resident_mib(bed))

    load.start()
    try:
        result = scenarios.measure(f"{ROLLOUTS} rollouts of NMI in a row under load", act, load=load)
    finally:
        load.stop()
    sizes = ", ".join(f"{each:.1f}" for each in memory)
    scenarios.add_remark(f"Planned: {RATE:g} requests a second. Memory of the successors in order: {sizes} MiB.")
    assert result.interruption_seconds == 0, result
    assert (result.refused, result.failed, result.wrong, result.leaked) == (0, 0, 0, 0), result
    few = max(1, ROLLOUTS // 4)
    first, last = statistics.median(memory[:few]), statistics.median(memory[-few:])
    assert last <= first * (1 + MEMORY_GROWTH_MAX), memory
