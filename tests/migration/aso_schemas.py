"""Schemas of two kinds of Azure Service Operator 2, reduced to the fields that a new object may have.

Source: the API types of github.com/Azure/azure-service-operator, v2/api/managedidentity/v1api20230131 and
v2/api/authorization/v1api20220401 (files structure.txt), and v2/pkg/genruntime for the references.
"""

from typing import Any

ARM_ID = {"type": "object", "additionalProperties": False, "properties": {"armId": {"type": "string"}}}
TEXT = {"type": "string"}


def _kind(api_version: str, kind: str, spec: dict[str, Any], required: list[str]) -> dict[str, Any]:
    meta = {"name": {**TEXT, "pattern": "^[a-z0-9]([-a-z0-9]{0,251}[a-z0-9])?$"}, "namespace": TEXT}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": api_version},
            "kind": {"const": kind},
            "metadata": {"type": "object", "additionalProperties": False, "required": [*meta], "properties": meta},
            "spec": {"type": "object", "additionalProperties": False, "required": required, "properties": spec},
        },
    }


SCHEMA: dict[str, Any] = {
    "oneOf": [
        _kind(
            "managedidentity.azure.com/v1api20230131",
            "FederatedIdentityCredential",
            {
                "audiences": {"type": "array", "items": TEXT},
                "azureName": {**TEXT, "pattern": "^[a-zA-Z0-9]{1}[a-zA-Z0-9-_]{2,119}$"},
                "issuer": TEXT,
                "owner": {**ARM_ID, "required": ["armId"]},
                "subject": TEXT,
            },
            ["audiences", "issuer", "owner", "subject"],
        ),
        _kind(
            "authorization.azure.com/v1api20220401",
            "RoleAssignment",
            {
                "azureName": TEXT,
                "condition": TEXT,
                "description": TEXT,
                "owner": {**ARM_ID, "required": ["armId"]},
                "principalId": TEXT,
                "principalType": {"enum": ["Device", "ForeignGroup", "Group", "ServicePrincipal", "User"]},
                "roleDefinitionReference": {**ARM_ID, "required": ["armId"]},
            },
            ["owner", "roleDefinitionReference"],
        ),
    ]
}
