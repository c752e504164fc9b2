"""Events on a real node: how long pods get no token, and which of their requests reach IMDS.

Each test adds a row to docs/reliability.md. No event may give a pod a token of another identity, and only those that
remove the rules themselves may let a request through to IMDS. REBOOTS of `make e2e-node` sets the number of reboots.
"""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from tests.realnode.bed import CHART, NAMESPACE, NMI, RELEASE, Bed
from tests.realnode.evaluation import Result
from tests.realnode.manifests import pod
from tests.realnode.processes import wait_for
from tests.realnode.scenario import Scenarios

WITHOUT_API_SECONDS = 60.0
REBOOTS = int(os.environ.get("REBOOTS", "5"))
REBOOT_SECONDS = 120
BUSY_PROCESSES = 6
SUCCESSOR_SECONDS = 5.0
"""A pod that is Ready by mistake is Ready within a second, and the DaemonSet then deletes the former one."""


def check(result: Result, *, seconds: float) -> None:
    """Fail if a request leaked, a token was another identity's, or the interruption was longer than *seconds*."""
    assert (result.leaked, result.wrong) == (0, 0), result
    assert result.interruption_seconds <= seconds, result


def test_nmi_is_deleted(bed: Bed, scenarios: Scenarios) -> None:
    def act() -> None:
        bed.kubectl("delete", "pod", bed.nmi_pod(), f"--namespace={NAMESPACE}")
        bed.wait_for_nmi()

    check(scenarios.measure("NMI's pod deleted", act), seconds=20)


def has_ready_container(pod: Mapping[str, Any]) -> bool:
    return all(each["ready"] for each in pod["status"].get("containerStatuses", [{"ready": False}]))


@pytest.mark.parametrize("moment", ["exists", "has started", "is Ready"])
def test_nmi_is_deleted_while_its_successor_starts(bed: Bed, scenarios: Scenarios, moment: str) -> None:
    former = bed.nmi_pod()

    def successor_is_there() -> bool:
        if moment == "has started":
            return len(bed.nmi_pids()) > 1
        others = [each for each in bed.nmi_pods() if each["metadata"]["name"] != former]
        return any(moment == "exists" or has_ready_container(each) for each in others)

    def act() -> None:
        bed.kubectl("rollout", "restart", NMI, f"--namespace={NAMESPACE}")
        wait_for(successor_is_there, 30, f"no successor that {moment}")
        # The DaemonSet deletes the former pod itself as soon as the successor is Ready.
        bed.kubectl("delete", "pod", former, f"--namespace={NAMESPACE}", "--ignore-not-found")
        bed.wait_for_nmi()

    check(scenarios.measure(f"NMI's pod deleted when its surge successor {moment}", act), seconds=0)


@pytest.fixture
def new_pod(bed: Bed) -> None:
    """Replace NMI's pod: the kubelet waits longer before each further start of a container of the same pod."""
    bed.kubectl("delete", "pod", bed.nmi_pod(), f"--namespace={NAMESPACE}")
    bed.wait_for_nmi()


@pytest.mark.usefixtures("new_pod")
def test_nmi_is_killed(bed: Bed, scenarios: Scenarios) -> None:
    def act() -> None:
        bed.nodes[0].run("kill", "-KILL", str(bed.nmi_pid()))

    check(scenarios.measure("NMI killed (SIGKILL)", act), seconds=20)


@pytest.mark.long
@pytest.mark.usefixtures("new_pod")
def test_nmi_is_killed_twice(bed: Bed, scenarios: Scenarios) -> None:
    def act() -> None:
        first = bed.nmi_pid()
        bed.nodes[0].run("kill", "-KILL", str(first))
        wait_for(lambda: [each for each in bed.nmi_pids() if each != first], 60, "NMI did not start again")
        bed.nodes[0].run("kill", "-KILL", str(bed.nmi_pid()))

    # The kubelet starts a container again at once, and the second time after 10 s.
    check(scenarios.measure("NMI killed, and killed again when it has started", act), seconds=30)


