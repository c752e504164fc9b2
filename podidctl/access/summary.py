"""Totals of a review of the whole cluster, and the parts that could not be read. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from podidctl.access.cluster_objects import ClusterObjects
from podidctl.access.daemon_rules import DaemonRules, nmi_daemons
from podidctl.access.schema import Explained, Grant, GrantState, Host, PodAccess, SubjectAccess, Summary, Unknown
from podidctl.facts.model import ReadFailure
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
"""By field of ClusterObjects."""
RBAC_PART: Final = "rbac"
NMI_PART: Final = "nmi"
RBAC: Final = "roles, clusterroles, rolebindings and clusterrolebindings of rbac.authorization.k8s.io"


def summarize(
    objects: ClusterObjects,
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
    pods_read = not isinstance(objects.pods, ReadFailure)
    unexplained = {
        (host.id, attached.resource_id)
        for host in hosts
        for attached in host.attached
        if attached.explained is Explained.NOTHING
    }
    grants_known = pods_read and not any(
        isinstance(part, ReadFailure) for part in (objects.identities, objects.bindings, objects.assigned)
    )
    return Summary(
        identities=_count(objects.identities),
        bindings=_count(objects.bindings),
        pods=live_pods if pods_read else None,
        pods_with_identities=len({grant.pod for grant in grants if grant.state in GIVEN}) if grants_known else None,
        host_pods=sum(bool(pod.host_access) for pod in pods) if pods_read else None,
        undecided_pods=sum(bool(pod.undecided_access) and not pod.host_access for pod in pods) if pods_read else None,
        nodes=_count(objects.nodes),
        hosts=None if isinstance(objects.nodes, ReadFailure) else len(hosts),
        unexplained=len(unexplained) if azure_complete else None,
        subjects=None if subjects is None else sum(not subject.built_in for subject in subjects),
    )


def _count(several: Sequence[object] | ReadFailure) -> int | None:
    return None if isinstance(several, ReadFailure) else len(several)


def unknown_parts(objects: ClusterObjects, rules: DaemonRules, hosts: Sequence[Host]) -> Iterator[Unknown]:
    """Yield the parts, each with the missing permission. Azure is one of them only if it was asked."""
    for field, resource in RESOURCES.items():
        value = getattr(objects, field)
        if isinstance(value, ReadFailure):
            yield _unknown(resource, value.why, f"list on {resource}")
    if isinstance(objects.rbac, ReadFailure):
        yield _unknown(RBAC_PART, objects.rbac.why, f"list on {RBAC}")
    unread = [each for each in nmi_daemons(objects) if each.spec.node_name and each.spec.node_name not in rules.by_node]
    if unread:
        why = f"the flags of {listed(each.name for each in unread)} cannot be read, so other rules were used there"
        yield _unknown(NMI_PART, why, "none: podidctl doctor shows the wrong flag")
    for plural, count in sorted(objects.skipped.items()):
        part = next((each for each in RESOURCES.values() if each.partition(".")[0] == plural), RBAC_PART)
        yield _unknown(part, f"{count} {plural} cannot be read; NMI and MIC ignore them too", "none: correct them")
    for plural, doubt in sorted(objects.doubtful.items()):
        why = (
            f"{counted(len(doubt.names), 'object has', 'objects have')} fields in spellings from before v1.6.0, and it "
            f"is not known whether MIC counts them ({doubt.why}): {listed(doubt.names)}"
        )
        yield _unknown(f"{plural}.{GROUP}", why, UPGRADE_RECORD_RIGHT)
    failed = [each for each in hosts if each.problem]
    if failed:
        why = f"{len(failed)} of {len(hosts)} hosts: {listed({each.problem for each in failed})}"
        yield _unknown("azure", why, "the role Reader on the VMs and scale sets of the nodes")


def _unknown(part: str, why: str, right: str) -> Unknown:
    return Unknown(part=part, why=plain(why), right=right)
