"""Checks of this machine as a node: the nat rule, whether connections match it, kubenet, and IMDS. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from nmi.node.host_routing import ADVICE, LABEL
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.fail_closed import FailClosedState
from podidctl.doctor.schema import Finding, Level, make_finding
from podidentity.report import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """State of this machine."""

    name: str
    fault: str | ReadFailure | None
    """Fault of the redirect; None if it is correct."""
    wanted: bool = True
    """Whether this node's NMI installs a redirect."""
    choice: str = ""
    """Backend and target of the redirect, and the reason; "" if nothing is redirected by a rule."""
    bypass: str | None = None
    """Why the rule is not effective on this node; None if nothing shows that."""
    ebpf: bool = False
    """Whether the kubelet's flags have the label of eBPF host routing, so that NMI writes no rule."""
    packets: int | None = None
    """First packets of connections that have matched the rule since it was written; None if not counted."""
    pods: int | None = 0
    """Labelled pods on this node that are not on the host's network; None if they could not be read."""
    kubenet: bool = False
    """Whether the kubelet's flags name kubenet."""
    imds: str | ReadFailure | None = None
    """IMDS's response; None if no request was sent."""
    closing: FailClosedState | None = None
    """State of the mechanisms for the time without NMI; None if nothing is redirected."""


def check_redirect(state: NodeState) -> Iterator[Finding]:
    """Check that the rule is in force and that pods' requests match it."""
    about = f"node {state.name}"
    if not state.wanted:
        yield make_finding("nat rule", Level.OK, f"{about}: none is required because of --redirect")
        return
    if state.choice:
        yield make_finding("backend", Level.OK, f"{about}: {state.choice}")
    if state.ebpf:
        yield _no_rule(about, state.fault)
        return
    if isinstance(state.fault, ReadFailure):
        yield make_finding(
            "nat rule", Level.UNKNOWN, f"{about}: {state.fault.why}", "run it as root, in the host's network"
        )
        return
    if state.fault is not None:
        then = "see NMI's log on this node: NMI restores the rule immediately if it can"
        yield make_finding("nat rule", Level.PROBLEM, f"{about}: {state.fault}: pods reach IMDS directly", then)
        return
    yield make_finding("nat rule", Level.OK, f"{about}: in force, before all other rules")
    if state.bypass is not None:
        says, _, then = state.bypass.partition("; ")
        yield make_finding("redirects", Level.PROBLEM, f"{about}: {says}", then)
    elif state.packets is None:
        yield make_finding("redirects", Level.UNKNOWN, f"{about}: the rule has no counter")
    elif state.packets == 0 and state.pods is None:
        says = f"{about}: no connection has matched the rule, and the labelled pods on this node could not be read"
        yield make_finding(
            "redirects", Level.UNKNOWN, says, ("run this command with more permissions: list on pods and nodes")
        )
    elif state.packets == 0 and state.pods:
        says = (
            f"{about}: no connection has matched the rule since it was written; labelled pods on this node: "
            f"{state.pods}"
        )
        then = (
            "request a token from a pod on this node and run this command again; if the count stays 0, pods' traffic "
            "bypasses netfilter: set bpf.hostLegacyRouting=true in Cilium (eBPF host routing bypasses the nat table), "
            "or use --redirect=cilium (docs/data-planes.md)"
        )
        yield make_finding("redirects", Level.WARNING, says, then)
    else:
        yield make_finding("redirects", Level.OK, f"{about}: {counted(state.packets, 'connection')} redirected to NMI")


def _no_rule(about: str, fault: str | ReadFailure | None) -> Finding:
    label = f"{about}: the kubelet's flags have the label {LABEL}=true"
    if fault is None:
        then = "see NMI's log on this node, and run `nmi --cleanup` there: Cilium's agent may not start with the rule"
        return make_finding("nat rule", Level.PROBLEM, f"{label}, and the rule is there", then)
    return make_finding("nat rule", Level.PROBLEM, f"{label}, so NMI writes no rule", ADVICE)


def check_kubenet(state: NodeState) -> Iterator[Finding]:
    """Check that pods on this node cannot use each other's address."""
    if state.kubenet:
        then = "use another network plugin; otherwise deny NET_RAW to pods by policy and set NMI's flag for kubenet"
        says = (
            f"node {state.name}: the kubelet runs with kubenet, where a pod can use another pod's address and get its "
            "tokens"
        )
        yield make_finding("kubenet", Level.WARNING, says, then)
    else:
        yield make_finding("kubenet", Level.OK, f"node {state.name}: the kubelet's flags do not name kubenet")


def check_imds(state: NodeState) -> Iterator[Finding]:
    """Check that IMDS responds to this machine."""
    if isinstance(state.imds, ReadFailure):
        then = "NMI gets no tokens either: check the node's routes and firewall, and that it is a VM of Azure"
        yield make_finding("IMDS", Level.PROBLEM, f"node {state.name}: {state.imds.why}", then)
    elif state.imds is not None:
        yield make_finding("IMDS", Level.OK, f"node {state.name}: {state.imds}")
