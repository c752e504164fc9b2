"""Checks of this machine as a node: the nat rule, whether connections match it, kubenet, IMDS, and what blocks pods
from the real IMDS while NMI is not running. Pure.
"""

from collections.abc import Iterator
from typing import Final

from nmi.node.host_routing import ADVICE, LABEL
from podidctl.facts.model import NodeState, ReadFailure
from podidctl.report.finding import Finding, ok, problem, unknown, warning
from podidentity.report import counted


def check_redirect(state: NodeState) -> Iterator[Finding]:
    """Check that the rule is in force and that pods' requests match it."""
    about = f"node {state.name}"
    if not state.wanted:
        yield ok("nat rule", f"{about}: none is required because of --redirect")
        return
    if state.choice:
        yield ok("backend", f"{about}: {state.choice}")
    # Here the rule harms Cilium if it exists, and has no effect on pods.
    if state.ebpf:
        yield _no_rule(about, state.fault)
        return
    if isinstance(state.fault, ReadFailure):
        yield unknown("nat rule", f"{about}: {state.fault.reason}", "run it as root, in the host's network")
        return
    if state.fault is not None:
        then = "see NMI's log on this node: NMI restores the rule immediately if it can"
        yield problem("nat rule", f"{about}: {state.fault}: pods reach IMDS directly", then)
        return
    yield ok("nat rule", f"{about}: in force, before all other rules")
    if state.bypass is not None:
        message, _, then = state.bypass.partition("; ")
        yield problem("redirects", f"{about}: {message}", then)
    elif state.packets is None:
        yield unknown("redirects", f"{about}: the rule has no counter")
    elif state.packets == 0 and state.pods is None:
        message = f"{about}: no connection has matched the rule, and the labelled pods on this node could not be read"
        yield unknown("redirects", message, "run this command with more permissions: list on pods and nodes")
    elif state.packets == 0 and state.pods:
        message = (
            f"{about}: no connection has matched the rule since it was written; labelled pods on this node: "
            f"{state.pods}"
        )
        then = (
            "request a token from a pod on this node and run this command again; if the count stays 0, pods' traffic "
            "bypasses netfilter: set bpf.hostLegacyRouting=true in Cilium (eBPF host routing bypasses the nat table), "
            "or use --redirect=cilium (docs/data-planes.md)"
        )
        yield warning("redirects", message, then)
    else:
        yield ok("redirects", f"{about}: {counted(state.packets, 'connection')} redirected to NMI")


def _no_rule(about: str, fault: str | ReadFailure | None) -> Finding:
    label = f"{about}: the kubelet's flags have the label {LABEL}=true"
    if fault is None:
        then = "see NMI's log on this node, and run `nmi --cleanup` there: Cilium's agent may not start with the rule"
        return problem("nat rule", f"{label}, and the rule is there", then)
    return problem("nat rule", f"{label}, so NMI writes no rule", ADVICE)


def check_kubenet(state: NodeState) -> Iterator[Finding]:
    """Check that pods on this node cannot use each other's address."""
    if state.kubenet:
        then = "use another network plugin; otherwise deny NET_RAW to pods by policy and set NMI's flag for kubenet"
        message = (
            f"node {state.name}: the kubelet runs with kubenet, where a pod can use another pod's address and get its "
            "tokens"
        )
        yield warning("kubenet", message, then)
    else:
        yield ok("kubenet", f"node {state.name}: the kubelet's flags do not name kubenet")


def check_imds(state: NodeState) -> Iterator[Finding]:
    """Check that IMDS responds to this machine."""
    if isinstance(state.imds, ReadFailure):
        then = "NMI gets no tokens either: check the node's routes and firewall, and that it is a VM of Azure"
        yield problem("IMDS", f"node {state.name}: {state.imds.reason}", then)
    elif state.imds is not None:
        yield ok("IMDS", f"node {state.name}: {state.imds}")


def check_fail_closed(node: NodeState) -> Iterator[Finding]:
    """Yield one finding for each mechanism that blocks pods from the real IMDS; none if nothing is redirected."""
    about, state = f"node {node.name}", node.closing
    if state is None:
        return
    restricted = state.restricted if not isinstance(state.restricted, ReadFailure) else ()
    if isinstance(state.fault, ReadFailure):
        yield unknown("fail closed", f"{about}: {state.fault.reason}", "run it as root, in the host's network")
    elif state.fault is None:
        yield ok("fail closed", f"{about}: the reject rule is in force")
    elif state.wanted:
        message = f"{about}: the reject rule of --fail-closed is not in force ({state.fault})"
        yield problem("fail closed", message, "see NMI's log on this node: NMI restores the rule if it can")
    elif restricted:
        yield ok("fail closed", f"{about}: no reject rule, but AKS's IMDS restriction has the same effect")
    else:
        message = f"{about}: pods reach the real IMDS and the node's own identities while NMI is not running"
        then = "set nmi.failClosed (NMI's --fail-closed), or enable the IMDS restriction of AKS"
        yield warning("fail closed", message, then)
    if isinstance(state.restricted, ReadFailure):
        yield unknown("AKS IMDS restriction", f"{about}: {state.restricted.reason}", "run it as root")
    else:
        message = f"present in {' and '.join(restricted)}/FORWARD" if restricted else "not present"
        yield ok("AKS IMDS restriction", f"{about}: {message}")
    if isinstance(state.guard, ReadFailure):
        yield unknown("boot guard", f"{about}: {state.guard.reason}", "run it as root")
    else:
        message = "enabled for the next boot" if state.guard else "not installed"
        yield ok("boot guard", f"{about}: {message}")
    if state.localnet is not None:
        yield problem("route_localnet", f"{about}: {state.localnet}", "follow this instruction on the node")
    else:
        yield ok("route_localnet", f"{about}: requests of pods can be redirected to NMI")


CHECKS: Final = (check_redirect, check_fail_closed, check_kubenet, check_imds)
