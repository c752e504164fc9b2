"""Objects of Azure Service Operator (ASO) for a plan's Azure resources. Pure.

Source: the API types of ASO 2, `managedidentity.azure.com/v1api20230131` FederatedIdentityCredential and
`authorization.azure.com/v1api20220401` RoleAssignment. An owner is an Azure resource id (`armId`), because the identity
need not be an object of ASO. ASO has no kind for identity bindings.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from podidctl.migration.federation.azure_resources import AzurePlan, AzureResource, ResourceType
from podidentity.report import printable

NAME_MAX: Final = 253
"""Kubernetes' limit of an object's name."""
NO_BINDINGS: Final = "Azure Service Operator has no kind for identity bindings; use -o az, terraform or bicep for them"


def service_operator_objects(plan: AzurePlan, remarks: list[str]) -> str:
    """Return the objects for `kubectl apply -f`. *remarks* are comments at its start."""
    lacking = [NO_BINDINGS] if any(each.type is ResourceType.BINDING for each in plan.resources) else []
    head = ["kubectl apply -f this file, in a cluster with Azure Service Operator 2", *remarks, *plan.omitted, *lacking]
    documents = list(_objects(plan))
    body = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=False) if documents else ""
    return "".join(f"# {printable(each)}\n" for each in head) + body


def _objects(plan: AzurePlan) -> Iterator[dict[str, Any]]:
    for each in plan.resources:
        if each.type is ResourceType.CREDENTIAL:
            yield _object(each, "managedidentity.azure.com/v1api20230131", "FederatedIdentityCredential")
        elif each.type is ResourceType.ROLE_ASSIGNMENT:
            made = _object(each, "authorization.azure.com/v1api20220401", "RoleAssignment")
            made["spec"]["roleDefinitionReference"] = {"armId": made["spec"].pop("roleDefinitionId")}
            yield made


def _object(each: AzureResource, api_version: str, kind: str) -> dict[str, Any]:
    name = re.sub(r"[^a-z0-9]+", "-", each.symbol)
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name[:NAME_MAX], "namespace": each.about.partition("/")[0]},
        "spec": {"azureName": each.name, "owner": {"armId": each.parent.text}, **each.properties},
    }