@pytest.mark.long
@pytest.mark.usefixtures("new_pod")
def test_nmi_is_killed_for_its_memory(bed: Bed, scenarios: Scenarios) -> None:
    def has_restarted() -> bool:
        (pod,) = bed.nmi_pods()
        return bool(pod["status"]["containerStatuses"][0]["restartCount"])

    def act() -> None:
        node, pid = bed.nodes[0], bed.nmi_pid()
        # The kernel selects the process with the highest score in the container's group.
        node.run("sh", "-c", f"echo 1000 >/proc/{pid}/oom_score_adj")
        hog = "held = bytearray(600 << 20); import time; time.sleep(60)"
        bed.commands.kubectl_unchecked(
            "exec", bed.nmi_pod(), f"--namespace={NAMESPACE}", "--", "/opt/podidentity/bin/python3", "-c", hog
        )
        wait_for(has_restarted, 60, "the kernel did not kill NMI")

    check(scenarios.measure("NMI killed for its memory", act), seconds=60)


def test_nmi_is_rolled_out(bed: Bed, scenarios: Scenarios) -> None:
    def act() -> None:
        bed.kubectl("rollout", "restart", NMI, f"--namespace={NAMESPACE}")
        bed.wait_for_nmi()

    check(scenarios.measure("rollout of NMI", act), seconds=20)


def test_an_nmi_that_cannot_start_replaces_none(bed: Bed, scenarios: Scenarios) -> None:
    former = bed.nmi_pod()
    wrong = ["--reuse-values", "--set=nmi.extraArgs={--max-hold=never}"]

    def has_failed() -> bool:
        others = [each for each in bed.nmi_pods() if each["metadata"]["name"] != former]
        statuses = [status for each in others for status in each["status"].get("containerStatuses", [])]
        return any(status["restartCount"] > 0 for status in statuses)

    def act() -> None:
        bed.commands.helm("upgrade", RELEASE, str(CHART), f"--namespace={NAMESPACE}", *wrong)
        wait_for(has_failed, 60, "the NMI with a wrong flag did not fail")
        time.sleep(SUCCESSOR_SECONDS)
        assert bed.nmi_pod() == former, "the rollout deleted the NMI that serves"
        bed.commands.helm("rollback", RELEASE, f"--namespace={NAMESPACE}", "--wait")
        bed.wait_for_nmi()

    check(scenarios.measure("rollout of an NMI that cannot start, and its rollback", act), seconds=0)


def test_values_are_changed(bed: Bed, scenarios: Scenarios) -> None:
    def act() -> None:
        bed.install({"nmi": {"logVerbosity": 1}}, command="upgrade")

    check(scenarios.measure("helm upgrade with changed values", act), seconds=20)


def test_the_kubelet_restarts(bed: Bed, scenarios: Scenarios) -> None:
    def act() -> None:
        bed.nodes[0].kubelet.stop()
        bed.nodes[0].start_kubelet()
        time.sleep(5)
        bed.wait_for_nodes()

    check(scenarios.measure("kubelet restarted", act), seconds=0)


def test_containerd_restarts(bed: Bed, scenarios: Scenarios) -> None:
    def act() -> None:
        bed.nodes[0].containerd.stop()
        bed.nodes[0].start_containerd()
        time.sleep(5)
        bed.wait_for_nodes()

    check(scenarios.measure("containerd restarted", act), seconds=0)


@pytest.mark.long
def test_the_api_server_is_unavailable(bed: Bed, scenarios: Scenarios) -> None:
    def act() -> None:
        begin = time.time()
        bed.plane.stop()
        try:
            time.sleep(WITHOUT_API_SECONDS)
            first = scenarios.evaluate("first minute without the API server", begin, time.time())
            scenarios.results.append(first)
            bed.nodes[0].run("kill", "-KILL", str(bed.nmi_pid()))
            time.sleep(WITHOUT_API_SECONDS)
        finally:
            bed.plane.start()
        check(first, seconds=0)

    result = scenarios.measure("second minute without the API server, NMI killed at its begin", act)
    assert (result.leaked, result.wrong) == (0, 0), result


