"""A node of AKS with eBPF host routing: what NMI writes there, with each backend. Excluded: the API server's side."""

import re
from pathlib import Path

import pytest

from nmi.node.host_routing import LABEL
from tests.support.nmi.node.fixtures import kubelet_with
from tests.support.nmi.node.machines import Machine
from tests.support.nmi.node.redirect_process import RedirectProcess

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
_CHAINS = r"(?:KUBE-FIREWALL|IP-MASQ-AGENT|CILIUM_\w+)"
_COMMENT = r'--comment "?(?:cilium:|cilium-feeder:|AKS managed: added by AgentBaker)'
ALLOWED = re.compile(rf":.*|\*.*|COMMIT|-A {_CHAINS} .*|-A .* -j {_CHAINS}(?: .*)?|-A .*{_COMMENT}.*")
"""The rules that Cilium's agent of AKS accepts on a node with eBPF host routing, in our own words.

Its init container ends, and the agent starts, when each line of every table of iptables matches: a new chain, a
policy, a rule in or to a chain of Kubernetes' firewall, the masquerade agent or Cilium, and a rule with a comment of
Cilium or of AgentBaker. The few rules for AKS's own addresses are left out, because NMI's are none of them.
"""
ALL = ("--fail-closed", "--route-localnet=set", "--redirect-target=loopback")


@pytest.fixture
def machine(machine: Machine) -> Machine:
    machine.run("iptables-nft-restore", given=AKS)
    return machine


def seen(machine: Machine) -> list[str]:
    """Return the lines of iptables-save for which the agent would not start, and NMI's tables of nftables."""
    saved = [*machine.saved("nft"), *machine.saved("legacy")]
    tables = [line for line in machine.run("nft", "list", "tables").splitlines() if "aad-pod-identity" in line]
    return [*(line for line in saved if not ALLOWED.fullmatch(line)), *tables]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("local", "labels"),
    [(f"agentpool=a,{LABEL}=true", None), ("agentpool=a", LABELS), ("", LABELS)],
    ids=["kubelet's flags, no API server", "node object", "node object, no labels in the kubelet's flags"],
)
def test_the_label_keeps_every_rule_away(
    machine: Machine, backend: str, local: str, tmp_path: Path, labels: dict[str, str] | None
) -> None:
    flags = (f"--redirect={backend}", *ALL, kubelet_with(local, tmp_path / "kubelet"))
    with RedirectProcess(machine, *flags, labels=labels) as node:
        for _ in range(3):
            node.next()
            assert seen(machine) == []
        state = node.now()
    assert seen(machine) == []
    assert f"{LABEL}=true, so NMI writes no rule" in state["problem"]
    assert "nmi.redirect.backend=cilium" in state["problem"]
    assert machine.run("cat", "/proc/sys/net/ipv4/conf/all/route_localnet") == "0\n"


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_of_an_earlier_nmi_are_removed(machine: Machine, backend: str, tmp_path: Path) -> None:
    with RedirectProcess(machine, f"--redirect={backend}", *ALL) as node:
        node.installed()
    assert len(seen(machine)) >= 2, "the agent would not start with the rules of a node without the label"
    machine.set_sysctl({"net/ipv4/conf/all/route_localnet": "0"})
    with RedirectProcess(machine, kubelet_with(f"{LABEL}=true", tmp_path / "kubelet"), labels=None) as node:
        node.next()
        node.next()
        assert seen(machine) == [], "before NMI listens"
    assert seen(machine) == []
    assert "-A INPUT -j KUBE-FIREWALL" in machine.saved("nft"), "rules of others stay"


def test_the_guard_of_loopback_remains_while_route_localnet_is_on_and_then_goes(
    machine: Machine, tmp_path: Path
) -> None:
    flags = (kubelet_with(f"{LABEL}=true", tmp_path / "kubelet"), "--ipt-update-interval-sec=1")
    with RedirectProcess(machine, "--route-localnet=set", "--redirect-target=loopback") as node:
        node.installed()
    assert len(seen(machine)) == 1
    with RedirectProcess(machine, *flags, labels=None) as node:
        assert "run `sysctl -w net.ipv4.conf.all.route_localnet=0` on the node" in node.installed()["problem"]
        assert len(seen(machine)) == 1
        machine.set_sysctl({"net/ipv4/conf/all/route_localnet": "0"})
        node.until(lambda state: "sysctl" not in state["problem"])
        assert seen(machine) == []
