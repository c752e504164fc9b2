"""Permissions that NMI and MIC need. Pure.

A test compares the list with the chart's roles, and all tests compare the roles with the requests of the programs.
"""

from collections.abc import Sequence
from typing import Final

from podidctl.facts.model import Right
from podidentity.resources import GROUP

READ: Final = ("get", "list", "watch")
UPGRADE: Final = "the rewrite of old field names"


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
        Right("update", GROUP, plural, needed=False, purpose=UPGRADE)
        for plural in ("azureidentities", "azureidentitybindings", "azurepodidentityexceptions")
    )
