"""Checks of nodes with eBPF host routing: NMI's redirect there, and what AKS's monitor of iptables reports. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from nmi.node.host_routing import LABEL
from nmi.settings import Settings
from podidctl.diagnosis.input import ReadFailure
from podidctl.diagnosis.node_placement import PlacedNode
from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.printing import listed
from podidentity.report import counted

CHECK: Final = "eBPF host routing"
PAGE: Final = "docs/operations.md#aks-nodes-with-ebpf-host-routing"
RULES_LABEL: Final = "kubernetes.azure.com/user-iptables-rules"
"""AKS's monitor sets it on the CiliumNode: `true` if a rule of iptables on the node is not one that AKS expects."""
UNEXPECTED: Final = "UnexpectedIPTablesRules"
BLOCKED: Final = "BlockedIPTablesRule"
REASONS: Final = (UNEXPECTED, BLOCKED)
"""Reasons of the Events of AKS's monitor, about nodes."""
EVENTS_MAX: Final = 1000
"""Events of one reason that are read; others than AKS may create them."""

_REMOVE: Final = (
    "compare iptables-save on these nodes with the rules of AKS: `nmi --cleanup` removes NMI's and those of the Go "
    "implementation, and the program that wrote the others must stop"
)
_ACTIONS: Final = {
    UNEXPECTED: _REMOVE,
    BLOCKED: (
        "AKS's kernel program azure-block-iptables refused a rule: find the program that writes it (NMI's log names "
        "its own), and do not bypass the kernel program"
    ),
}


@dataclass(frozen=True, slots=True)
class RuleMonitor:
    """What AKS's monitor of iptables reports. Anyone with permission to create Events there can forge the Events."""

    with_rules: frozenset[str] | ReadFailure = frozenset()
    """CiliumNodes whose label reports rules that AKS does not expect."""
    events: Mapping[str, frozenset[str]] | ReadFailure = field(default_factory=dict)
    """Names of the nodes in its Events, by the reason."""
    with_more_events: frozenset[str] = frozenset()
    """Reasons of which only EVENTS_MAX Events were read."""


def check_ebpf_host_routing(
    monitor: RuleMonitor, nodes: Sequence[PlacedNode], nmi: Sequence[Settings]
) -> Iterator[Finding]:
    """Report the nodes with the label, and each with unexpected or refused rules. *nmi*: the settings of each NMI whose
    flags can be read.
    """
    labelled = {each.metadata.name for each in nodes if each.has_ebpf_host_routing}
    if labelled:
        yield from _redirects(labelled, nmi)
    for value in (monitor.with_rules, monitor.events):
        if isinstance(value, ReadFailure) and labelled:
            right = "list on ciliumnodes.cilium.io, and on events in namespace default"
            yield make_finding(CHECK, Level.UNKNOWN, value.why, value.next_action(right))
    if not isinstance(monitor.with_rules, ReadFailure):
        yield from _rules(monitor.with_rules, labelled)
    if not isinstance(monitor.events, ReadFailure):
        there = {each.metadata.name for each in nodes}
        for reason in REASONS:
            if names := monitor.events.get(reason, frozenset()) & there:
                says = f"Events {reason} of AKS exist about {counted(len(names), 'node')}: {listed(sorted(names))}"
                yield make_finding(CHECK, Level.WARNING, says, f"{_ACTIONS[reason]}, see {PAGE}")
    for reason in sorted(monitor.with_more_events):
        says = f"only the first {EVENTS_MAX} Events {reason} were read, of which any may be forged"
        then = f"read the others: kubectl get events -n default --field-selector reason={reason}"
        yield make_finding(CHECK, Level.UNKNOWN, says, then)


def _redirects(labelled: set[str], nmi: Sequence[Settings]) -> Iterator[Finding]:
    with_rules = {each.node_name for each in nmi if each.redirect.changes_rules}
    ruled = labelled & with_rules
    unread = labelled - {each.node_name for each in nmi}
    says = f"{counted(len(labelled), 'node has', 'nodes have')} the label {LABEL}=true"
    if ruled:
        then = (
            f"set nmi.redirect.backend to cilium, or disable eBPF host routing in AKS (acceleration mode None), see "
            f"{PAGE}"
        )
        problem = f"{says}, where NMI writes no rule, so that pods reach IMDS directly: {listed(sorted(ruled))}"
        yield make_finding(CHECK, Level.PROBLEM, problem, then)
    if unread:
        unknown = f"{says}; on {counted(len(unread), 'node')} NMI's flags are not known: {listed(sorted(unread))}"
        yield make_finding(CHECK, Level.UNKNOWN, unknown, "see the findings of NMI and of its flags")
    if not ruled and not unread:
        yield make_finding(CHECK, Level.OK, f"{says}, and no NMI there has a redirect by rules")


def _rules(names: frozenset[str], labelled: set[str]) -> Iterator[Finding]:
    if harmed := names & labelled:
        says = (
            f"{counted(len(harmed), 'CiliumNode has', 'CiliumNodes have')} the label {RULES_LABEL}=true: rules of "
            f"iptables keep Cilium's agent from starting on {listed(sorted(harmed))}"
        )
        yield make_finding(CHECK, Level.PROBLEM, says, f"{_REMOVE}, see {PAGE}")
    if others := names - labelled:
        says = (
            f"{counted(len(others), 'CiliumNode has', 'CiliumNodes have')} the label {RULES_LABEL}=true, so AKS "
            f"refuses to enable eBPF host routing: {listed(sorted(others))}"
        )
        yield make_finding(CHECK, Level.OK, says)
