"""Check of the Azure RBAC roles of MIC's principal, which the operator's own sign-in reads."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from shlex import quote as shell_quote
from typing import Final
from urllib.parse import quote

from mic.azure.host_client import ResourceReader
from mic.azure.identities import role_command
from podidctl.facts.model import ReadFailure
from podidctl.preflight.state import ClusterState
from podidctl.reading.requests import in_batches, or_failure, or_none
from podidctl.reading.roles import ROLES_MAX, ArmResource, Permission, fault_of, get, read_assignments, read_definition
from podidctl.report.finding import Finding, Level, ok, unknown
from podidctl.report.text import grouped, listed
from podidentity.azure.errors import AzureError
from podidentity.azure.identity_permissions import is_grantable
from podidentity.azure.resource_ids import ResourceId, ScaleSet, UserAssignedIdentity, id_key, parse_user_assigned
from podidentity.kube.client import Client
from podidentity.resources import IDENTITIES, IdentityType

CHECK: Final = "roles"
OPERATIONS: Final = "Microsoft.Compute/locations/operations/read"
"""Action of a read of the state of a PATCH."""
ASSIGN: Final = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"
GROUPS_MAX: Final = 50
"""Resource groups that are read, those of nodes first. Authors of AzureIdentities choose the others."""
GROUP_VERSION: Final = {"api-version": "2021-04-01"}
CLUSTER_VERSION: Final = {"api-version": "2024-09-01"}
PRINCIPAL: Final = (
    "pass --principal OBJECT-ID, on AKS the output of: az aks show --resource-group GROUP --name CLUSTER "
    "--query identityProfile.kubeletidentity.objectId -o tsv (docs/install-on-aks.md#principal-of-mic)"
)
_CLUSTER: Final = re.compile(
    r"/subscriptions/[\w-]+/resourcegroups/[\w().-]*[\w()-]/providers/microsoft\.containerservice/managedclusters/[\w-]+",
    re.IGNORECASE,
)
Need = tuple[str, ResourceId]
"""An action, and the VM, scale set or identity on which MIC needs it."""


async def check_mic_roles(
    client: Client, azure: ResourceReader, state: ClusterState, principal: str
) -> Sequence[Finding]:
    """Return the findings about *principal*; empty for the kubelet identity of the AKS cluster. Raises ApiError if the
    API server does not respond.
    """
    if not state.hosts:
        return ()
    try:
        # The VMs of an AKS cluster's nodes are all in its node resource group, so any of them leads to it.
        principal = principal or await _kubelet_identity(azure, group_of(state.hosts[0]))
    except AzureError as error:
        return [unknown(CHECK, f"MIC's principal is not known: {fault_of(error)}", PRINCIPAL)]
    needs: list[Need] = [(action, host) for host in state.hosts for action in (*_host_actions(host), OPERATIONS)]
    identities, findings = await or_failure(_identities(client)), list[Finding]()
    if isinstance(identities, ReadFailure):
        findings.append(unknown(CHECK, identities.reason, identities.next_action("list AzureIdentities")))
    elif identities:
        needs += ((ASSIGN, identity) for identity in identities)
    else:
        message = "no AzureIdentity of type 0 exists; MIC needs the role Managed Identity Operator on each later one"
        findings.append(ok(CHECK, message))
    groups = list(grouped((id_key(group_of(need[1])), need) for need in needs).values())
    if len(groups) > GROUPS_MAX:
        message = f"one run reads {GROUPS_MAX} of the {len(groups)} resource groups of nodes and identities"
        findings.append(unknown(CHECK, message, listing(principal, "GROUP-ID")))
    checked = await in_batches(partial(_check_group, azure, principal, group) for group in groups[:GROUPS_MAX])
    return [*(finding for several in checked for finding in several), *findings]


async def _identities(client: Client) -> Sequence[UserAssignedIdentity]:
    specs = [identity.spec for identity in await or_none(client.list(IDENTITIES)) or ()]
    parsed = (parse_user_assigned(spec.resource_id) for spec in specs if spec.type == IdentityType.USER_ASSIGNED)
    return list({identity.key: identity for identity in parsed if identity is not None}.values())


async def _kubelet_identity(azure: ResourceReader, group: str) -> str:
    """Return the object id for the AKS cluster whose node resource group is *group*. Raises AzureError."""
    cluster = (await get(azure, ArmResource, quote(group), GROUP_VERSION)).managed_by or ""
    # The field is from a response and becomes the path of a request, so it must be that of a cluster.
    if not _CLUSTER.fullmatch(cluster):
        raise AzureError(f"{group} is not the node resource group of an AKS cluster")
    profile = (await get(azure, ArmResource, quote(cluster), CLUSTER_VERSION)).properties.identity_profile or {}
    principal = str(profile.get("kubeletidentity", {}).get("objectId"))
    # The id gets into a filter of Azure and into commands for a shell.
    if not is_grantable(principal):
        raise AzureError(f"the AKS cluster {cluster} has no kubelet identity")
    return principal.strip()


async def _check_group(azure: ResourceReader, principal: str, needs: Sequence[Need]) -> list[Finding]:
    """Check *needs*, whose resources are of one group."""
    where, who = group_of(needs[0][1]), f"MIC's principal {principal}"
    try:
        grants = await _grants(azure, quote(where), principal)
    except AzureError as error:
        then = f"let a person with permission to read role assignments there run: {listing(principal, where)}"
        return [unknown(CHECK, f"the roles of {who} in {where} could not be read: {fault_of(error)}", then)]
    lacking = [
        (action, resource)
        for action, resource in needs
        if not any(covers(scope, resource) and allows(permission, action) for scope, permission in grants)
    ]
    if not lacking:
        return [ok(CHECK, f"{who} has {listed(sorted({action for action, _ in needs}))} in {where}")]
    return list(_missing(principal, where, lacking))


async def _grants(azure: ResourceReader, group: str, principal: str) -> list[tuple[str, Permission]]:
    """Return the permissions of *principal* around the resource group, whose id is quoted, each with its scope. Raises
    AzureError.
    """
    assignments, is_complete = await read_assignments(azure, group, principal)
    roles = list({assignment.role_definition_id for assignment in assignments})
    # A role that was not read could have the action, so none would be certainly missing.
    if not is_complete or len(roles) > ROLES_MAX:
        raise AzureError("Azure has more role assignments than one run reads")
    read = await in_batches(partial(read_definition, azure, group, role) for role in roles)
    allowed = {role: its.permissions for role, its in zip(roles, read, strict=True)}
    return [(its.scope, permission) for its in assignments for permission in allowed[its.role_definition_id]]


def _missing(principal: str, where: str, lacking: Sequence[Need]) -> Iterator[Finding]:
    by_scope = grouped(((action, its.text if action == ASSIGN else where), its.name) for action, its in lacking)
    for (action, scope), names in by_scope.items():
        role = "Managed Identity Operator" if action == ASSIGN else "Virtual Machine Contributor"
        # Operations belong to a location, which no assignment on the group covers: Azure may not require the action.
        level = Level.WARNING if action == OPERATIONS else Level.PROBLEM
        message = f"MIC's principal {principal} lacks {action} on {listed(names)} in {where}"
        yield Finding(CHECK, level, message, role_command(principal, role, scope))


def _host_actions(host: ResourceId) -> tuple[str, str]:
    """Return the actions of MIC's GET and PATCH. MIC changes no instance of a uniform scale set."""
    kind = f"Microsoft.Compute/{'virtualMachineScaleSets' if isinstance(host, ScaleSet) else 'virtualMachines'}"
    return f"{kind}/read", f"{kind}/write"