@pytest.mark.parametrize("command", ["iptables -t nat -F", "nft flush ruleset"])
def test_the_rules_are_flushed(bed: Bed, scenarios: Scenarios, command: str) -> None:
    def act() -> None:
        bed.nodes[0].run(*command.split())

    result = scenarios.measure(f"`{command}` on the node", act)
    # NMI restores its rules when the kernel reports the change. Until then the reject and the flush guard refuse pods.
    check(result, seconds=2)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run *count* processes that use all the CPU time that they get.

    Each has a session of its own, because the kernel divides the time between sessions.
    """
    command = ["sh", "-c", "while :; do :; done"]
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for each in processes:
            each.kill()
            each.wait()


@pytest.mark.timeout(REBOOTS * REBOOT_SECONDS + 400)
@pytest.mark.parametrize("busy", [0, pytest.param(BUSY_PROCESSES, marks=pytest.mark.long)])
def test_the_node_reboots(bed: Bed, scenarios: Scenarios, busy: int) -> None:
    def act() -> None:
        node = bed.nodes[0]
        node.reboot()
        node.start_kubelet()
        node.start_kube_proxy()
        bed.wait_for_nmi()

    name = f"node rebooted next to {busy} busy processes" if busy else "node rebooted"
    with busy_processes(busy):
        results = [scenarios.measure(name, act, recovery_seconds=REBOOT_SECONDS) for _ in range(REBOOTS)]
    scenarios.results[-REBOOTS:] = [max(results, key=lambda each: each.leaked)]
    scenarios.add_remark(f"the worst of {REBOOTS}, in which {', '.join(str(each.leaked) for each in results)} leaked.")
    # Without the boot guard, requests of a pod that starts before NMI reach IMDS and get tokens of the node.
    for each in results:
        assert each.wrong <= each.leaked, each
        assert {"token demo", f"token {bed.nodes[0].name}"} >= {
            outcome for outcome in each.outcomes if "token" in outcome
        }


@pytest.fixture
def boot_guard(bed: Bed) -> Iterator[None]:
    bed.nodes[0].run("mkdir", "-p", "/etc/systemd/system")
    bed.install({"nmi": {"bootGuard": True}}, command="upgrade")
    yield
    bed.install(command="upgrade")


@pytest.mark.usefixtures("boot_guard")
def test_the_node_reboots_with_the_boot_guard(bed: Bed, scenarios: Scenarios) -> None:
    def act() -> None:
        node = bed.nodes[0]
        node.reboot()
        node.start_early_units()
        assert "169.254.169.254" in node.run("iptables-save", "--table", "filter"), "the unit has inserted the rule"
        node.start_kubelet()
        node.start_kube_proxy()
        bed.wait_for_nmi()

    result = scenarios.measure("node rebooted, with `nmi.bootGuard`", act, recovery_seconds=120)
    assert (result.leaked, result.wrong) == (0, 0), result


def test_the_node_is_drained(bed: Bed, scenarios: Scenarios) -> None:
    name = bed.nodes[0].name

    def act() -> None:
        bed.apply(pod("drained", ["sleep", "3600"], nodeName=name))
        bed.kubectl("drain", name, "--ignore-daemonsets", "--force", "--pod-selector=app=drained", "--timeout=60s")
        bed.kubectl("uncordon", name)

    check(scenarios.measure("node drained", act), seconds=0)


def test_the_chart_is_uninstalled_and_installed_again(bed: Bed, scenarios: Scenarios) -> None:
    def act() -> None:
        bed.uninstall()
        bed.install()

    # Without NMI the requests of all pods reach IMDS: only the end of the interruption is a promise.
    scenarios.measure("chart uninstalled and installed again", act)
