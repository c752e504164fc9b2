"""Totals of a review of the whole cluster, and the parts that could not be read. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from podidctl.access.schema import Explained, Grant, GrantState, Host, PodAccess, SubjectAccess, Summary, Unknown
from podidctl.evaluation.cluster import ClusterCase
from podidctl.facts.model import Facts, ReadFailure
from podidctl.reading.daemons import UPGRADE_RECORD_RIGHT
from podidctl.report.text import listed
from podidentity.report import counted, plain
from podidentity.resources import GROUP

GIVEN: Final = frozenset({GrantState.USABLE, GrantState.PENDING})
RESOURCES: Final = {
    "identities": f"azureidentities.{GROUP}",
    "bindings": f"azureidentitybindings.{GROUP}",
    "exceptions": f"azurepodidentityexceptions.{GROUP}",
    "assigned": f"azureassignedidentities.{GROUP}",
    "pods": "pods",
    "nodes": "nodes",
}
"""By field of the facts."""
RBAC_PART: Final = "rbac"
NMI_PART: Final = "nmi"
RBAC: Final = "roles, clusterroles, rolebindings and clusterrolebindings of rbac.authorization.k8s.io"


def summarize(
    facts: Facts,
    *,
    live_pods: int,
    pods: Iterable[PodAccess],
    grants: Iterable[Grant],
    hosts: Sequence[Host],
    subjects: Iterable[SubjectAccess] | None,
    azure_complete: bool,
) -> Summary:
    """Return the totals. *live_pods*: the number of pods that have not ended; *subjects*: None if RBAC could not be
    read; *azure_complete*: whether Azure returned every host.
    """
    pods = list(pods)
    unread = facts.unread.keys()
    pods_read = "pods" not in unread
    unexplained = {
        (host.id, attached.resource_id)
        for host in hosts
        for attached in host.attached
        if attached.explained is Explained.NOTHING
    }
    grants_known = unread.isdisjoint({"pods", "identities", "bindings", "assigned"})
    return Summary(
        identities=None if "identities" in unread else len(facts.identities),
        bindings=None if "bindings" in unread else len(facts.bindings),
        pods=live_pods if pods_read else None,
        pods_with_identities=len({grant.pod for grant in grants if grant.state in GIVEN}) if grants_known else None,
        host_pods=sum(bool(pod.host_access) for pod in pods) if pods_read else None,
        undecided_pods=sum(bool(pod.undecided_access) and not pod.host_access for pod in pods) if pods_read else None,
        nodes=None if "nodes" in unread else len(facts.nodes),
        hosts=None if "nodes" in unread else len(hosts),
        unexplained=len(unexplained) if azure_complete else None,
        subjects=None if subjects is None else sum(not subject.built_in for subject in subjects),
    )


def unknown_parts(case: ClusterCase, hosts: Sequence[Host]) -> Iterator[Unknown]:
    """Yield the parts, each with the missing permission. Azure is one of them only if the command reads it."""
    facts = case.facts
    for field, resource in RESOURCES.items():
        if (failure := facts.unread.get(field)) is not None:
            yield _unknown(resource, failure.reason, f"list on {resource}")
    if isinstance(facts.rbac, ReadFailure):
        yield _unknown(RBAC_PART, facts.rbac.reason, f"list on {RBAC}")
    unread = [nmi for nmi in case.nmi if nmi.spec.node_name and nmi.spec.node_name not in case.by_node]
    if unread:
        reason = f"the flags of {listed(nmi.name for nmi in unread)} cannot be read, so other rules were used there"
        yield _unknown(NMI_PART, reason, "none: podidctl doctor shows the wrong flag")
    for plural, count in sorted(facts.skipped.items()):
        part = next((resource for resource in RESOURCES.values() if resource.partition(".")[0] == plural), RBAC_PART)
        yield _unknown(part, f"{count} {plural} cannot be read; NMI and MIC ignore them too", "none: correct them")
    for plural, fields in sorted(facts.uncertain.items()):
        reason = (
            f"{counted(len(fields.names), 'object has', 'objects have')} fields in spellings from before v1.6.0, and "
            f"it is not known whether MIC counts them ({fields.reason}): {listed(fields.names)}"
        )
        yield _unknown(f"{plural}.{GROUP}", reason, UPGRADE_RECORD_RIGHT)
    failed = [host for host in hosts if host.problem]
    if failed:
        reason = f"{len(failed)} of {len(hosts)} hosts: {listed({host.problem for host in failed})}"
        yield _unknown("azure", reason, "the role Reader on the VMs and scale sets of the nodes")


def _unknown(part: str, reason: str, right: str) -> Unknown:
    return Unknown(part=part, why=plain(reason), right=right)
