"""Checks of the Azure RBAC roles of the identity whose token a pod gets. Pure.

They matter after the token: a service refuses a valid token with 403 if the identity has no role for the request.
"""

import shlex
from collections.abc import Iterator
from typing import Final

from podidctl.evaluation.pod import PodCase
from podidctl.facts.model import IdentityRoles
from podidctl.report.finding import Finding, ok, unknown
from podidentity.azure.identity_permissions import is_grantable, permission_resource
from podidentity.report import counted
from podidentity.resources import AzureIdentity

ROLES: Final = "roles"
RBAC: Final = "if a service responds 403 to the pod's token, the identity lacks a role there (Azure RBAC)"


def role_links(case: PodCase) -> Iterator[Finding]:
    """Yield the links of the role assignments; none if the command does not read them or the pod gets no token."""
    roles, assigned = case.facts.roles, case.decision.assigned
    if roles is None or assigned is None:
        return
    about = "/".join(assigned.identity.key)
    listing = (
        f"az role assignment list --assignee {_assignee(assigned.identity, roles)} --all --include-groups -o table"
    )
    if roles.resource is None:
        message = f"{RBAC}; its role assignments were not read, because the AzureIdentity names no managed identity"
        yield unknown(ROLES, message, listing, about=about)
        return
    if roles.fault:
        message = f"{RBAC}; its role assignments could not be read: {roles.fault}"
        yield unknown(ROLES, message, f"{listing} --subscription {roles.resource.subscription}", about=about)
        return
    where = f"in subscription {roles.resource.subscription} and the management groups above it"
    elsewhere = f"{listing} --subscription SUBSCRIPTION"
    if roles.assignments:
        count = counted(len(roles.assignments), "role assignment")
        yield ok(ROLES, f"the identity has {count}{'' if roles.is_complete else ' or more'} {where}", about=about)
        yield unknown(ROLES, "its roles in other subscriptions were not read", elsewhere, about=about)
        return
    # Not a fault of the pod: its resources may be in another subscription, or have access rules of their own.
    message = f"the identity has no role assignment {where}: a service there that uses Azure RBAC responds 403"
    then = (
        f"az role assignment create --assignee-object-id {roles.principal} --assignee-principal-type ServicePrincipal "
        f"--role ROLE --scope RESOURCE-ID; if the resource is in another subscription, first {elsewhere}"
    )
    yield unknown(ROLES, message, then, about=about)


def _assignee(identity: AzureIdentity, roles: IdentityRoles) -> str:
    """Return the identity, for a shell."""
    if roles.principal:
        return roles.principal
    if roles.resource is not None:
        return f'"$(az identity show --ids {shlex.quote(roles.resource.text)} --query principalId -o tsv)"'
    # Tenants choose this text.
    return permission_resource(identity.spec.client_id) if is_grantable(identity.spec.client_id) else "CLIENT-ID"
