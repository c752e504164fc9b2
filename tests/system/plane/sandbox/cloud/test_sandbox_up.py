"""`podidctl sandbox up` and the documented commands in a shell with the variables that it prints."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.sandbox.cloud.terminal import Kubectl, podidctl, sandbox_up
from tests.support.testplane import up
from tests.support.waiting import until_sync

pytestmark = pytest.mark.programs
FLAGS = ("--identity=blue=app", "--service-principal=robot", "--system-assigned")


@dataclass(frozen=True)
class Running:
    """A sandbox in another terminal."""

    environment: dict[str, str]
    """The environment of a shell in which the sandbox can be used."""
    log: Path

    @property
    def folder(self) -> Path:
        return Path(self.environment["PODIDENTITY_SANDBOX"])

    def pid_of(self, module: str) -> int:
        """Return the newest process of the sandbox that runs this module; 0 if there is none."""
        owner = int(self.folder.name.split("-")[1])
        for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: -int(path.name)):
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == owner and command[1:3] == [b"-m", module.encode()]:
                return int(process.name)
        return 0

    def is_ready(self) -> bool:
        """Return whether doctor finds MIC and NMI ready."""
        output = podidctl(self.environment, "doctor")[1]
        return "ready on 1 node" in output and "1 of 1 replica ready" in output


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("up") / "log"
    with sandbox_up(log, *FLAGS) as environment:
        running = Running(environment, log)
        assert Path(environment["KUBECONFIG"]).exists()
        yield running
    assert not running.folder.exists()


@pytest.fixture
def environment(running: Running) -> dict[str, str]:
    return running.environment


def test_the_output_names_the_identities_of_the_command_line(running: Running) -> None:
    output = running.log.read_text()
    for kind, name, selector in (("identity", "blue", "app"), ("service principal", "robot", "robot")):
        line = rf"# {kind} {name}, client id [0-9a-f-]{{36}}: for pods with the label aadpodidbinding={selector}$"
        assert re.search(line, output, re.MULTILINE), name
    assert "# each VM or scale set has a system-assigned identity" in output


def test_the_pods_of_mic_and_nmi_are_ready_and_have_logs(environment: dict[str, str], kubectl: Kubectl) -> None:
    def is_ready(pod: str) -> bool:
        code, output = kubectl(environment, "get", "pods", "-l", "app.kubernetes.io/name=aad-pod-identity")
        assert code == 0, output
        return re.search(rf"^{pod} +1/1 +Running", output, re.MULTILINE) is not None

    until_sync(lambda: is_ready("mic") and is_ready("nmi-node-0"))  # a probe may have been too slow
    assert "nmi starting version=" in kubectl(environment, "logs", "nmi-node-0")[1]
    assert kubectl(environment, "logs", "mic")[1]


def test_a_deleted_pod_of_nmi_is_registered_again(environment: dict[str, str], kubectl: Kubectl) -> None:
    def uid() -> str:
        return kubectl(environment, "get", "pod", "nmi-node-0", "-o", "jsonpath={.metadata.uid}")[1]

    first = uid()
    assert kubectl(environment, "delete", "pod", "nmi-node-0", "--wait=false")[0] == 0
    until_sync(lambda: bool(re.fullmatch(r"[0-9a-f-]{36}", uid())) and uid() != first)
    assert "nmi starting version=" in kubectl(environment, "logs", "nmi-node-0")[1]


def test_mic_and_nmi_have_the_permissions_of_the_manifests(environment: dict[str, str], kubectl: Kubectl) -> None:
    _, output = podidctl(environment, "doctor")
    for program in ("NMI", "MIC"):
        account = f"default/aad-pod-identity-{program.lower()}"
        assert f"{program}'s service account {account} has all permissions that it needs" in output, output
    own = f"--kubeconfig={environment['PODIDENTITY_SANDBOX']}/nmi.kubeconfig"
    assert kubectl(environment, own, "auth", "can-i", "list", "pods", "--all-namespaces") == (0, "yes\n")
    assert kubectl(environment, own, "auth", "can-i", "list", "secrets") == (1, "no\n")
    code, output = kubectl(environment, own, "delete", "pod", "nmi-node-0")
    assert (code, "is forbidden" in output) == (1, True)


def test_a_fault_of_arm_shows_in_plan_until_it_is_cleared(environment: dict[str, str], kubectl: Kubectl) -> None:
    code, output = kubectl(environment, "apply", "-f", "deploy/demo/")
    assert code == 0, output
    until_sync(lambda: "successfully acquired a token" in kubectl(environment, "logs", "demo")[1])
    assert podidctl(environment, "sandbox", "fault", "arm=403") == (0, "arm=403\n")
    try:
        code, output = podidctl(environment, "plan")
        assert code == 1
        assert "403" in output
        assert podidctl(environment, "sandbox", "fault") == (0, "arm=403\n")
    finally:
        assert podidctl(environment, "sandbox", "fault", "--clear") == (0, "no fault is active\n")
    code, output = podidctl(environment, "plan")
    assert (code, "Nothing to do." in output) == (0, True), output


@pytest.mark.plane
def test_mic_is_started_again_after_an_outage_of_the_api_server_ended_it(running: Running) -> None:
    environment, log = running.environment, running.folder / "mic.log"
    assert podidctl(environment, "sandbox", "fault", "api=hang")[0] == 0
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(
                [up.tool("kubectl"), "get", "pods"], env=environment, timeout=2, check=False, capture_output=True
            )
        until_sync(lambda: "lost" in log.read_text())
    finally:
        assert podidctl(environment, "sandbox", "fault", "--clear", "api") == (0, "no fault is active\n")
    until_sync(running.is_ready)


@pytest.mark.parametrize("program", ["mic", "nmi"])
def test_a_killed_program_starts_again_with_a_line_in_the_output(running: Running, program: str) -> None:
    first = running.pid_of(program)
    assert first
    os.kill(first, signal.SIGKILL)
    until_sync(lambda: running.pid_of(program) not in {0, first})
    output = running.log.read_text()
    assert re.search(rf"^{program}.* ended with code -9: .*; it starts again in [\d.]+ s$", output, re.MULTILINE)
    until_sync(lambda: bool(re.search(rf"^{program}.* runs again$", running.log.read_text(), re.MULTILINE)))


def test_without_a_sandbox_the_command_reports_how_to_start_one(tmp_path: Path) -> None:
    alone = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    code, output = podidctl(alone, "sandbox", "fault")
    assert code == 1
    assert output == "podidctl: no sandbox of this user runs on this machine; start one: podidctl sandbox up\n"
