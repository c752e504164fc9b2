"""Schemas of Azure Resource Manager for the planned resources: Microsoft's models, and the patterns of names.

The models are those of azure-mgmt-msi, azure-mgmt-containerservice and azure-mgmt-authorization, which Microsoft
generates from the specification of the same API version.
"""

import re
from typing import Any

from azure.mgmt.authorization.v2022_04_01.models import RoleAssignmentCreateParameters
from azure.mgmt.containerservice import types
from azure.mgmt.msi.v2024_11_30.models import FederatedIdentityCredential

NAMES = {
    "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2024-11-30": (
        r"[a-zA-Z0-9]{1}[a-zA-Z0-9-_]{2,119}"
    ),
    "Microsoft.ContainerService/managedClusters/identityBindings@2026-04-01": r"[a-z][a-z0-9]{0,62}",
    "Microsoft.Authorization/roleAssignments@2022-04-01": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}
"""Patterns of names, by type and API version: the reference of Azure's templates."""


REQUIRED = {"issuer", "subject", "audiences"}
"""The properties of a federated credential that its model does not mark as required, although Azure requires them."""


def assert_valid(type_with_version: str, name: str, body: dict[str, Any]) -> None:
    """Assert that the resource has the model's properties, all required ones and no other."""
    assert re.fullmatch(NAMES[type_with_version], name)
    match type_with_version.partition("@")[0].rpartition("/")[2]:
        case "identityBindings":
            assert set(body) == {"properties"} <= set(types.IdentityBinding.__annotations__)
            _assert_typed(body["properties"], types.IdentityBindingProperties)
        case "federatedIdentityCredentials":
            assert set(body["properties"]) >= REQUIRED
            _assert_modelled(body, FederatedIdentityCredential)
        case _:
            _assert_modelled(body, RoleAssignmentCreateParameters)


def _assert_modelled(body: dict[str, Any], model: Any) -> None:
    properties = {each["key"].partition("properties.")[2]: key for key, each in model._attribute_map.items()}
    for each in body["properties"]:
        assert not model._validation.get(properties[each], {}).get("readonly")
    required = {key for key, each in model._validation.items() if each.get("required")}
    made = model.deserialize(body)
    assert all(getattr(made, each) is not None for each in required)
    assert made.serialize() == body


def _assert_typed(value: dict[str, Any], kind: Any) -> None:
    assert set(value) >= kind.__required_keys__
    for key, each in value.items():
        expected = kind.__annotations__[key]
        (inner,) = getattr(expected, "__args__", (expected,))
        if isinstance(each, dict):
            _assert_typed(each, getattr(types, inner.__forward_arg__))
        else:
            assert isinstance(each, inner)
