"""`podidctl sandbox up` after the end of its programs, and after a stop of its processes."""

import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sandbox.cloud.terminal import Kubectl, podidctl, sandbox_up
from tests.support.waiting import until_sync

pytestmark = [pytest.mark.programs, pytest.mark.timeout(240)]
FLAGS = ("--identity=blue=app", "--service-principal=robot", "--system-assigned")
POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{aadpodidbinding: {name}}}}}
spec: {{containers: [{{name: main, image: app}}]}}
"""
SUSPENDED_SECONDS = 20.0
"""Longer than MIC's lease, 15 s."""


@dataclass(frozen=True)
class Running:
    """A sandbox in another terminal."""

    environment: dict[str, str]
    log: Path

    @property
    def pid(self) -> int:
        """The sandbox's own process, by the name of its folder."""
        return int(Path(self.environment["PODIDENTITY_SANDBOX"]).name.split("-")[1])

    def pid_of(self, module: str) -> int:
        """Return the newest process of the sandbox that runs this module; 0 if there is none."""
        for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: -int(path.name)):
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == self.pid and command[1:3] == [b"-m", module.encode()]:
                return int(process.name)
        return 0

    def wait_until_healthy(self) -> None:
        """Wait until doctor finds nothing."""
        until_sync(lambda: podidctl(self.environment, "doctor"), "doctor", holds=lambda result: result[0] == 0)

    def has_token(self) -> bool:
        return "granted" in podidctl(self.environment, "token", "default/app")[1]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, kubectl: Kubectl) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("up") / "log"
    with sandbox_up(log, *FLAGS) as environment:
        running = Running(environment, log)
        manifest = log.with_name("pods.yaml")
        manifest.write_text("---\n".join(POD.format(name=name) for name in ("app", "robot")))
        code, output = kubectl(environment, "apply", "-f", str(manifest))
        assert code == 0, output
        until_sync(running.has_token)
        yield running


def test_the_output_names_the_identities_of_the_command_line(up: Running) -> None:
    output = up.log.read_text()
    assert re.search(
        r"# identity blue, client id [0-9a-f-]{36}: for pods with the label aadpodidbinding=app$", output, re.MULTILINE
    )
    assert re.search(
        r"# service principal robot, client id [0-9a-f-]{36}: for pods with the label aadpodidbinding=robot$",
        output,
        re.MULTILINE,
    )
    assert "# each VM or scale set has a system-assigned identity" in output


@pytest.mark.parametrize("program", ["mic", "nmi"])
def test_a_killed_program_starts_again_with_a_line_in_the_output(up: Running, program: str) -> None:
    first = up.pid_of(program)
    assert first
    os.kill(first, signal.SIGKILL)
    until_sync(lambda: up.pid_of(program) not in {0, first})
    output = up.log.read_text()
    assert re.search(rf"^{program}.* ended with code -9: .*; it starts again in 1 s$", output, re.MULTILINE)
    until_sync(lambda: bool(re.search(rf"^{program}.* runs again$", up.log.read_text(), re.MULTILINE)))
    up.wait_until_healthy()
    assert up.has_token()


def test_the_sandbox_continues_after_it_was_stopped_for_longer_than_a_lease(up: Running) -> None:
    os.kill(up.pid, signal.SIGSTOP)
    try:
        time.sleep(SUSPENDED_SECONDS)
    finally:
        os.kill(up.pid, signal.SIGCONT)
    up.wait_until_healthy()
    until_sync(up.has_token)
    code, output = podidctl(up.environment, "plan")
    assert (code, "Nothing to do." in output) == (0, True), output


def test_all_its_programs_continue_after_they_were_stopped_together(up: Running) -> None:
    """A suspended machine stops everything; the clocks of this test continue, as the wall clock does."""
    stopped = [up.pid, up.pid_of("mic"), up.pid_of("nmi")]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(SUSPENDED_SECONDS)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    up.wait_until_healthy()
    until_sync(up.has_token)
