"""Reader of Azure RBAC role assignments, of the identity whose token a pod gets and for `preflight`.

Azure Resource Manager lists those of a principal and of its groups at, below and above one scope (`assignedTo` in the
documentation of its roleAssignments, API version 2022-04-01).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from mic.azure.host_client import ResourceReader
from mic.azure.identities import Attached
from mic.decisions.client_ids import mismatch
from podidctl.evaluation.pod import PodCase
from podidctl.evaluation.tokens import SERVICE_PRINCIPAL_TYPES
from podidctl.facts.model import Facts, IdentityRoles
from podidctl.reading.requests import in_batches
from podidctl.report.documents import RoleAssignment
from podidentity.azure.errors import AzureError
from podidentity.azure.identity_permissions import is_grantable
from podidentity.azure.resource_ids import parse_user_assigned, resource_path
from podidentity.kube.client import Client
from podidentity.resources import AzureIdentity, Wire

D = TypeVar("D")
ASSIGNMENTS_MAX: Final = 200
"""Role assignments that are reported."""
ROLES_MAX: Final = 50
"""Roles whose names are read, each by one GET."""
PAGES_MAX: Final = 10
IDENTITY: Final = "Microsoft.ManagedIdentity/userAssignedIdentities"
IDENTITY_VERSION: Final = {"api-version": "2023-01-31"}
ROLE_VERSION: Final = {"api-version": "2022-04-01"}
_ROLE_ID: Final = re.compile(r".*/roledefinitions/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE)


class Permission(Wire, frozen=True):
    """Patterns of a role definition."""

    actions: Sequence[str] = ()
    not_actions: Sequence[str] = ()


class Properties(Wire, frozen=True):
    """Those of an identity, a role assignment, a role definition or an AKS cluster."""

    principal_id: str = ""
    client_id: str = ""
    role_definition_id: str = ""
    scope: str = ""
    role_name: str = ""
    permissions: Sequence[Permission] = ()
    identity_profile: Mapping[str, Mapping[str, Any]] | None = None


class ArmResource(Wire, frozen=True):
    properties: Properties
    managed_by: str | None = None


class _Page(Wire, frozen=True):
    value: list[ArmResource]
    next_link: str | None = None


async def read_roles(azure: ResourceReader, _: Client, facts: Facts) -> Facts:
    """Return the facts with the role assignments of the identity that a request without a client id gets."""
    assigned = PodCase(facts, facts.pod).decision.assigned if facts.pod is not None else None
    return facts if assigned is None else replace(facts, roles=await _roles_of(azure, assigned.identity))


async def _roles_of(azure: ResourceReader, identity: AzureIdentity) -> IdentityRoles:
    is_principal = identity.spec.type in SERVICE_PRINCIPAL_TYPES
    resource = None if is_principal else parse_user_assigned(identity.spec.resource_id)
    if resource is None:
        return IdentityRoles()
    roles = IdentityRoles(resource=resource)
    try:
        its = (await get(azure, ArmResource, resource_path(resource, IDENTITY), IDENTITY_VERSION)).properties
        # Roles of another identity than that of the tokens would mislead the operator.
        if reason := mismatch(identity, Attached(resource.text, its.client_id)):
            return replace(roles, fault=reason)
        # The id gets into a filter of Azure and into commands for a shell.
        if not is_grantable(its.principal_id):
            return replace(roles, fault="Azure reports no object id of the identity")
        roles = replace(roles, principal=its.principal_id.strip())
        scope = f"/subscriptions/{resource.subscription}"
        assignments, is_complete = await read_assignments(azure, scope, roles.principal)
    except AzureError as error:
        return replace(roles, fault=fault_of(error))
    ids = list(dict.fromkeys(its.role_definition_id for its in assignments))[:ROLES_MAX]
    names = dict(zip(ids, await in_batches(partial(_role_name, azure, scope, role) for role in ids), strict=True))
    named = [(names.get(its.role_definition_id, its.role_definition_id), its.scope) for its in assignments]
    listed = tuple(RoleAssignment(role=role, scope=scope) for role, scope in sorted(named))
    return replace(roles, assignments=listed, is_complete=is_complete)


def fault_of(error: AzureError) -> str:
    """Return why a read failed."""
    return " ".join(filter(None, (error.status_and_code, error.message)))


async def read_assignments(azure: ResourceReader, scope: str, principal: str) -> tuple[Sequence[Properties], bool]:
    """Return the first assignments at, below and above *scope*, which is quoted, and whether these are all. Raises
    AzureError.
    """
    path = f"{scope}/providers/Microsoft.Authorization/roleAssignments"
    query = first = {**ROLE_VERSION, "$filter": f"assignedTo('{principal}')"}
    assignments: list[Properties] = []
    for _ in range(PAGES_MAX):
        page = await get(azure, _Page, path, query)
        assignments += [assignment.properties for assignment in page.value]
        if len(assignments) > ASSIGNMENTS_MAX:
            break
        if not page.next_link:
            return assignments, True
        # The token goes to this host and path only, and the principal stays, wherever the link leads.
        query = {**dict(parse_qsl(page.next_link.partition("?")[2])), **first}
    if not assignments:
        # An empty list would mean that the identity has no role.
        raise AzureError(f"Azure's first {PAGES_MAX} pages have no role assignment, and there are more pages")
    return assignments[:ASSIGNMENTS_MAX], False


async def _role_name(azure: ResourceReader, scope: str, role: str) -> str:
    """Return the name of the role with the id *role*; the id if it could not be read."""
    try:
        return (await read_definition(azure, scope, role)).role_name or role
    except AzureError:
        return role


async def read_definition(azure: ResourceReader, scope: str, role: str) -> Properties:
    """Return the definition, as at *scope*, of the role with the id *role*. Raises AzureError."""
    match = _ROLE_ID.fullmatch(role)
    if match is None:
        raise AzureError(f"{role} is no id of a role")
    # Only the GUID is from the response, so the request leads to no other path.
    path = f"{scope}/providers/Microsoft.Authorization/roleDefinitions/{match[1]}"
    return (await get(azure, ArmResource, path, ROLE_VERSION)).properties


async def get(azure: ResourceReader, kind: type[D], path: str, query: dict[str, str]) -> D:
    """Return the resource at *path*, which is quoted. Raises AzureError."""
    body = await azure.read(path, query)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AzureError(f"Azure's response to {path} cannot be used: {error}") from error
