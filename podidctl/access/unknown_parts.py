"""The parts of a review that could not be read, with the permissions that are missing. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from podidctl.access.schema import Host, Unknown
from podidctl.evaluation.cluster import ClusterCase
from podidctl.facts.model import ReadFailure
from podidctl.reading.daemons import UPGRADE_RECORD_RIGHT
from podidctl.report.text import listed
from podidentity.report import counted, plain
from podidentity.resources import GROUP

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
        # Of the lists that a review reads, only those of RBAC are not in RESOURCES.
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