def group_of(resource: ResourceId) -> str:
    """Return the id of the resource's group."""
    return f"/subscriptions/{resource.subscription}/resourceGroups/{resource.resource_group}"


def listing(principal: str, scope: str) -> str:
    """Return the command that lists the assignments at and above *scope*."""
    options = "--include-groups --include-inherited -o table"
    return f"az role assignment list --assignee {principal} --scope {shell_quote(scope)} {options}"


def covers(scope: str, resource: ResourceId) -> bool:
    """Return whether an assignment at *scope* applies to *resource*."""
    # Azure lists no other management groups than those above the resource.
    above = id_key(scope).rstrip("/")
    return f"{resource.key}/".startswith(f"{above}/") or above.startswith("/providers/microsoft.management/")


def allows(permission: Permission, action: str) -> bool:
    """Return whether a permission of a role definition allows *action*."""
    return _matches(permission.actions, action) and not _matches(permission.not_actions, action)


def _matches(patterns: Sequence[str], action: str) -> bool:
    # Managed Identity Operator has userAssignedIdentities/*/assign/action, which Azure accepts for assign/action.
    forms = (form for pattern in map(str.lower, patterns) for form in (pattern, pattern.replace("/*/", "/")))
    return any(fnmatchcase(action.lower(), form) for form in forms)
