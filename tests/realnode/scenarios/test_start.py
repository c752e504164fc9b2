"""The start of NMI's container on a real node, with the chart's default CPU limit: until its pod is Ready."""

import os

from tests.realnode.bed import NAMESPACE, Bed
from tests.realnode.processes import wait_for
from tests.realnode.scenario import Scenarios

TICKS = os.sysconf("SC_CLK_TCK")
READY_SECONDS = 20.0
"""Far above what a quiet machine needs: other programs may use its processors. The remark has the measured time."""


def times_of(bed: Bed, pid: int) -> tuple[float, float]:
    """Return the seconds since the start of a process on the first node, and its CPU seconds."""
    fields = bed.nodes[0].run("cat", f"/proc/{pid}/stat").rpartition(")")[2].split()
    uptime = float(bed.nodes[0].run("cat", "/proc/uptime").split()[0])
    return uptime - int(fields[19]) / TICKS, (int(fields[11]) + int(fields[12])) / TICKS


def test_a_new_pod_is_ready_soon(bed: Bed, scenarios: Scenarios) -> None:
    former = bed.nmi_pod()
    measured: list[tuple[float, float]] = []

    def is_ready() -> bool:
        pods = [each for each in bed.nmi_pods() if each["metadata"]["name"] != former]
        conditions = [condition for each in pods for condition in each["status"].get("conditions", [])]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def act() -> None:
        pids = set(bed.nmi_pids())
        bed.kubectl("delete", "pod", former, f"--namespace={NAMESPACE}", "--wait=false")
        wait_for(lambda: set(bed.nmi_pids()) - pids, 60, "no new NMI has started")
        wait_for(is_ready, 60, "the new pod is not Ready")
        # NMI starts programs by a fork, which has its command line for a moment and a higher number.
        measured.append(times_of(bed, min(set(bed.nmi_pids()) - pids)))
        bed.wait_for_nmi()

    result = scenarios.measure("start of a new NMI next to the former one", act)
    seconds, cpu_seconds = measured[0]
    scenarios.add_remark(f"Ready {seconds:.1f} s after the start of its process, with {cpu_seconds:.2f} CPU seconds.")
    assert (result.leaked, result.wrong, result.interruption_seconds) == (0, 0, 0), result
    assert seconds < READY_SECONDS
    # A failed probe is an Event that an operator has to explain.
    of_pod = f"--field-selector=involvedObject.name={bed.nmi_pod()},reason=Unhealthy"
    events = bed.objects("events", f"--namespace={NAMESPACE}", of_pod)
    assert [each["message"] for each in events if each["message"].startswith("Startup")] == []
