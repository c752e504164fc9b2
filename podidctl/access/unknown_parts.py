"""Parts of the review that could not be read, each with the missing permission. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from podidctl.access.cluster_objects import ClusterObjects
from podidctl.access.daemon_rules import DaemonRules, nmi_daemons
from podidctl.access.schema import Host, Unknown
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
"""By field of ClusterObjects."""
RBAC_PART: Final = "rbac"
NMI_PART: Final = "nmi"
RBAC: Final = "roles, clusterroles, rolebindings and clusterrolebindings of rbac.authorization.k8s.io"


def unknown_parts(objects: ClusterObjects, rules: DaemonRules, hosts: Sequence[Host]) -> list[Unknown]:
    """Return the parts. Azure is one of them only if it was asked."""
    return list(_parts(objects, rules, hosts))


def _parts(objects: ClusterObjects, rules: DaemonRules, hosts: Sequence[Host]) -> Iterator[Unknown]:
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
