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
from podidctl.migration.federation.schema import FederationPlan, IdentityStep
from podidctl.migration.output import commented, credential_script, shell
from podidctl.migration.workload_identity import ManualStep, PlannedCredential
from podidctl.report.text import listed
from podidentity.azure.resource_ids import ResourceId
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
NO_BINDINGS: Final = "Azure Service Operator has no kind for identity bindings; use -o az, terraform or bicep for them"
NO_RESOURCES: Final = AzurePlan([], [])
_BICEP_ESCAPED: Final = re.compile(r"[\\']|\$(?=\{)")
_HCL_ESCAPED: Final = re.compile(r'[\\"]|[$%](?=\{)')
_HCL_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "$": "$$", "%": "%%"}


class SeveralGroupsError(Exception):
    """The resources belong to several resource groups."""


def bicep(plan: AzurePlan, remarks: list[str]) -> str:
    """Return the file. *remarks* are comments at its start. Raises SeveralGroupsError."""
    lines = [f"// {printable(each)}" for each in (*remarks, *plan.omitted)]
    if plan.resources:
        where = _group(plan)
        words = ["az", "deployment", "group", "create", "--subscription", where.subscription]
        words += ["--resource-group", where.resource_group, "--template-file", "FILE"]
        lines.insert(0, f"// {printable(shlex.join(words))}")
    lines.append("targetScope = 'resourceGroup'")
    parents = {_parent_symbol(each): each for each in plan.resources}
    for symbol, each in parents.items():
        lines += [
            "",
            f"resource {symbol} {bicep_string(f'{each.parent_type}@{API_VERSIONS[each.parent_type]}')} existing = {{",
        ]
        lines += [f"  name: {bicep_string(each.parent.name)}", "}"]
    previous: dict[str, str] = {}
    for each in plan.resources:
        lines += ["", f"// AzureIdentity {printable(each.about)}", *_bicep_resource(each, previous)]
    return "".join(f"{line}\n" for line in lines)


def bicep_string(text: str) -> str:
    """Return a Bicep string that evaluates to *text*, which is one line of printable characters."""
    return f"'{_BICEP_ESCAPED.sub(lambda found: chr(92) + found[0], text)}'"


def _bicep_resource(each: AzureResource, previous: dict[str, str]) -> Iterator[str]:
    parent = _parent_symbol(each)
    yield f"resource {each.symbol} {bicep_string(each.type_with_version)} = {{"
    yield f"  {'scope' if each.type is ResourceType.ROLE_ASSIGNMENT else 'parent'}: {parent}"
    yield f"  name: {bicep_string(each.name)}"
    yield "  properties: {"
    yield from _bicep_attributes(each.properties, 4)
    yield "  }"
    if each.type is not ResourceType.ROLE_ASSIGNMENT:
        if before := previous.get(parent):
            yield f"  dependsOn: [\n    {before}\n  ]"
        previous[parent] = each.symbol
    yield "}"


def _bicep_attributes(value: Mapping[str, Any], indent: int) -> Iterator[str]:
    margin = " " * indent
    for key, each in value.items():
        if isinstance(each, Mapping):
            yield f"{margin}{key}: {{"
            yield from _bicep_attributes(each, indent + 2)
            yield f"{margin}}}"
        elif isinstance(each, str):
            yield f"{margin}{key}: {bicep_string(each)}"
        else:
            yield f"{margin}{key}: ["
            yield from (f"{margin}  {bicep_string(one)}" for one in each)
            yield f"{margin}]"


def _parent_symbol(each: AzureResource) -> str:
    kind = "cluster" if each.parent_type is ResourceType.CLUSTER else "identity"
    return symbol_of(kind, each.parent.name, each.parent.key)


def _group(plan: AzurePlan) -> ResourceId:
    """Return the first parent. Raises SeveralGroupsError with the identities of each resource group."""
    users: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for each in plan.resources:
        users[each.parent.subscription.lower(), each.parent.resource_group.lower()].add(each.about)
    if len(users) > 1:
        groups = "; ".join(f"{printable(group)}: {printable(listed(names))}" for (_, group), names in users.items())
        raise SeveralGroupsError(groups)
    return plan.resources[0].parent


