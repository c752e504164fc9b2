"""A node of AKS with eBPF host routing: what NMI writes there, with each backend. Excluded: the API server's side."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nmi.node.host_routing import LABEL
from tests.nmi.node.allowed_rules import unexpected
from tests.nmi.node.machines import Machine
from tests.nmi.node.redirect_process import RedirectProcess, State

pytestmark = pytest.mark.root

BACKENDS = ["iptables-legacy", "iptables-nft", "nftables"]
AKS = """*mangle
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
"""
LABELS = {LABEL: "true"}
ALL = ("--fail-closed", "--route-localnet=set", "--redirect-target=loopback")


@pytest.fixture
def machine(machine: Machine) -> Machine:
    machine.run("iptables-nft-restore", given=AKS)
    return machine


@pytest.fixture
def kubelet(tmp_path: Path) -> Callable[[str], str]:
    """Return the flag that names a file with the labels of the kubelet's flags."""

    def write(labels: str) -> str:
        file = tmp_path / "kubelet"
        file.write_text(f"KUBELET_FLAGS=--v=2\nKUBELET_NODE_LABELS={labels}\n")
        return f"--kubelet-config={file}"

    return write


def seen(machine: Machine) -> list[str]:
    """Return every unexpected rule, and NMI's tables of nftables."""
    tables = [each for each in machine.run("nft", "list", "tables").splitlines() if "aad-pod-identity" in each]
    return [*unexpected(machine.saved("nft")), *unexpected(machine.saved("legacy")), *tables]


def during_and_after(machine: Machine, *flags: str, labels: dict[str, str] | None) -> tuple[list[str], State]:
    """Return what NMI has on the node at any moment, and its last state before the end."""
    found: list[str] = []
    with RedirectProcess(machine, *flags, labels=labels) as node:
        for _ in range(3):
            node.next()
            found += seen(machine)
        state = node.now()
        node.end()
    return found + seen(machine), state


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_label_in_the_kubelets_flags_keeps_every_rule_away_without_an_api_server(
    machine: Machine, backend: str, kubelet: Callable[[str], str]
) -> None:
    flags = (f"--redirect={backend}", *ALL, kubelet(f"agentpool=a,{LABEL}=true"))
    rules, state = during_and_after(machine, *flags, labels=None)
    assert rules == []
    assert f"{LABEL}=true, so NMI writes no rule" in state["problem"]
    assert "nmi.redirect.backend=cilium" in state["problem"]
    assert machine.run("cat", "/proc/sys/net/ipv4/conf/all/route_localnet") == "0\n"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_label_of_the_node_object_keeps_every_rule_away(
    machine: Machine, backend: str, kubelet: Callable[[str], str]
) -> None:
    for local in (kubelet("agentpool=a"), "--kubelet-config=/nowhere"):
        rules, state = during_and_after(machine, f"--redirect={backend}", *ALL, local, labels=LABELS)
        assert rules == []
        assert "so NMI writes no rule" in state["problem"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_list_would_refuse_the_rules_that_a_node_without_the_label_gets(
    machine: Machine, backend: str, kubelet: Callable[[str], str]
) -> None:
    flags = (f"--redirect={backend}", *ALL, kubelet(f"agentpool=a,{LABEL}=false"))
    rules, state = during_and_after(machine, *flags, labels={LABEL: "false"})
    text = "\n".join(rules)
    assert ("-A PREROUTING -j aad-metadata" in text) is (backend != "nftables")
    assert ("REJECT --reject-with tcp-reset" in text) is (backend != "nftables")
    assert ("table ip aad-pod-identity" in text) is (backend != "iptables-legacy"), "for iptables-nft the flush guard"
    assert "-A INPUT ! -s 127.0.0.0/8" in text
    assert state["problem"] is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_of_an_earlier_nmi_are_removed(machine: Machine, backend: str, kubelet: Callable[[str], str]) -> None:
    kept = (f"--redirect={backend}", "--fail-closed", "--route-localnet=set", "--redirect-target=loopback")
    with RedirectProcess(machine, *kept) as node:
        node.installed()
        node.end()
    assert seen(machine)
    machine.set_sysctl({"net/ipv4/conf/all/route_localnet": "0"})
    with RedirectProcess(machine, kubelet(f"{LABEL}=true"), labels=None) as node:
        node.next()
        node.next()
        assert seen(machine) == [], "before NMI listens"
        node.end()
    assert seen(machine) == []
    assert "-A INPUT -j KUBE-FIREWALL" in machine.saved("nft"), "rules of others stay"


def test_the_guard_of_loopback_remains_while_route_localnet_is_on_and_then_goes(
    machine: Machine, kubelet: Callable[[str], str]
) -> None:
    with RedirectProcess(machine, "--route-localnet=set", "--redirect-target=loopback") as node:
        node.installed()
        node.end()
    assert len(seen(machine)) == 1
    with RedirectProcess(machine, kubelet(f"{LABEL}=true"), "--ipt-update-interval-sec=1", labels=None) as node:
        assert "run `sysctl -w net.ipv4.conf.all.route_localnet=0` on the node" in node.installed()["problem"]
        assert len(seen(machine)) == 1
        machine.set_sysctl({"net/ipv4/conf/all/route_localnet": "0"})
        node.until(lambda state: "sysctl" not in state["problem"])
        assert seen(machine) == []


def test_without_any_labels_nothing_is_written_and_what_exists_stays(machine: Machine) -> None:
    flags = ("--redirect=iptables-nft", *ALL, "--kubelet-config=/nowhere", "--ipt-update-interval-sec=1")
    with RedirectProcess(machine, *flags, labels=None) as node:
        assert "the labels of this node are not known yet" in node.installed()["problem"]
        time.sleep(2.5)  # two intervals of the maintenance
        assert seen(machine) == []
        assert machine.run("cat", "/proc/sys/net/ipv4/conf/all/route_localnet") == "0\n"
        node.end()
    assert seen(machine) == []
    with RedirectProcess(machine, *flags) as node:
        node.installed()
        node.end()
    before = machine.saved("nft")
    assert unexpected(before)
    during_and_after(machine, *flags, labels=None)
    assert machine.saved("nft") == before, "pods stay blocked"


def test_labels_in_the_kubelets_flags_permit_the_reject_without_an_api_server(
    machine: Machine, kubelet: Callable[[str], str]
) -> None:
    with RedirectProcess(machine, "--redirect=iptables-nft", "--fail-closed", kubelet("a=b"), labels=None) as node:
        node.next()
        node.next()
        assert any("REJECT" in each for each in machine.rules("nft", "FORWARD"))


@pytest.mark.parametrize("mode", ["cilium", "none"])
def test_without_a_redirect_by_rules_the_node_is_not_touched_at_all(
    machine: Machine, mode: str, kubelet: Callable[[str], str]
) -> None:
    before = machine.saved("nft")
    with RedirectProcess(machine, f"--redirect={mode}", kubelet(f"{LABEL}=true"), labels=LABELS) as node:
        node.installed()
        assert (seen(machine), machine.saved("nft")) == ([], before)
        node.kill()
