"""The commands of the quick start's "Try the installation" on `make cluster` with a real node, word for word."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.namespaces import NAMESPACES
from podidentity_sandbox.tokens import read_claims
from tests.support.checkout import ROOT
from tests.support.operators_shell import Terminal
from tests.system.node.processes import wait_for
from tests.system.plane.e2e.test_quick_start import a_fault_is_explained_and_everything_removed, blocks
from tools.cluster import FOLDER

pytestmark = pytest.mark.long


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A shell for `make cluster` with a real node, of which nothing remains after Ctrl-C."""
    log = tmp_path / "cluster.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "tools.cluster", "--node=real"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        wait_for(
            lambda: process.poll() is not None or "The cluster is up" in log.read_text(), 300, f"no cluster; see {log}"
        )
        assert process.poll() is None, log.read_text()
        yield Terminal()
    finally:
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    assert not list(NAMESPACES.glob(f"podid-{process.pid}-*"))
    for program in ("kubectl", "podidctl", "on-node-0"):
        done = subprocess.run([FOLDER / "bin" / program, "version"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith("the cluster has ended; start it again with make cluster\n")


def test_the_commands_of_the_quick_start_work_on_a_real_node(terminal: Terminal) -> None:
    _, use, look, leave = blocks()
    printed = terminal.all(use)
    assert read_claims(json.loads(printed["podidctl sandbox"])["access_token"])["appid"] == DEMO_CLIENT_ID
    assert "Succeeded" in printed["helm test"]
    plan = terminal.all(["kubectl exec deployment/aad-pod-identity-mic --namespace podid -- mic --plan"])
    assert "kubectl exec" in plan
    shell = terminal.all(["kubectl exec demo -- python3 -c 'print(6 * 7)'"])
    assert shell["kubectl exec"].strip() == "42"
    a_fault_is_explained_and_everything_removed(terminal, look, leave)
