"""Checks of the mechanisms that block pods of this machine from the real IMDS while NMI is not running: the reject rule
of `--fail-closed`, the boot guard, and AKS's IMDS restriction. Pure.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nmi.node.rule_text import normalized, rules_of, words
from nmi.node.rules import RedirectSpec
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.schema import Finding, Level, make_finding

RESTRICTED_TABLES: Final = ("filter", "mangle")
"""Tables in which AKS inserts its rule, depending on a setting of the node pool."""
_SOURCE: Final = re.compile(r"! -s \d{1,3}(\.\d{1,3}){3}/32 ")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailClosedState:
    """State of this machine."""

    wanted: bool
    """Whether this node's NMI has --fail-closed."""
    fault: str | ReadFailure | None
    """Fault of the reject rule; None if it is in force."""
    restricted: tuple[str, ...] | ReadFailure
    """Tables that contain AKS's rule."""
    guard: bool | ReadFailure
    """Whether the boot guard is enabled."""
    localnet: str | None
    """Why the kernel drops packets redirected to 127.0.0.1; None if it does not or nothing is redirected there."""


def is_restriction(rule: str, to: RedirectSpec) -> bool:
    """Return whether *rule* of FORWARD is AKS's IMDS restriction.

    Source: Azure/AgentBaker, parts/linux/cloud-init/artifacts/ensure_imds_restriction.sh: every source but the node's
    own address, IMDS's address and port, DROP. AKS's comment is not compared, because its text may change.
    """
    wanted = f"-d {to.metadata_ip}/32 -p tcp -m tcp --dport {to.metadata_port} -j DROP"
    return _SOURCE.sub("", normalized(rule)) == wanted


def has_restriction(saved: str, to: RedirectSpec) -> bool:
    """Return whether *saved*, a table in iptables-save's format, has AKS's rule before a rule that accepts
    everything.
    """
    before = itertools.takewhile(lambda rule: words(rule) != ["-j", "ACCEPT"], rules_of(saved, "FORWARD"))
    return any(is_restriction(rule, to) for rule in before)


def check_fail_closed(name: str, state: FailClosedState) -> Iterator[Finding]:
    """Yield one finding for each mechanism on the node *name*."""
    about = f"node {name}"
    restricted = state.restricted if not isinstance(state.restricted, ReadFailure) else ()
    if isinstance(state.fault, ReadFailure):
        yield make_finding(
            "fail closed", Level.UNKNOWN, f"{about}: {state.fault.why}", "run it as root, in the host's network"
        )
    elif state.fault is None:
        yield make_finding("fail closed", Level.OK, f"{about}: the reject rule is in force")
    elif state.wanted:
        says = f"{about}: the reject rule of --fail-closed is not in force ({state.fault})"
        yield make_finding(
            "fail closed", Level.PROBLEM, says, "see NMI's log on this node: NMI restores the rule if it can"
        )
    elif restricted:
        yield make_finding(
            "fail closed", Level.OK, f"{about}: no reject rule, but AKS's IMDS restriction has the same effect"
        )
    else:
        says = f"{about}: pods reach the real IMDS and the node's own identities while NMI is not running"
        then = "set nmi.failClosed (NMI's --fail-closed), or enable the IMDS restriction of AKS"
        yield make_finding("fail closed", Level.WARNING, says, then)
    if isinstance(state.restricted, ReadFailure):
        yield make_finding("AKS IMDS restriction", Level.UNKNOWN, f"{about}: {state.restricted.why}", "run it as root")
    else:
        says = f"present in {' and '.join(restricted)}/FORWARD" if restricted else "not present"
        yield make_finding("AKS IMDS restriction", Level.OK, f"{about}: {says}")
    if isinstance(state.guard, ReadFailure):
        yield make_finding("boot guard", Level.UNKNOWN, f"{about}: {state.guard.why}", "run it as root")
    else:
        says = "enabled for the next boot" if state.guard else "not installed"
        yield make_finding("boot guard", Level.OK, f"{about}: {says}")
    if state.localnet is not None:
        yield make_finding(
            "route_localnet", Level.PROBLEM, f"{about}: {state.localnet}", "follow this instruction on the node"
        )
    else:
        yield make_finding("route_localnet", Level.OK, f"{about}: requests of pods can be redirected to NMI")
