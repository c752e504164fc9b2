"""`podidctl sandbox up` and the documented commands in a shell with the variables that it prints."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.cloud.terminal import Kubectl, podidctl, sandbox_up
from tests.support.waiting import until_sync
from tests.testplane import up

pytestmark = pytest.mark.programs


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a shell in which the sandbox can be used."""
    with sandbox_up(tmp_path_factory.mktemp("up") / "log") as environment:
        yield environment


@pytest.fixture(scope="module")
def demo(environment: dict[str, str], kubectl: Kubectl) -> dict[str, str]:
    """The same, with the demo applied and its pod served."""
    code, output = kubectl(environment, "apply", "-f", "deploy/demo/")
    assert code == 0, output
    until_sync(lambda: "successfully acquired a token" in kubectl(environment, "logs", "demo")[1])
    return environment


@pytest.mark.timeout(180)
def test_the_pods_of_mic_and_nmi_are_ready_and_have_logs(environment: dict[str, str], kubectl: Kubectl) -> None:
    def is_ready(pod: str) -> bool:
        code, output = kubectl(environment, "get", "pods", "-l", "app.kubernetes.io/name=aad-pod-identity")
        assert code == 0, output
        return re.search(rf"^{pod} +1/1 +Running", output, re.MULTILINE) is not None

    until_sync(lambda: is_ready("mic") and is_ready("nmi-node-0"))  # a probe may have been too slow
    assert "nmi starting version=" in kubectl(environment, "logs", "nmi-node-0")[1]
    assert kubectl(environment, "logs", "mic")[1]


@pytest.mark.timeout(180)
def test_a_deleted_pod_of_nmi_is_registered_again(environment: dict[str, str], kubectl: Kubectl) -> None:
    def uid() -> str:
        return kubectl(environment, "get", "pod", "nmi-node-0", "-o", "jsonpath={.metadata.uid}")[1]

    first = uid()
    assert kubectl(environment, "delete", "pod", "nmi-node-0", "--wait=false")[0] == 0
    until_sync(lambda: bool(re.fullmatch(r"[0-9a-f-]{36}", uid())) and uid() != first)
    assert "nmi starting version=" in kubectl(environment, "logs", "nmi-node-0")[1]


@pytest.mark.timeout(180)
def test_explain_reports_a_healthy_pod(demo: dict[str, str]) -> None:
    code, output = podidctl(demo, "explain", "pod", "default/demo")
    assert code == 0, output
    assert "pod default/demo: granted" in output
    assert "decided by the flags of pod default/nmi-node-0" in output
    assert "broken" not in output


@pytest.mark.timeout(180)
def test_doctor_finds_no_fault(demo: dict[str, str]) -> None:
    code, output = podidctl(demo, "doctor")
    findings = [line for line in output.splitlines() if line.split()[:1] in (["problem"], ["warning"], ["unknown"])]
    assert (code, findings) == (0, [])
    assert "1 of 1 replica ready" in output


@pytest.mark.timeout(180)
def test_mic_and_nmi_have_the_permissions_of_the_manifests(environment: dict[str, str], kubectl: Kubectl) -> None:
    code, output = podidctl(environment, "doctor")
    assert code == 0, output
    for program in ("NMI", "MIC"):
        account = f"default/aad-pod-identity-{program.lower()}"
        assert f"{program}'s service account {account} has all permissions that it needs" in output
    own = f"--kubeconfig={environment['PODIDENTITY_SANDBOX']}/nmi.kubeconfig"
    assert kubectl(environment, own, "auth", "can-i", "list", "pods", "--all-namespaces") == (0, "yes\n")
    assert kubectl(environment, own, "auth", "can-i", "list", "secrets") == (1, "no\n")
    code, output = kubectl(environment, own, "delete", "pod", "nmi-node-0")
    assert (code, "is forbidden" in output) == (1, True)


@pytest.mark.timeout(180)
def test_doctor_names_a_permission_that_nmi_lacks(environment: dict[str, str], kubectl: Kubectl) -> None:
    role = "clusterrole/aad-pod-identity-nmi"
    code, rules = kubectl(environment, "get", role, "-o", "jsonpath={.rules}")
    assert code == 0
    assert kubectl(environment, "patch", role, "--type=merge", "-p", '{"rules":[]}')[0] == 0
    try:
        code, output = podidctl(environment, "doctor")
        assert code == 3
        assert "NMI's service account default/aad-pod-identity-nmi may not: " in output
    finally:
        assert kubectl(environment, "patch", role, "--type=merge", "-p", f'{{"rules":{rules}}}')[0] == 0
    until_sync(lambda: podidctl(environment, "doctor")[0] == 0)


@pytest.mark.timeout(180)
def test_plan_and_token_need_no_more_than_the_printed_variables(demo: dict[str, str]) -> None:
    code, output = podidctl(demo, "plan")
    assert (code, "Nothing to do." in output) == (0, True), output
    code, output = podidctl(demo, "token", "default/demo")
    assert (code, "pod default/demo: granted" in output) == (0, True), output


@pytest.mark.timeout(180)
def test_a_fault_of_arm_shows_in_plan_until_it_is_cleared(demo: dict[str, str]) -> None:
    assert podidctl(demo, "sandbox", "fault", "arm=403") == (0, "arm=403\n")
    try:
        code, output = podidctl(demo, "plan")
        assert code == 1
        assert "403" in output
        assert podidctl(demo, "sandbox", "fault") == (0, "arm=403\n")
    finally:
        assert podidctl(demo, "sandbox", "fault", "--clear") == (0, "no fault is active\n")
    assert podidctl(demo, "plan")[0] == 0


@pytest.mark.timeout(180)
def test_mic_is_started_again_after_an_outage_of_the_api_server_ended_it(demo: dict[str, str]) -> None:
    log = Path(demo["PODIDENTITY_SANDBOX"]) / "mic.log"
    assert podidctl(demo, "sandbox", "fault", "api=hang")[0] == 0
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run([up.tool("kubectl"), "get", "pods"], env=demo, timeout=2, check=False, capture_output=True)
        until_sync(lambda: "lost" in log.read_text())
    finally:
        assert podidctl(demo, "sandbox", "fault", "--clear", "api") == (0, "no fault is active\n")
    until_sync(lambda: podidctl(demo, "doctor")[1].count("1 of 1 replica ready") == 1)


def test_an_unusable_fault_is_one_line_and_exit_code_1(environment: dict[str, str]) -> None:
    code, output = podidctl(environment, "sandbox", "fault", "disk=500")
    assert (code, output) == (1, "podidctl: unknown service 'disk': use imds, arm, aad, proxy, api\n")


def test_without_a_sandbox_the_command_reports_how_to_start_one(tmp_path: Path) -> None:
    alone = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    code, output = podidctl(alone, "sandbox", "fault")
    assert code == 1
    assert output == "podidctl: no sandbox of this user runs on this machine; start one: podidctl sandbox up\n"
