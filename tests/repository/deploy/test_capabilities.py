"""NMI installs and removes its rules with only the permissions of the chart's containers: their capabilities, no new
privileges, a read-only root and /proc/sys, and the mounts.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typing_extensions import override

from nmi.node.route_localnet import MOUNTED
from tests.support.nmi.node.machines import Machine, machines
from tests.support.nmi.node.redirect_process import RedirectProcess
from tools.chart.rendering import GOLDEN, render

pytestmark = pytest.mark.root


def container(name: str) -> dict[str, Any]:
    """Return the container or init container of this name in the chart's DaemonSets, with all options enabled."""
    (spec,) = (
        candidate
        for workload in render(GOLDEN / "every-flag.values.yaml")
        if workload["kind"] == "DaemonSet"
        for candidate in [
            *workload["spec"]["template"]["spec"]["containers"],
            *workload["spec"]["template"]["spec"].get("initContainers", []),
        ]
        if candidate["name"] == name
    )
    return dict(spec)


def as_in(name: str) -> list[str]:
    """Return the command prefix that reduces permissions to those of that container."""
    context = container(name)["securityContext"]
    assert context["runAsUser"] == 0
    assert context["capabilities"]["drop"] == ["ALL"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    added = [f"+{capability.lower()}" for capability in context["capabilities"]["add"]]
    return ["setpriv", f"--bounding-set=-all,{','.join(added)}", "--inh-caps=-all", "--no-new-privs", "--"]


class Node(Machine):
    """A machine on which Plumbed runs with the permissions of NMI's container."""

    @override
    def start(self, *words: str) -> "subprocess.Popen[str]":
        return super().start(*as_in("nmi"), *words)


@pytest.fixture(params=["nft", "legacy"])
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node with this backend, with the file systems of an unprivileged container."""
    made = Node()
    try:
        made.run(f"iptables-{request.param}-restore", given="*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n")
        made.run("touch", "/run/xtables.lock")
        yield made
    finally:
        made.close()


def as_mounted(node: Machine, name: str) -> None:
    """Give the machine the file systems of that container: read-only except for its writable mounts."""
    written = {mount["mountPath"] for mount in container(name)["volumeMounts"] if not mount.get("readOnly")}
    # The machine has a separate /run.
    assert written - {"/run/aad-pod-identity", str(MOUNTED)} == {"/run/xtables.lock", "/tmp"}
    if str(MOUNTED) in written:
        node.run("touch", str(MOUNTED))
        node.run("mount", "--bind", "/proc/sys/net/ipv4/conf/all/route_localnet", str(MOUNTED))
    node.run("mount", "--bind", "/tmp", "/tmp")  # not an empty one: the project itself may be there
    node.run("mount", "--bind", "/proc/sys", "/proc/sys")
    node.run("mount", "-o", "remount,bind,ro", "/proc/sys")
    node.run("mount", "-o", "remount,bind,ro", "/")


def rules(node: Machine) -> str:
    return node.run("iptables-nft-save") + node.run("iptables-legacy-save")


def test_the_containers_have_the_permissions_that_their_programs_need(node: Node) -> None:
    assert node.run("cat", "/proc/sys/net/ipv4/conf/all/route_localnet") == "0\n"
    as_mounted(node, "nmi")
    assert node.finish("touch", "/etc/written").returncode != 0
    node.run("sh", "-c", "umask 077; mkdir /run/of-root; echo --network-plugin=cni > /run/of-root/kubelet")
    kubelet = "--kubelet-config=/run/of-root/kubelet"
    flags = ("--route-localnet=set", "--fail-closed", "--enable-conntrack-deletion", kubelet)
    with RedirectProcess(node, *flags) as nmi:
        nmi.installed()
        nmi.until(lambda state: not state["problem"])
        nmi.kill()  # as with fail-closed: the rules remain
    assert "--to-destination 127.0.0.1:2579" in rules(node)
    assert node.run("cat", "/proc/sys/net/ipv4/conf/all/route_localnet") == "1\n"
    assert node.run("sh", "-c", "iptables-nft -S INPUT; iptables-legacy -S INPUT").count("-j DROP") == 1

    as_mounted(node, "cleanup")
    cleanup = container("cleanup")
    done = node.finish(*as_in("cleanup"), sys.executable, "-m", "nmi", cleanup["args"][0])
    assert done.returncode == 0, done.stderr
    assert "removed" in done.stdout
    assert "2579" not in rules(node)


def checked(node: Node, owner: str) -> str:
    """Return NMI's report about kubelet flags with kubenet, in a file of mode 0600 with this owner."""
    node.run("sh", "-c", "umask 077; echo --network-plugin=kubenet > /run/kubelet")
    node.run("chown", owner, "/run/kubelet")
    program = "from pathlib import Path; from nmi.node import kubenet; "
    program += "import logging; logging.basicConfig(); kubenet.check(Path('/run/kubelet'), allowed=False)"
    return node.finish(*as_in("nmi"), sys.executable, "-c", program).stderr


def test_a_private_certificate_file_of_root_is_read_and_another_users_is_reported(node: Node) -> None:
    assert "has --network-plugin=kubenet" in checked(node, "0")
    reported = checked(node, "1000")
    assert "StartError" not in reported
    assert "WARNING:nmi.node.kubenet:no permission to read the kubelet's flags, NMI cannot detect" in reported


def test_no_container_has_a_capability_that_this_file_does_not_show_to_be_needed() -> None:
    for name in ("nmi", "cleanup"):
        assert container(name)["securityContext"]["capabilities"]["add"] == ["NET_ADMIN", "NET_RAW"]


def test_iptables_fails_without_the_capability() -> None:
    with machines(1) as (node,):
        less = ["setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all", "--no-new-privs", "--"]
        done = node.finish(*less, "iptables-nft", "-t", "nat", "-N", "TRIED")
        assert done.returncode != 0
        assert node.finish(*as_in("nmi"), "iptables-nft", "-t", "nat", "-N", "TRIED").returncode == 0
