"""Events on a real node: how long pods get no token, and which of their requests reach IMDS.

Each test adds a row to docs/reliability.md. No event may give a pod a token of another identity, and only those that
remove the rules themselves may let a request through to IMDS. REBOOTS of `make e2e-node` sets the number of reboots.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from nmi.shutdown import REGISTRATION_SECONDS
from tests.system.node.bed import CHART, NAMESPACE, NMI, RELEASE, Bed, is_ready
from tests.system.node.evaluation import Result
from tests.system.node.manifests import pod
from tests.system.node.processes import wait_for
from tests.system.node.scenario import Scenarios

WITHOUT_API_SECONDS = 60.0
REBOOTS = int(os.environ.get("REBOOTS", "5"))
REBOOT_SECONDS = 120
BUSY_PROCESSES = 6
NOTICE_SECONDS = 5.0
"""Time in which a restart of a program of the node would show its effect."""
LONG = pytest.mark.long
Event = Callable[[Bed], object]


def check(result: Result, *, seconds: float) -> None:
    """Fail if a request leaked, a token was another identity's, or the interruption was longer than *seconds*."""
    assert (result.leaked, result.wrong) == (0, 0), result
    assert result.interruption_seconds <= seconds, result


def test_pods_get_tokens_without_an_event(scenarios: Scenarios) -> None:
    result = scenarios.measure("no event", lambda: None)
    assert result.interruption_seconds == 0
    assert result.has_no_effect, result


def other_pods(bed: Bed, former: str) -> list[dict[str, Any]]:
    """Return NMI's pods on the node, except the one of the name *former*."""
    return [nmi_pod for nmi_pod in bed.nmi_pods() if nmi_pod["metadata"]["name"] != former]


def restarts(nmi: Mapping[str, Any]) -> int:
    """Return how often the container of NMI's pod has started again."""
    return sum(status["restartCount"] for status in nmi["status"].get("containerStatuses", ()))


def replace_pod(bed: Bed) -> None:
    """Delete NMI's pod, and wait for the next one.

    The kubelet waits longer before each further start of a container of the same pod, so that a kill needs a new pod.
    """
    bed.kubectl("delete", "pod", bed.nmi_pod(), f"--namespace={NAMESPACE}")
    bed.wait_for_nmi()


def kill_twice(bed: Bed) -> None:
    first = bed.nmi_pid()
    bed.kill_nmi()
    wait_for(lambda: [pid for pid in bed.nmi_pids() if pid != first], 60, "NMI did not start again")
    bed.kill_nmi()


def use_all_memory(bed: Bed) -> None:
    """Let the kernel kill NMI, which has the highest score of the processes in the container's group."""
    bed.nodes[0].run("sh", "-c", f"echo 1000 >/proc/{bed.nmi_pid()}/oom_score_adj")
    hog = "held = bytearray(600 << 20); import time; time.sleep(60)"
    python = ("/opt/podidentity/bin/python3", "-c", hog)
    bed.commands.kubectl_unchecked("exec", bed.nmi_pod(), f"--namespace={NAMESPACE}", "--", *python)
    wait_for(lambda: restarts(bed.nmi_pods()[0]), 60, "the kernel did not kill NMI")


def roll_out_a_wrong_flag(bed: Bed) -> None:
    former = bed.nmi_pod()
    wrong = ["--reuse-values", "--set=nmi.extraArgs={--max-hold=never}"]
    bed.commands.helm("upgrade", RELEASE, str(CHART), f"--namespace={NAMESPACE}", *wrong)
    # A pod that is Ready by mistake is so within a second, and the DaemonSet deletes the former one. A pod that fails
    # starts again at once, and 10 seconds later.
    wait_for(lambda: max(map(restarts, other_pods(bed, former)), default=0) > 1, 60, "the wrong flag has no effect")
    assert bed.nmi_pod() == former, "the rollout deleted the NMI that serves"
    bed.helm("rollback", RELEASE)
    bed.wait_for_nmi()


def change_values(bed: Bed) -> None:
    bed.install({"nmi": {"logVerbosity": 1}}, command="upgrade")


