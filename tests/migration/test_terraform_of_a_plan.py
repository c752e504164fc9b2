"""Terraform configuration of a plan, read by an HCL parser."""

import re
from typing import Any

import hcl2
import pytest

from podidctl.migration.federation.terraform import string, terraform
from tests.migration.arm_schemas import assert_valid
from tests.migration.azure_plans import BINDINGS, GRANTS, HOSTILE_ACCOUNT, azure, mixed

TOKEN = re.compile(r'\\(?P<escaped>["\\])|(?P<doubled>[$%])(?P=doubled)(?=\{)|(?P<bad>[$%]\{|[\\"])|(?P<plain>.)')
"""Tokens of a quoted template (HCL native syntax specification, "Template Expressions")."""


def value(literal: str) -> str:
    """Return the value of a quoted template, which must not contain an interpolation."""
    assert literal[0] == literal[-1] == '"'
    tokens = list(TOKEN.finditer(literal[1:-1]))
    assert not any(each["bad"] for each in tokens)
    return "".join(each["escaped"] or each["doubled"] or each["plain"] for each in tokens)


def evaluated(node: Any) -> Any:
    if isinstance(node, dict):
        return {key.strip('"'): evaluated(each) for key, each in node.items() if key != "__is_block__"}
    if isinstance(node, list):
        return [evaluated(each) for each in node]
    return value(node) if isinstance(node, str) and node.startswith('"') else node


def resources(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the resources of type azapi_resource: name and attributes."""
    document: Any = hcl2.loads(text)
    blocks = [evaluated(each) for each in document.get("resource", [])]
    return [next(iter(each["azapi_resource"].items())) for each in blocks]


@pytest.mark.parametrize("plan", [azure("web", HOSTILE_ACCOUNT), azure("web", options=BINDINGS), mixed()])
def test_each_resource_is_an_azapi_resource_with_arms_properties(plan: Any) -> None:
    read = resources(terraform(plan, []))
    assert [name for name, _ in read] == [each.symbol for each in plan.resources]
    for (_, got), expected in zip(read, plan.resources, strict=True):
        assert (got["type"], got["parent_id"], got["name"]) == (
            expected.type_with_version,
            expected.parent.text,
            expected.name,
        )
        assert got["body"] == {"properties": expected.properties}
        assert_valid(got["type"], got["name"], got["body"])


def test_changes_of_one_identitys_credentials_are_locked() -> None:
    locks = [got.get("locks") for _, got in resources(terraform(azure("web", "batch"), []))]
    parent = azure("web").resources[0].parent.text
    assert locks == [None, [parent], [parent]]


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("${a}", '"$${a}"'),
        ("$${a}", '"$$${a}"'),
        ("%{if true}", '"%%{if true}"'),
        ('"\\', '"\\"\\\\"'),
        ("$a %b {c}", '"$a %b {c}"'),
        ("\\${a}", '"\\\\$${a}"'),
    ],
)
def test_a_string_is_never_a_template(text: str, literal: str) -> None:
    assert string(text) == literal
    assert value(literal) == text


def test_a_remark_cannot_leave_its_comment() -> None:
    text = terraform(azure("web"), ['x\n}\nresource "local_file" "y" {}\n'])
    assert '\n# x?}?resource "local_file" "y" {}?\n' in text
    assert len(resources(text)) == 2


def test_omitted_resources_are_comments() -> None:
    assert "# shop/demo: Azure accepts no credential for 'system:serviceaccount:shop:web\\n'" in terraform(
        azure("web\n"), []
    )


def test_a_plan_without_resources_is_a_valid_configuration() -> None:
    assert resources(terraform(azure(options=GRANTS), [])) == []
