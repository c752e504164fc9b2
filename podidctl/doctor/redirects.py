"""Checks on this machine as a node: the nat rule, whether anything meets it, kubenet, and IMDS. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nmi.node.rule_text import normalized
from nmi.node.rules import CHAIN
from podidctl.doctor.closing import Closing
from podidctl.doctor.shapes import Finding, Level, counted, found
from podidctl.inquiry.facts import Unread

_COUNTED = re.compile(r"\[(?P<packets>\d+):\d+\] -A (?P<chain>\S+) (?P<rule>.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """What this machine says."""

    name: str
    fault: str | Unread | None
    """What is wrong with the redirect; None where it is as it should be."""
    wanted: bool = True
    """Whether NMI here is to have one at all."""
    packets: int | None = None
    """How many first packets of connections have met it since it was written; None where nobody counted."""
    pods: int | None = 0
    """Pods that run on this node, with a label, and not on the host's network; None where they could not be read."""
    kubenet: bool = False
    """Whether the kubelet's flags name kubenet."""
    imds: str | Unread | None = None
    """What IMDS answered; None where it was not asked."""
    closing: Closing | None = None
    """What keeps pods from IMDS while NMI is not running; None where nothing is redirected."""


def packets_in(saved: str, redirect: str) -> int | None:
    """How many packets have met the rule *redirect* (normalised) of our chain, by the text of `iptables-save -c`."""
    for line in saved.splitlines():
        match = _COUNTED.fullmatch(line.strip())
        if match is not None and match["chain"] == CHAIN and normalized(match["rule"]) == redirect:
            return int(match["packets"])
    return None


def redirect(seen: NodeSeen) -> Iterator[Finding]:
    """Whether the rule is in force here, and pods' requests meet it."""
    about = f"node {seen.name}"
    if not seen.wanted:
        yield found("nat rule", Level.OK, f"{about}: none is wanted, by --redirect=none")
        return
    if isinstance(seen.fault, Unread):
        yield found("nat rule", Level.UNKNOWN, f"{about}: {seen.fault.why}", "run it as root, in the host's network")
        return
    if seen.fault is not None:
        then = "see NMI's log on this node: it puts the rule back at once where it may"
        yield found("nat rule", Level.PROBLEM, f"{about}: {seen.fault}: pods reach IMDS itself", then)
        return
    yield found("nat rule", Level.OK, f"{about}: in force, before every other rule")
    if seen.packets is None:
        yield found("redirects", Level.UNKNOWN, f"{about}: iptables tells no counter of the rule")
    elif seen.packets == 0 and seen.pods is None:
        says = f"{about}: nothing has met the rule, and whether pods with a label are here could not be read"
        yield found("redirects", Level.UNKNOWN, says, "ask with more rights: list on pods and nodes")
    elif seen.packets == 0 and seen.pods:
        says = f"{about}: nothing has met the rule since it was written; pods with a label here: {seen.pods}"
        then = (
            "ask for a token from a pod here and look again; if it stays 0, pods' traffic bypasses netfilter: with "
            "Cilium set bpf.hostLegacyRouting=true (eBPF host routing never enters the nat table)"
        )
        yield found("redirects", Level.WARNING, says, then)
    else:
        yield found("redirects", Level.OK, f"{about}: {counted(seen.packets, 'connection')} led to NMI")


def kubenet(seen: NodeSeen) -> Iterator[Finding]:
    """Whether pods here can take each other's address."""
    if seen.kubenet:
        then = "use another network plugin; else forbid NET_RAW to pods by policy, and allow it to NMI by its flag"
        says = (
            f"node {seen.name}: the kubelet runs with kubenet, where a pod can take another's address, and its tokens"
        )
        yield found("kubenet", Level.WARNING, says, then)
    else:
        yield found("kubenet", Level.OK, f"node {seen.name}: the kubelet's flags do not name it")


def imds(seen: NodeSeen) -> Iterator[Finding]:
    """Whether IMDS answers this machine."""
    if isinstance(seen.imds, Unread):
        then = "NMI gets no token here either: see the node's routes and firewall, and that it is a VM of Azure"
        yield found("IMDS", Level.PROBLEM, f"node {seen.name}: {seen.imds.why}", then)
    elif seen.imds is not None:
        yield found("IMDS", Level.OK, f"node {seen.name}: {seen.imds}")
