"""Objects of Azure Service Operator for a plan, validated against its API types."""

from typing import Any

import jsonschema
import pytest
import yaml

from podidctl.migration.federation.service_operator import NO_BINDINGS, service_operator_objects
from tests.migration.aso_schemas import SCHEMA
from tests.migration.azure_plans import BINDINGS, HOSTILE_ACCOUNT, PRINCIPAL, azure, mixed
from tests.migration.objects import ID


def objects(*accounts: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(service_operator_objects(azure(*accounts), [])))


def test_the_objects_conform_to_the_kinds() -> None:
    made = objects("web", HOSTILE_ACCOUNT, "a" * 253)
    for each in made:
        jsonschema.validate(each, SCHEMA)
    assert [each["kind"] for each in made] == ["RoleAssignment", *["FederatedIdentityCredential"] * 3]
    assert len({each["metadata"]["name"] for each in made}) == 4


def test_an_object_has_the_properties_of_its_resource() -> None:
    role, credential = objects(HOSTILE_ACCOUNT)
    assert credential["spec"]["subject"] == f"system:serviceaccount:shop:{HOSTILE_ACCOUNT}"
    assert credential["spec"]["owner"] == role["spec"]["owner"] == {"armId": f"{ID}demo"}
    assert role["spec"]["principalId"] == PRINCIPAL
    assert role["metadata"]["namespace"] == credential["metadata"]["namespace"] == "shop"


@pytest.mark.parametrize("fault", ["owner", "unknown", "name"])
def test_the_schema_rejects_a_fault(fault: str) -> None:
    _, made = objects("web")
    match fault:
        case "owner":
            made["spec"]["owner"] = {"armID": "x"}
        case "unknown":
            made["spec"]["audience"] = "x"
        case _:
            made["metadata"]["name"] = "A_b"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, SCHEMA)


def test_identity_bindings_are_named_as_unsupported() -> None:
    text = service_operator_objects(azure("web", options=BINDINGS), [])
    assert f"# {NO_BINDINGS}\n" in text
    assert list(yaml.safe_load_all(text)) in ([], [None])


def test_a_plan_with_both_exchanges_names_the_unsupported_ones_and_has_the_others() -> None:
    text = service_operator_objects(mixed(), [])
    assert f"# {NO_BINDINGS}\n" in text
    made = list(yaml.safe_load_all(text))
    for each in made:
        jsonschema.validate(each, SCHEMA)
    assert [each["kind"] for each in made] == [*["RoleAssignment"] * 2, "FederatedIdentityCredential"]


def test_a_remark_cannot_leave_its_comment() -> None:
    text = service_operator_objects(azure("web"), ["x\n---\nkind: Secret\u2028"])
    assert "# x?---?kind: Secret?\n" in text
    assert len(list(yaml.safe_load_all(text))) == 2
