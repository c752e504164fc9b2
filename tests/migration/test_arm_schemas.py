"""The schemas against which planned resources are validated reject resources with a fault."""

from typing import Any

import pytest

from tests.migration.arm_schemas import NAMES, assert_valid

CREDENTIAL, BINDING, ROLE = NAMES
GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    CREDENTIAL: ("abc", {"issuer": "i", "subject": "s", "audiences": ["a"]}),
    BINDING: ("abc", {"managedIdentity": {"resourceId": "r"}}),
    ROLE: (
        "0b1f6471-1bf0-4dda-aec3-cb9272f09590",
        {"roleDefinitionId": "r", "principalId": "p", "principalType": "ServicePrincipal"},
    ),
}


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("fault", ["missing", "unknown", "name"])
def test_a_resource_with_a_fault_is_invalid(kind: str, fault: str) -> None:
    name, properties = GOOD[kind]
    assert_valid(kind, name, {"properties": properties})
    properties = dict(properties)
    if fault == "missing":
        properties.pop(next(iter(properties)))
    elif fault == "unknown":
        properties["colour"] = "green"
    with pytest.raises((AssertionError, KeyError)):
        assert_valid(kind, "A/" if fault == "name" else name, {"properties": properties})
