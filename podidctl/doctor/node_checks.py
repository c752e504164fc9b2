"""Checks on this machine as a node: the nat rule, whether anything meets it, kubenet, and IMDS. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nmi.node.rule_text import normalized
from nmi.node.rules import CHAIN
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.fail_closed import FailClosedState
from podidctl.doctor.schema import Finding, Level, counted, make_finding

_COUNTER_LINE = re.compile(r"\[(?P<packets>\d+):\d+\] -A (?P<chain>\S+) (?P<rule>.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """What this machine says."""

    name: str
    fault: str | ReadFailure | None
    """What is wrong with the redirect; None where it is as it should be."""
    wanted: bool = True
    """Whether NMI here is to have one at all."""
    packets: int | None = None
    """How many first packets of connections have met it since it was written; None where nobody counted."""
    pods: int | None = 0
    """Pods that run on this node, with a label, and not on the host's network; None where they could not be read."""
    kubenet: bool = False
    """Whether the kubelet's flags name kubenet."""
    imds: str | ReadFailure | None = None
    """What IMDS answered; None where it was not asked."""
    closing: FailClosedState | None = None
    """What keeps pods from IMDS while NMI is not running; None where nothing is redirected."""


def packets_in(saved: str, rule: str) -> int | None:
    """How many packets have met the rule *redirect* (normalised) of our chain, by the text of `iptables-save -c`."""
    for line in saved.splitlines():
        match = _COUNTER_LINE.fullmatch(line.strip())
        if match is not None and match["chain"] == CHAIN and normalized(match["rule"]) == rule:
            return int(match["packets"])
    return None


def check_redirect(state: NodeState) -> Iterator[Finding]:
    """Whether the rule is in force here, and pods' requests meet it."""
    about = f"node {state.name}"
    if not state.wanted:
        yield make_finding("nat rule", Level.OK, f"{about}: none is wanted, by --redirect=none")
        return
    if isinstance(state.fault, ReadFailure):
        yield make_finding(
            "nat rule", Level.UNKNOWN, f"{about}: {state.fault.why}", "run it as root, in the host's network"
        )
        return
    if state.fault is not None:
        then = "see NMI's log on this node: it puts the rule back at once where it may"
        yield make_finding("nat rule", Level.PROBLEM, f"{about}: {state.fault}: pods reach IMDS itself", then)
        return
    yield make_finding("nat rule", Level.OK, f"{about}: in force, before every other rule")
    if state.packets is None:
        yield make_finding("redirects", Level.UNKNOWN, f"{about}: iptables tells no counter of the rule")
    elif state.packets == 0 and state.pods is None:
        says = f"{about}: nothing has met the rule, and whether pods with a label are here could not be read"
        yield make_finding("redirects", Level.UNKNOWN, says, "ask with more rights: list on pods and nodes")
    elif state.packets == 0 and state.pods:
        says = f"{about}: nothing has met the rule since it was written; pods with a label here: {state.pods}"
        then = (
            "ask for a token from a pod here and look again; if it stays 0, pods' traffic bypasses netfilter: with "
            "Cilium set bpf.hostLegacyRouting=true (eBPF host routing never enters the nat table)"
        )
        yield make_finding("redirects", Level.WARNING, says, then)
    else:
        yield make_finding("redirects", Level.OK, f"{about}: {counted(state.packets, 'connection')} led to NMI")


def check_kubenet(state: NodeState) -> Iterator[Finding]:
    """Whether pods here can take each other's address."""
    if state.kubenet:
        then = "use another network plugin; else forbid NET_RAW to pods by policy, and allow it to NMI by its flag"
        says = (
            f"node {state.name}: the kubelet runs with kubenet, where a pod can take another's address, and its tokens"
        )
        yield make_finding("kubenet", Level.WARNING, says, then)
    else:
        yield make_finding("kubenet", Level.OK, f"node {state.name}: the kubelet's flags do not name it")


def check_imds(state: NodeState) -> Iterator[Finding]:
    """Whether IMDS answers this machine."""
    if isinstance(state.imds, ReadFailure):
        then = "NMI gets no token here either: see the node's routes and firewall, and that it is a VM of Azure"
        yield make_finding("IMDS", Level.PROBLEM, f"node {state.name}: {state.imds.why}", then)
    elif state.imds is not None:
        yield make_finding("IMDS", Level.OK, f"node {state.name}: {state.imds}")
