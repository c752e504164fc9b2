"""`nmi` on machines on which it cannot start: one line states the next action. Excluded: a start that succeeds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nmi.node.machines import Machine

pytestmark = pytest.mark.root

NMI = (sys.executable, "-m", "nmi", "--node=n1")
KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
"""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)
    return f"--kubeconfig={path}"


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line with the reason, after the log lines before it."""
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("nmi: ")
    return last


def test_a_port_in_use_ends_the_start(machine: Machine, kubeconfig: str) -> None:
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 2579)); print('held', flush=True); sys.stdin.read()"
    )
    with machine.start(sys.executable, "-c", code) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert "--nmi-port" in refused(machine.finish(*NMI, kubeconfig))
        holder.communicate()


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_missing_net_admin_ends_the_start(machine: Machine, kubeconfig: str, backend: str) -> None:
    machine.run(f"iptables-{backend}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    without = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    line = refused(machine.finish(*without, *NMI, kubeconfig))
    assert "give NMI the capability NET_ADMIN" in line
    assert "--redirect=none" in line


def test_missing_programs_of_netfilter_end_the_start(machine: Machine, kubeconfig: str) -> None:
    for directory in {os.path.realpath(path) for path in ("/usr/sbin", "/sbin")}:
        machine.run("mount", "-t", "tmpfs", "tmpfs", directory)
    assert "no backend of netfilter is usable: install the packages iptables" in refused(
        machine.finish(*NMI, kubeconfig)
    )


def test_a_node_with_kubenet_ends_the_start(machine: Machine, kubeconfig: str, tmp_path: Path) -> None:
    kubelet = tmp_path / "kubelet"
    kubelet.write_text("KUBELET_FLAGS=--network-plugin=kubenet")
    line = refused(machine.finish(*NMI, kubeconfig, f"--kubelet-config={kubelet}"))
    assert "--allow-network-plugin-kubenet" in line


def test_the_reject_exists_after_a_start_without_access_to_the_cluster(machine: Machine, tmp_path: Path) -> None:
    kubelet = tmp_path / "kubelet"
    flags = ("--redirect=iptables-nft", "--fail-closed", "--kubeconfig=/missing", f"--kubelet-config={kubelet}")
    kubelet.write_text("KUBELET_NODE_LABELS=agentpool=a\n")
    assert "kubeconfig" in refused(machine.finish(*NMI, *flags))
    (rule,) = machine.rules("nft", "FORWARD")
    assert "REJECT" in rule
    machine.run("iptables-nft", "-F", "FORWARD")
    kubelet.write_text("")
    assert "kubeconfig" in refused(machine.finish(*NMI, *flags))
    assert machine.rules("nft", "FORWARD") == []