def terraform(plan: AzurePlan, remarks: list[str]) -> str:
    """Return the configuration. *remarks* are comments at its start."""
    lines = [f"# {printable(each)}" for each in (*remarks, *plan.omitted)]
    for each in plan.resources:
        lines += ["", f"# AzureIdentity {printable(each.about)}", f'resource "azapi_resource" "{each.symbol}" {{']
        lines += [
            f"  type      = {hcl_string(each.type_with_version)}",
            f"  parent_id = {hcl_string(each.parent.text)}",
            f"  name      = {hcl_string(each.name)}",
        ]
        if each.type is not ResourceType.ROLE_ASSIGNMENT:
            lines.append(f"  locks     = [{hcl_string(each.parent.text)}]")
        lines += [f"  body = {{\n    properties = {_hcl_object(each.properties, 4)}\n  }}", "}"]
    return TERRAFORM_HEAD + "".join(f"{line}\n" for line in lines)


def hcl_string(text: str) -> str:
    """Return a quoted template of HCL that evaluates to *text*, which is one line of printable characters."""
    return f'"{_HCL_ESCAPED.sub(lambda found: _HCL_ESCAPES[found[0]], text)}"'


def _hcl_object(value: Mapping[str, Any], indent: int) -> str:
    inner = "".join(f"{line}\n" for line in _hcl_attributes(value, indent + 2))
    return f"{{\n{inner}{' ' * indent}}}"


def _hcl_attributes(value: Mapping[str, Any], indent: int) -> Iterator[str]:
    width = max(map(len, value))
    for key, each in value.items():
        if isinstance(each, Mapping):
            text = _hcl_object(each, indent)
        elif isinstance(each, str):
            text = hcl_string(each)
        else:
            text = f"[{', '.join(map(hcl_string, each))}]"
        yield f"{' ' * indent}{key:{width}} = {text}"


def service_operator_objects(plan: AzurePlan, remarks: list[str]) -> str:
    """Return the objects for `kubectl apply -f`. *remarks* are comments at its start."""
    lacking = [NO_BINDINGS] if any(each.type is ResourceType.BINDING for each in plan.resources) else []
    head = ["kubectl apply -f this file, in a cluster with Azure Service Operator 2", *remarks, *plan.omitted, *lacking]
    return commented((f"# {printable(each)}" for each in head), list(_operator_objects(plan)))


def _operator_objects(plan: AzurePlan) -> Iterator[dict[str, Any]]:
    for each in plan.resources:
        if each.type is ResourceType.CREDENTIAL:
            yield _operator_object(each, "managedidentity.azure.com/v1api20230131", "FederatedIdentityCredential")
        elif each.type is ResourceType.ROLE_ASSIGNMENT:
            made = _operator_object(each, "authorization.azure.com/v1api20220401", "RoleAssignment")
            made["spec"]["roleDefinitionReference"] = {"armId": made["spec"].pop("roleDefinitionId")}
            yield made


def _operator_object(each: AzureResource, api_version: str, kind: str) -> dict[str, Any]:
    name = re.sub(r"[^a-z0-9]+", "-", each.symbol)
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name[:NAME_MAX], "namespace": each.about.partition("/")[0]},
        "spec": {"azureName": each.name, "owner": {"armId": each.parent.text}, **each.properties},
    }


def az_script(made: FederationPlan, steps: list[IdentityStep], azure: AzurePlan = NO_RESOURCES) -> str:
    """Return a script with one command per Azure resource of *steps*; it stops at the first failure.

    *azure* has the role assignments and identity bindings. The federated credentials are those of *steps*, because an
    application can have some, too.
    """
    credentials = [each for step in steps for each in step.credentials]
    # Two AzureIdentities may name the same identity on Azure.
    once = {_azures(each): each for each in reversed(credentials)}
    credentials = [each for each in credentials if once[_azures(each)] is each]
    script = credential_script(credentials, _manual(made, steps), made.issuer, made.audience)
    others = [each for each in azure.resources if each.type is not ResourceType.CREDENTIAL]
    lines = [f"\n# {printable(each.about)}\n{shell(_az_command(each))}\n" for each in others]
    return script + "".join(lines)


def remarks_of(made: FederationPlan, steps: list[IdentityStep]) -> list[str]:
    """Return the remarks of a plan, one line each."""
    return [f"{each.about}: {each.why}; {each.do}" for each in _manual(made, steps)]


def _manual(made: FederationPlan, steps: list[IdentityStep]) -> list[ManualStep]:
    everywhere = [ManualStep(about="cluster", why=each.why, do=each.do) for each in made.remarks]
    return everywhere + [
        ManualStep(about=f"AzureIdentity {step.full_name}", why=each.why, do=each.do)
        for step in steps
        for each in step.remarks
    ]


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
    return (*(each.lower() for each in (owner if any(owner) else (credential.client_id,))), credential.subject)
