"""Resources to create in Azure before identities are federated. Pure.

Sources: the types federatedIdentityCredentials (API version 2024-11-30), identityBindings (stable since 2026-04-01) and
roleAssignments (2022-04-01) of Azure Resource Manager, as in the models of azure-mgmt-msi, azure-mgmt-containerservice
and azure-mgmt-authorization. The name of an identity binding has 1 to 63 characters and the pattern
`^[a-z][a-z0-9]{0,63}$` (Microsoft's generated Bicep types of Microsoft.ContainerService). Its creator needs
`Microsoft.ContainerService/managedClusters/identityBindings/*` on the cluster and
`Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials/*` on the identity (documentation of AKS,
"identity bindings concepts").
"""

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

from podidctl.migration.federation.schema import FederationPlan, IdentityStep
from podidentity.azure.federation import Exchange
from podidentity.azure.resource_ids import TEXT_MAX, ResourceId, parse_user_assigned

MANAGED_IDENTITY_CONTRIBUTOR: Final = "e40ec5ca-96e0-45a2-b4ff-59039f2c2b59"
"""The id of the built-in role of this name, which includes federated credentials of the identity."""
_BINDING_NAME_MAX: Final = 63
_DIGEST_LENGTH: Final = 8
_SYMBOL_MAX: Final = 80
_CREDENTIAL_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{2,119}")
_CLUSTER: Final = re.compile(
    r"/subscriptions/(?P<subscription>[^/\s]+)/resourcegroups/(?P<group>[^/\s]+)/providers"
    r"/microsoft\.containerservice/managedclusters/(?P<name>[^/\s]+)",
    re.IGNORECASE,
)
PRINCIPAL: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""An object id in lower case."""


class ResourceType(StrEnum):
    """A type of Azure Resource Manager."""

    CREDENTIAL = "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials"
    BINDING = "Microsoft.ContainerService/managedClusters/identityBindings"
    ROLE_ASSIGNMENT = "Microsoft.Authorization/roleAssignments"
    IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities"
    CLUSTER = "Microsoft.ContainerService/managedClusters"


API_VERSIONS: Final[Mapping[ResourceType, str]] = {
    ResourceType.CREDENTIAL: "2024-11-30",
    ResourceType.IDENTITY: "2024-11-30",
    ResourceType.BINDING: "2026-04-01",
    ResourceType.CLUSTER: "2026-04-01",
    ResourceType.ROLE_ASSIGNMENT: "2022-04-01",
}


@dataclass(frozen=True)
class AzureOptions:
    """The part of the command line that concerns Azure."""

    cluster: ResourceId | None = None
    """The AKS cluster. Needed for identity bindings."""
    principal: str = ""
    """Object id of the principal that creates the resources, for its role assignments; empty for none."""


@dataclass(frozen=True)
class AzureResource:
    """A resource to create. All texts are one line of printable characters."""

    about: str
    """The AzureIdentity, as `namespace/name`."""
    type: ResourceType
    parent: ResourceId
    """The parent, or the scope of a role assignment."""
    parent_type: ResourceType
    name: str
    properties: Mapping[str, Any]
    subject: str = ""
    """What the resource is for, for its symbolic name."""

    @property
    def type_with_version(self) -> str:
        return f"{self.type}@{API_VERSIONS[self.type]}"

    @property
    def symbol(self) -> str:
        """An identifier of Terraform and Bicep that no other resource has."""
        kind = {ResourceType.CREDENTIAL: "credential", ResourceType.BINDING: "binding"}.get(self.type, "role")
        return symbol_of(kind, f"{self.about}_{self.subject}", f"{self.type}/{self.parent.key}/{self.name}")


@dataclass(frozen=True)
class AzurePlan:
    """The resources in the order of their creation."""

    resources: Sequence[AzureResource]
    comments: Sequence[str]
    """The remarks of the federation plan, and reasons why this one lacks a resource, one line each."""


def parse_cluster(text: str) -> ResourceId | None:
    """Return the cluster with the resource id *text*, or None for any other text."""
    match = _CLUSTER.fullmatch(text) if len(text) <= TEXT_MAX and text.isprintable() else None
    return ResourceId(text, match["subscription"], match["group"], match["name"]) if match else None


def azure_plan(made: FederationPlan, options: AzureOptions) -> AzurePlan:
    """Return the resources of the plan. One identity under two names in the cluster has each resource once."""
    omitted: list[str] = []
    resources: dict[tuple[str, ...], AzureResource] = {}
    for step in made.steps:
        for resource in _of_step(made, step, options, omitted):
            # Names of credentials are unique for each service account.
            resources.setdefault((resource.type, resource.parent.key, resource.name), resource)
    # The principal needs its roles before it can create the other resources.
    order = [ResourceType.ROLE_ASSIGNMENT, ResourceType.BINDING, ResourceType.CREDENTIAL]
    sorted_resources = sorted(resources.values(), key=lambda resource: order.index(resource.type))
    return AzurePlan(sorted_resources, [*made.remark_lines, *dict.fromkeys(omitted)])


def symbol_of(kind: str, readable: str, unique: str) -> str:
    """Return an identifier with a digest of *unique*."""
    plain = re.sub(r"[^a-z0-9]+", "_", readable.lower()).strip("_")
    return f"{kind}_{plain[:_SYMBOL_MAX]}_{_digest(unique)}"


def binding_name(identity: ResourceId) -> str:
    """Return the name of an identity's binding to a cluster, unique for each identity."""
    plain = re.sub(r"[^a-z0-9]", "", identity.name.lower())
    if not plain[:1].isalpha():
        plain = f"id{plain}"
    return f"{plain[: _BINDING_NAME_MAX - _DIGEST_LENGTH]}{_digest(identity.key)}"