def restart_kubelet(bed: Bed) -> None:
    bed.nodes[0].kubelet.stop()
    bed.nodes[0].start_kubelet()
    time.sleep(NOTICE_SECONDS)
    bed.wait_for_nodes()


def restart_containerd(bed: Bed) -> None:
    bed.nodes[0].containerd.stop()
    bed.nodes[0].start_containerd()
    time.sleep(NOTICE_SECONDS)
    bed.wait_for_nodes()


def drain(bed: Bed) -> None:
    name = bed.nodes[0].name
    bed.apply(pod("drained", nodeName=name))
    bed.kubectl("drain", name, "--ignore-daemonsets", "--force", "--pod-selector=app=drained", "--timeout=60s")
    bed.kubectl("uncordon", name)


@pytest.mark.parametrize(
    ("name", "act", "seconds"),
    [
        pytest.param("NMI's pod deleted", replace_pod, 20, id="deleted"),
        pytest.param("NMI killed (SIGKILL)", Bed.kill_nmi, 20, id="killed"),
        # The kubelet starts a container again at once, and the second time after 10 s.
        pytest.param("NMI killed, and killed again when it has started", kill_twice, 30, id="killed-twice", marks=LONG),
        pytest.param("NMI killed for its memory", use_all_memory, 60, id="memory", marks=LONG),
        pytest.param("rollout of NMI", Bed.roll_out_nmi, 20, id="rollout", marks=LONG),
        pytest.param(
            "rollout of an NMI that cannot start, and its rollback", roll_out_a_wrong_flag, 0, id="wrong-flag"
        ),
        pytest.param("helm upgrade with changed values", change_values, 20, id="values"),
        pytest.param("kubelet restarted", restart_kubelet, 0, id="kubelet"),
        pytest.param("containerd restarted", restart_containerd, 0, id="containerd"),
        # NMI restores its rules when the kernel reports the change. Until then the reject and the flush guard refuse.
        *(
            pytest.param(
                f"`{flush}` on the node", lambda bed, flush=flush: bed.nodes[0].run(*flush.split()), 2, id=flush
            )
            for flush in ("iptables -t nat -F", "nft flush ruleset")
        ),
        pytest.param("node drained", drain, 0, id="drained"),
    ],
)
def test_no_request_leaks(bed: Bed, scenarios: Scenarios, name: str, act: Event, seconds: float) -> None:
    if "killed" in name:
        replace_pod(bed)  # the kubelet starts a container of a new pod again without a pause
    check(scenarios.measure(name, lambda: act(bed)), seconds=seconds)


@pytest.mark.parametrize("moment", ["exists", "has started", pytest.param("is Ready", marks=pytest.mark.long)])
def test_nmi_is_deleted_while_its_successor_starts(bed: Bed, scenarios: Scenarios, moment: str) -> None:
    """The former NMI serves until its successor registers, or for REGISTRATION_SECONDS: a later one is no leak."""
    former = bed.nmi_pod()
    ready: list[float] = []

    def successor_is_ready() -> bool:
        return any(map(is_ready, other_pods(bed, former)))

    def successor_is_there() -> bool:
        if moment == "has started":
            return len(bed.nmi_pids()) > 1
        return successor_is_ready() or (moment == "exists" and other_pods(bed, former) != [])

    def act() -> None:
        bed.kubectl("rollout", "restart", NMI, f"--namespace={NAMESPACE}")
        wait_for(successor_is_there, 30, f"no successor that {moment}")
        begun = time.monotonic()
        # The DaemonSet deletes the former pod itself as soon as the successor is Ready.
        bed.kubectl("delete", "pod", former, f"--namespace={NAMESPACE}", "--ignore-not-found", "--wait=false")
        wait_for(successor_is_ready, 60, "the successor is not Ready")
        ready.append(time.monotonic() - begun)
        bed.wait_for_nmi()

    result = scenarios.measure(f"NMI's pod deleted when its surge successor {moment}", act)
    check(result, seconds=max(0.0, ready[0] - REGISTRATION_SECONDS))


