"""Formats of a plan's Azure resources: Bicep, Terraform, Azure Service Operator (ASO), and commands of az. Pure.

Azure refuses concurrent changes of one identity's federated credentials with 409. So a Bicep file creates resources of
one parent one after the other, and Terraform's `locks` keeps two changes of one parent apart. A Bicep file without
modules deploys to one resource group.

Terraform uses the provider azapi of Microsoft, because azurerm has no resource for identity bindings. azapi takes the
properties of Azure Resource Manager's own types.

Source of ASO's objects: the API types of ASO 2, `managedidentity.azure.com/v1api20230131` FederatedIdentityCredential
and `authorization.azure.com/v1api20220401` RoleAssignment. An owner is an Azure resource id (`armId`), because the
identity need not be an object of ASO. ASO has no kind for identity bindings.
"""

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from podidctl.migration.federation.azure_resources import (
    API_VERSIONS,
    AzurePlan,
    AzureResource,
    ResourceType,
    symbol_of,
)
from podidctl.migration.federation.schema import FederationPlan
from podidctl.migration.output import commented, credential_script, shell
from podidctl.migration.workload_identity import PlannedCredential
from podidctl.report.text import listed
from podidentity.azure.resource_ids import ResourceId
from podidentity.exits import StartError
from podidentity.report import printable

TERRAFORM_HEAD: Final = """\
# terraform init && terraform apply
terraform {
  required_providers {
    azapi = {
      source  = "Azure/azapi"
      version = "~> 2.0"
    }
  }
}
"""
NAME_MAX: Final = 253
"""Kubernetes' limit of an object's name."""
OPERATOR_KINDS: Final = {
    ResourceType.CREDENTIAL: ("managedidentity.azure.com/v1api20230131", "FederatedIdentityCredential"),
    ResourceType.ROLE_ASSIGNMENT: ("authorization.azure.com/v1api20220401", "RoleAssignment"),
}
"""Azure Service Operator's API version and kind of each resource. It has none for identity bindings."""
NO_BINDINGS: Final = "Azure Service Operator has no kind for identity bindings; use -o az, terraform or bicep for them"
_BICEP_ESCAPED: Final = re.compile(r"[\\']|\$(?=\{)")
_HCL_ESCAPED: Final = re.compile(r'[\\"]|[$%](?=\{)')
_HCL_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "$": "$$", "%": "%%"}


def bicep(plan: AzurePlan) -> str:
    """Return the file. Raises StartError for several resource groups."""
    lines = [f"// {printable(comment)}" for comment in plan.comments]
    if plan.resources:
        where = _group(plan)
        words = ["az", "deployment", "group", "create", "--subscription", where.subscription]
        words += ["--resource-group", where.resource_group, "--template-file", "FILE"]
        lines.insert(0, f"// {printable(shlex.join(words))}")
    lines.append("targetScope = 'resourceGroup'")
    parents = {_parent_symbol(resource): resource for resource in plan.resources}
    for symbol, child in parents.items():
        lines += [
            "",
            f"resource {symbol} {bicep_string(f'{child.parent_type}@{API_VERSIONS[child.parent_type]}')} existing = {{",
        ]
        lines += [f"  name: {bicep_string(child.parent.name)}", "}"]
    previous: dict[str, str] = {}
    for resource in plan.resources:
        lines += ["", f"// AzureIdentity {printable(resource.about)}", *_bicep_resource(resource, previous)]
    return "".join(f"{line}\n" for line in lines)


def bicep_string(text: str) -> str:
    """Return a Bicep string that evaluates to *text*, which is one line of printable characters."""
    return f"'{_BICEP_ESCAPED.sub(lambda match: chr(92) + match[0], text)}'"


def _bicep_resource(resource: AzureResource, previous: dict[str, str]) -> Iterator[str]:
    parent = _parent_symbol(resource)
    yield f"resource {resource.symbol} {bicep_string(resource.type_with_version)} = {{"
    yield f"  {'scope' if resource.type is ResourceType.ROLE_ASSIGNMENT else 'parent'}: {parent}"
    yield f"  name: {bicep_string(resource.name)}"
    yield "  properties: {"
    yield from _bicep_attributes(resource.properties, 4)
    yield "  }"
    if resource.type is not ResourceType.ROLE_ASSIGNMENT:
        if before := previous.get(parent):
            yield f"  dependsOn: [\n    {before}\n  ]"
        previous[parent] = resource.symbol
    yield "}"


def _bicep_attributes(value: Mapping[str, Any], indent: int) -> Iterator[str]:
    margin = " " * indent
    for key, attribute in value.items():
        if isinstance(attribute, Mapping):
            yield f"{margin}{key}: {{"
            yield from _bicep_attributes(attribute, indent + 2)
            yield f"{margin}}}"
        elif isinstance(attribute, str):
            yield f"{margin}{key}: {bicep_string(attribute)}"
        else:
            yield f"{margin}{key}: ["
            yield from (f"{margin}  {bicep_string(text)}" for text in attribute)
            yield f"{margin}]"


def _parent_symbol(resource: AzureResource) -> str:
    kind = "cluster" if resource.parent_type is ResourceType.CLUSTER else "identity"
    return symbol_of(kind, resource.parent.name, resource.parent.key)


