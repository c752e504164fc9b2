"""Permissions that NMI and MIC need. Pure.

A test compares the list with the chart's roles, and all tests compare the roles with the requests of the programs.
"""

from collections.abc import Sequence
from typing import Final

from podidctl.facts.model import Right
from podidentity.resources import GROUP

READ: Final = ("get", "list", "watch")
UPGRADE: Final = "the rewrite of old field names"


def _rights(
    verbs: Sequence[str], group: str, *resources: str, namespace: str = "", name: str = "", purpose: str = ""
) -> tuple[Right, ...]:
    return tuple(Right(verb, group, resource, namespace, name, purpose) for resource in resources for verb in verbs)


def nmi_rights(*, managed: bool) -> tuple[Right, ...]:
    """Return NMI's permissions. Another check covers Secrets, which depend on the identities."""
    ours = ("azureidentitybindings", "azureidentities") if managed else ("azureassignedidentities",)
    return (
        *_rights(READ, "", "pods"),
        *_rights(("get",), "", "nodes", purpose="the detection of eBPF host routing by the node's label"),
        *_rights(("list", "watch"), GROUP, *ours, "azurepodidentityexceptions"),
        *_rights(("create", "patch"), "", "events", purpose="Events about refused pods"),
    )


def mic_rights(
    *, namespace: str, lease_namespace: str, lease: str, config_map: str, taint: bool = False
) -> tuple[Right, ...]:
    """Return the permissions of a MIC in *namespace* with Lease *lease_namespace*/*lease*, which records in
    *config_map* that old field names are rewritten; *taint*: it removes a start-up taint from nodes.
    """
    leading, lock = "coordination.k8s.io", {"namespace": lease_namespace, "name": lease}
    return (
        *_rights(("list", "watch"), "", "pods", "nodes"),
        *_rights(("list", "watch"), GROUP, "azureidentities", "azureidentitybindings"),
        *_rights(("list", "watch", "create", "patch", "delete"), GROUP, "azureassignedidentities"),
        *(_rights(("patch",), "", "nodes") if taint else ()),
        # RBAC cannot restrict create to a name.
        *_rights(("create",), leading, "leases", namespace=lease_namespace),
        *_rights(("get", "update"), leading, "leases", **lock),
        # MIC holds this lock too, so that no MIC of the Go implementation leads at the same time.
        *_rights(("get", "update"), "", "endpoints", **lock, purpose="the Go implementation's lock"),
        *_rights(("create", "patch"), "", "events", purpose="Events"),
        *_rights(("list",), GROUP, "azurepodidentityexceptions", purpose=UPGRADE),
        *_rights(("update",), GROUP, "azureassignedidentities", purpose=UPGRADE),
        *_rights(("create",), "", "configmaps", namespace=namespace, purpose=UPGRADE),
        *_rights(("get", "update"), "", "configmaps", namespace=namespace, name=config_map, purpose=UPGRADE),
    )


def upgrade_rights() -> tuple[Right, ...]:
    """Return MIC's permissions on the objects of tenants that it needs until the type upgrade is recorded."""
    plurals = ("azureidentities", "azureidentitybindings", "azurepodidentityexceptions")
    return _rights(("update",), GROUP, *plurals, purpose=UPGRADE)
