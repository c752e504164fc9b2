"""All checks of `podidctl doctor` and `podidctl explain`, in the order of their reports. Pure."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from podidctl.checks import (
    assignments,
    bindings,
    cluster,
    credentials,
    daemons,
    federated,
    hosts,
    machine,
    permissions,
    pod,
    roles,
)
from podidctl.evaluation.cluster import ClusterCase, UnreadError
from podidctl.evaluation.daemons import unsupported_node
from podidctl.evaluation.pod import PodCase
from podidctl.facts.model import Facts, NodeState, ReadFailure
from podidctl.report.documents import Report, check_result
from podidctl.report.finding import Finding, by_cause, unknown

C = TypeVar("C")
# The order matters: of findings that explain each other, the first one is reported as the cause.
CHECKS: Final[tuple[Callable[[ClusterCase], Iterable[Finding]], ...]] = (
    *cluster.CHECKS,
    *daemons.CHECKS,
    *permissions.CHECKS,
    *credentials.CHECKS,
    *federated.CHECKS,
    *bindings.CHECKS,
    *assignments.CHECKS,
    *hosts.CHECKS,
    *pod.CHECKS,
)
POD_CHECKS: Final[tuple[Callable[[PodCase], Iterable[Finding]], ...]] = (
    *pod.POD_CHECKS,
    *bindings.POD_CHECKS,
    *credentials.POD_CHECKS,
    *federated.POD_CHECKS,
    *hosts.POD_CHECKS,
)
"""The checks of the identities of a pod that NMI does not leave to IMDS."""


def pod_findings(case: PodCase) -> Iterator[Finding]:
    """Yield the findings about one pod. Each depends on the ones before it."""
    yield pod.pod_state(case)
    if case.pod.finished or not case.pod.spec.node_name:
        return
    if unsupported_node(case) is not None:
        yield from daemons.nmi_links(case)  # the other links are NMI's, and change nothing
        return
    yield pod.pod_address(case)
    if case.pod.mirror:
        yield pod.mirror_pod(case)
        yield from daemons.nmi_links(case)
        return
    yield pod.pod_exception(case)
    for check in () if case.exempt else POD_CHECKS:
        yield from check(case)
    yield from daemons.nmi_links(case)
    yield from credentials.token_links(case)
    yield from roles.role_links(case)


def report(state: Facts, node: NodeState | None = None) -> Report:
    """Return the findings about the cluster, and about this machine if its state was read."""
    findings = list(findings_of(CHECKS, ClusterCase(state)))
    if node is not None:
        findings += [finding for check in machine.CHECKS for finding in check(node)]
    return Report(findings=[check_result(finding) for finding in by_cause(findings)])


def findings_of(checks: Iterable[Callable[[C], Iterable[Finding]]], case: C) -> Iterator[Finding]:
    """Yield the findings of *checks*. A part that could not be read is reported once, in place of its checks."""
    unread: set[tuple[str, ReadFailure]] = set()
    for check in checks:
        try:
            yield from check(case)
        except UnreadError as error:
            if (key := (error.check, error.failure)) not in unread:
                unread.add(key)
                reason = error.failure.reason
                action = error.failure.next_action("the one that this finding names")
                yield unknown(error.check, reason, action, cause=reason)