def _group(plan: AzurePlan) -> ResourceId:
    """Return the first parent. Raises StartError with the identities of each resource group if there are several."""
    users: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for resource in plan.resources:
        users[resource.parent.subscription.lower(), resource.parent.resource_group.lower()].add(resource.about)
    if len(users) > 1:
        groups = "; ".join(f"{printable(group)}: {printable(listed(names))}" for (_, group), names in users.items())
        raise StartError(
            f"a Bicep file deploys to one resource group, and these are in several ({groups}): name the identities of "
            "one resource group, or use -o terraform"
        )
    return plan.resources[0].parent


def terraform(plan: AzurePlan) -> str:
    """Return the configuration."""
    lines = [f"# {printable(comment)}" for comment in plan.comments]
    for resource in plan.resources:
        lines += [
            "",
            f"# AzureIdentity {printable(resource.about)}",
            f'resource "azapi_resource" "{resource.symbol}" {{',
        ]
        lines += [
            f"  type      = {hcl_string(resource.type_with_version)}",
            f"  parent_id = {hcl_string(resource.parent.text)}",
            f"  name      = {hcl_string(resource.name)}",
        ]
        if resource.type is not ResourceType.ROLE_ASSIGNMENT:
            lines.append(f"  locks     = [{hcl_string(resource.parent.text)}]")
        lines += [f"  body = {{\n    properties = {_hcl_object(resource.properties, 4)}\n  }}", "}"]
    return TERRAFORM_HEAD + "".join(f"{line}\n" for line in lines)


def hcl_string(text: str) -> str:
    """Return a quoted template of HCL that evaluates to *text*, which is one line of printable characters."""
    return f'"{_HCL_ESCAPED.sub(lambda match: _HCL_ESCAPES[match[0]], text)}"'


def _hcl_object(value: Mapping[str, Any], indent: int) -> str:
    inner = "".join(f"{line}\n" for line in _hcl_attributes(value, indent + 2))
    return f"{{\n{inner}{' ' * indent}}}"


def _hcl_attributes(value: Mapping[str, Any], indent: int) -> Iterator[str]:
    width = max(map(len, value))
    for key, attribute in value.items():
        if isinstance(attribute, Mapping):
            text = _hcl_object(attribute, indent)
        elif isinstance(attribute, str):
            text = hcl_string(attribute)
        else:
            text = f"[{', '.join(map(hcl_string, attribute))}]"
        yield f"{' ' * indent}{key:{width}} = {text}"


def service_operator_objects(plan: AzurePlan) -> str:
    """Return the objects for `kubectl apply -f`."""
    lacking = [NO_BINDINGS] if any(resource.type is ResourceType.BINDING for resource in plan.resources) else []
    head = ["kubectl apply -f this file, in a cluster with Azure Service Operator 2", *plan.comments, *lacking]
    objects = [_operator_object(resource) for resource in plan.resources if resource.type in OPERATOR_KINDS]
    return commented((f"# {printable(comment)}" for comment in head), objects)


def _operator_object(resource: AzureResource) -> dict[str, Any]:
    name = re.sub(r"[^a-z0-9]+", "-", resource.symbol)
    api_version, kind = OPERATOR_KINDS[resource.type]
    spec = {"azureName": resource.name, "owner": {"armId": resource.parent.text}, **resource.properties}
    if resource.type is ResourceType.ROLE_ASSIGNMENT:
        spec["roleDefinitionReference"] = {"armId": spec.pop("roleDefinitionId")}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name[:NAME_MAX], "namespace": resource.about.partition("/")[0]},
        "spec": spec,
    }


def az_script(made: FederationPlan, azure: AzurePlan) -> str:
    """Return a script with one command per Azure resource; it stops at the first failure.

    *azure* has the role assignments and identity bindings. The federated credentials are those of the plan's steps,
    because an application can have some, too.
    """
    # Two AzureIdentities may name the same identity on Azure; the first one's credential stays.
    credentials: dict[tuple[str, ...], PlannedCredential] = {}
    for credential in (credential for step in made.steps for credential in step.credentials):
        credentials.setdefault(_azures(credential), credential)
    script = credential_script(credentials.values(), made.remark_lines, made.issuer, made.audience)
    others = [resource for resource in azure.resources if resource.type is not ResourceType.CREDENTIAL]
    lines = [f"\n# {printable(resource.about)}\n{shell(_az_command(resource))}\n" for resource in others]
    return script + "".join(lines)


def _az_command(resource: AzureResource) -> list[str]:
    """Return the command for a role assignment or an identity binding.

    Source: reference of the Azure CLI, `az aks identity-binding create` (also in the extension aks-preview) and
    `az role assignment create`.
    """
    if resource.type is ResourceType.BINDING:
        words = ["az", "aks", "identity-binding", "create", "--subscription", resource.parent.subscription]
        words += ["--resource-group", resource.parent.resource_group, "--cluster-name", resource.parent.name]
        identity = resource.properties["managedIdentity"]["resourceId"]
        return [*words, "--name", resource.name, "--managed-identity-resource-id", identity]
    properties = resource.properties
    words = ["az", "role", "assignment", "create", "--role", properties["roleDefinitionId"]]
    words += ["--assignee-object-id", properties["principalId"]]
    return [*words, "--assignee-principal-type", properties["principalType"], "--scope", resource.parent.text]


def _azures(credential: PlannedCredential) -> tuple[str, ...]:
    """Return the properties by which Azure distinguishes credentials."""
    owner = (credential.subscription, credential.resource_group, credential.identity_name)
    return (*(part.lower() for part in (owner if any(owner) else (credential.client_id,))), credential.subject)
