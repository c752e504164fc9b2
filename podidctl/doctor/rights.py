"""Permissions that NMI and MIC need, and the check of them. Pure.

A test compares the list with the chart's roles, and all tests compare the roles with the requests of the programs.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import Right, Rights
from podidctl.printing import listed
from podidentity.resources import GROUP

READ: Final = ("get", "list", "watch")
UPGRADE: Final = "the rewrite of old field names"
REMOVE: Final = (
    "helm upgrade removes it; with helm template (as in Argo CD) set mic.extraArgs=[--enable-type-upgrade=false], with "
    "manifests run kubectl delete -f deploy/manifests/type-upgrade.yaml"
)


def _rights(verbs: Sequence[str], group: str, *resources: str) -> tuple[Right, ...]:
    return tuple(Right(verb, group, resource) for resource in resources for verb in verbs)


def nmi_rights(*, managed: bool) -> tuple[Right, ...]:
    """Return NMI's permissions. Another check covers Secrets, which depend on the identities."""
    ours = ("azureidentitybindings", "azureidentities") if managed else ("azureassignedidentities",)
    event_rights = (
        Right("create", "", "events", needed=False, purpose="Events about refused pods"),
        Right("patch", "", "events", needed=False, purpose="Events about refused pods"),
    )
    return (
        *_rights(READ, "", "pods"),
        Right("get", "", "nodes", needed=False, purpose="the detection of eBPF host routing by the node's label"),
        *_rights(("list", "watch"), GROUP, *ours, "azurepodidentityexceptions"),
        *event_rights,
    )


def mic_rights(
    *, namespace: str, lease_namespace: str, lease: str, config_map: str, taint: bool = False
) -> tuple[Right, ...]:
    """Return the permissions of a MIC in *namespace* with Lease *lease_namespace*/*lease*, which records in
    *config_map* that old field names are rewritten; *taint*: it removes a start-up taint from nodes.
    """
    leading = "coordination.k8s.io"
    return (
        *_rights(("list", "watch"), "", "pods", "nodes"),
        *_rights(("list", "watch"), GROUP, "azureidentities", "azureidentitybindings"),
        *_rights(("list", "watch", "create", "patch", "delete"), GROUP, "azureassignedidentities"),
        *((Right("patch", "", "nodes"),) if taint else ()),
        Right("create", leading, "leases", lease_namespace),
        Right("get", leading, "leases", lease_namespace, lease),
        Right("update", leading, "leases", lease_namespace, lease),
        Right("get", "", "endpoints", lease_namespace, lease, needed=False, purpose="the Go implementation's lock"),
        Right("update", "", "endpoints", lease_namespace, lease, needed=False, purpose="the Go implementation's lock"),
        Right("create", "", "events", needed=False, purpose="Events"),
        Right("patch", "", "events", needed=False, purpose="Events"),
        Right("list", GROUP, "azurepodidentityexceptions", needed=False, purpose=UPGRADE),
        Right("update", GROUP, "azureassignedidentities", needed=False, purpose=UPGRADE),
        Right("create", "", "configmaps", namespace, needed=False, purpose=UPGRADE),
        Right("get", "", "configmaps", namespace, config_map, needed=False, purpose=UPGRADE),
        Right("update", "", "configmaps", namespace, config_map, needed=False, purpose=UPGRADE),
    )


def upgrade_rights() -> tuple[Right, ...]:
    """Return MIC's permissions on the objects of tenants that it needs until the type upgrade is recorded."""
    return tuple(
        Right("update", GROUP, each, needed=False, purpose=UPGRADE)
        for each in ("azureidentities", "azureidentitybindings", "azurepodidentityexceptions")
    )


def check_rights(checked: Sequence[Rights]) -> Iterator[Finding]:
    """Check that each service account has the permissions that its program needs, and that MIC has no others on the
    objects of tenants.
    """
    for each in checked:
        needed = [right for right in each.lacking if right.needed]
        others = [right for right in each.lacking if not right.needed]
        who = f"{each.program}'s service account {each.account}"
        if needed:
            says = f"{who} may not: {listed(right.description for right in needed)}"
            yield make_finding(
                "rights", Level.PROBLEM, says, "grant it by the ClusterRole of the chart or the manifests"
            )
        if others:
            what = ", ".join(dict.fromkeys(right.purpose for right in others))
            says = f"{who} may not: {listed(right.description for right in others)}; without: {what}"
            yield make_finding("rights", Level.WARNING, says, "grant it, or accept the limitation")
        if each.spare:
            rights = listed(right.description for right in each.spare)
            says = f"{who} may still: {rights}, although the type upgrade is done or off; {REMOVE}"
            yield make_finding("rights", Level.OK, says)
        if each.unread_record:
            says = f"{who}: whether it still needs permission for {UPGRADE} is unknown: {each.unread_record.why}"
            then = each.unread_record.next_action("get on the ConfigMap with the record of the type upgrade")
            yield make_finding("rights", Level.UNKNOWN, says, then)
        elif not each.lacking and not each.spare:
            yield make_finding("rights", Level.OK, f"{who} has all permissions that it needs")