def test_a_new_pod_next_to_the_former_one_fails_no_startup_probe(bed: Bed, scenarios: Scenarios) -> None:
    former = bed.nmi_pod()

    def act() -> None:
        bed.kubectl("delete", "pod", former, f"--namespace={NAMESPACE}", "--wait=false")
        wait_for(lambda: any(map(is_ready, other_pods(bed, former))), 60, "the new pod is not Ready")
        bed.wait_for_nmi()

    check(scenarios.measure("start of a new NMI next to the former one", act), seconds=0)
    # A failed probe is an Event that an operator has to explain.
    of_pod = f"--field-selector=involvedObject.name={bed.nmi_pod()},reason=Unhealthy"
    events = bed.objects("events", f"--namespace={NAMESPACE}", of_pod)
    assert [event["message"] for event in events if event["message"].startswith("Startup")] == []


@pytest.mark.long
def test_the_api_server_is_unavailable(bed: Bed, scenarios: Scenarios) -> None:
    def act() -> None:
        begin = time.time()
        bed.plane.stop()
        try:
            time.sleep(WITHOUT_API_SECONDS)
            first = scenarios.evaluate("first minute without the API server", begin, time.time())
            scenarios.results.append(first)
            bed.kill_nmi()
            time.sleep(WITHOUT_API_SECONDS)
        finally:
            bed.plane.start()
        check(first, seconds=0)

    result = scenarios.measure("second minute without the API server, NMI killed at its begin", act)
    assert (result.leaked, result.wrong) == (0, 0), result


def reboot(bed: Bed, *, guarded: bool) -> None:
    """Reboot the node from its disk. If it is *guarded*, a unit of systemd inserts a rule before the kubelet starts."""
    node = bed.nodes[0]
    node.shut_down()
    node.boot()
    if guarded:
        node.start_early_units()
        assert "169.254.169.254" in node.run("iptables-save", "--table", "filter"), "the unit has inserted no rule"
    node.start_kubelet()
    node.start_kube_proxy()
    bed.wait_for_nmi()


@pytest.mark.timeout(REBOOTS * REBOOT_SECONDS + 400)
@pytest.mark.parametrize("busy", [0, pytest.param(BUSY_PROCESSES, marks=pytest.mark.long)])
def test_the_node_reboots(bed: Bed, scenarios: Scenarios, busy: int) -> None:
    name = f"node rebooted next to {busy} busy processes" if busy else "node rebooted"
    with contextlib.ExitStack() as stack:
        for _ in range(busy):
            # Each has a session of its own, because the kernel divides the time between sessions.
            process = subprocess.Popen(["sh", "-c", "while :; do :; done"], start_new_session=True)
            stack.enter_context(process)
            stack.callback(process.kill)
        results = [
            scenarios.measure(name, lambda: reboot(bed, guarded=False), recovery_seconds=REBOOT_SECONDS)
            for _ in range(REBOOTS)
        ]
    scenarios.results[-REBOOTS:] = [max(results, key=lambda result: result.leaked)]
    scenarios.add_remark(
        f"the worst of {REBOOTS}, in which {', '.join(str(result.leaked) for result in results)} leaked."
    )
    # Without the boot guard, requests of a pod that starts before NMI reach IMDS and get tokens of the node.
    for result in results:
        assert result.wrong <= result.leaked, result
        assert {"token demo", f"token {bed.nodes[0].name}"} >= {
            outcome for outcome in result.outcomes if "token" in outcome
        }


def test_the_node_reboots_with_the_boot_guard(bed: Bed, scenarios: Scenarios) -> None:
    bed.nodes[0].run("mkdir", "-p", "/etc/systemd/system")
    bed.install({"nmi": {"bootGuard": True}}, command="upgrade")
    try:
        name = "node rebooted, with `nmi.bootGuard`"
        result = scenarios.measure(name, lambda: reboot(bed, guarded=True), recovery_seconds=REBOOT_SECONDS)
        assert (result.leaked, result.wrong) == (0, 0), result
    finally:
        bed.install(command="upgrade")


def test_the_chart_is_uninstalled_and_installed_again(bed: Bed, scenarios: Scenarios) -> None:
    def act() -> None:
        bed.uninstall()
        bed.install()

    # Without NMI the requests of all pods reach IMDS, and are counted: only the end of the interruption is a promise.
    assert scenarios.measure("chart uninstalled and installed again", act).leaked > 0