def _of_step(
    made: FederationPlan, step: IdentityStep, options: AzureOptions, omitted: list[str]
) -> Iterator[AzureResource]:
    identity = parse_user_assigned(step.resource_id)
    if not step.accounts:
        return
    if identity is None:
        omitted.append(f"{step.full_name}: its AzureIdentity has no usable resourceID; set it, or see -o az")
        return
    if options.principal:
        yield _role_assignment(step.full_name, identity, options.principal)
    if step.exchange is Exchange.IDENTITY_BINDINGS and options.cluster is not None:
        yield AzureResource(
            step.full_name,
            ResourceType.BINDING,
            options.cluster,
            ResourceType.CLUSTER,
            binding_name(identity),
            {"managedIdentity": {"resourceId": identity.text}},
        )
    for credential in step.credentials:
        texts = (made.issuer, made.audience, credential.subject)
        if _CREDENTIAL_NAME.fullmatch(credential.name) and all(text.isprintable() for text in texts):
            yield AzureResource(
                step.full_name,
                ResourceType.CREDENTIAL,
                identity,
                ResourceType.IDENTITY,
                credential.name,
                {"issuer": made.issuer, "subject": credential.subject, "audiences": [made.audience]},
                credential.name,
            )
        else:
            omitted.append(f"{step.full_name}: Azure accepts no credential for {credential.subject!a}")


def _role_assignment(about: str, identity: ResourceId, principal: str) -> AzureResource:
    role = (
        f"/subscriptions/{identity.subscription}/providers/Microsoft.Authorization/roleDefinitions/"
        f"{MANAGED_IDENTITY_CONTRIBUTOR}"
    )
    return AzureResource(
        about,
        ResourceType.ROLE_ASSIGNMENT,
        identity,
        ResourceType.IDENTITY,
        # Azure requires a UUID. Equal input must give an equal one, or a repeated run would conflict with the first.
        str(uuid.uuid5(uuid.NAMESPACE_URL, f"{identity.key}/{MANAGED_IDENTITY_CONTRIBUTOR}/{principal}")),
        {"roleDefinitionId": role, "principalId": principal, "principalType": "ServicePrincipal"},
    )


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]
