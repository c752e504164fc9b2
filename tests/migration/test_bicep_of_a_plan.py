"""Bicep file of a plan, read by a Bicep grammar. No package of PyPI or npm has Microsoft's compiler."""

import re
from typing import Any

import pytest
import tree_sitter
import tree_sitter_bicep

from podidctl.migration.federation.bicep import SeveralGroupsError, bicep, string
from tests.migration.arm_schemas import assert_valid
from tests.migration.azure_plans import BINDINGS, GRANTS, HOSTILE_ACCOUNT, azure, mixed
from tests.migration.objects import ID

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bicep.language()))
ESCAPE = re.compile(r"\\(?P<escaped>[\\'$])|(?P<bad>\$\{|[\\'])|(?P<plain>.)")
"""Tokens of a string (Bicep's documentation, "Data types"), apart from the escapes that the program does not use."""


def value(literal: str) -> str:
    """Return the value of a string literal, which must not contain an interpolation."""
    assert literal[0] == literal[-1] == "'"
    tokens = list(ESCAPE.finditer(literal[1:-1]))
    assert not any(each["bad"] for each in tokens)
    return "".join(each["escaped"] or each["plain"] for each in tokens)


def evaluated(node: tree_sitter.Node) -> Any:
    """Return the value of an expression; the name of a symbol starts with @."""
    text = (node.text or b"").decode()
    match node.type:
        case "string":
            return value(text)
        case "object":
            pairs = [each.named_children for each in node.named_children if each.type == "object_property"]
            return {(key.text or b"").decode(): evaluated(each) for key, each in pairs}
        case "array":
            return [evaluated(each) for each in node.named_children]
        case "identifier":
            return f"@{text}"
    raise AssertionError(f"unexpected {node.type}: {text}")


def resources(text: str) -> tuple[dict[str, tuple[str, Any]], dict[str, tuple[str, Any]]]:
    """Return type and content of the new and of the existing resources, by symbol."""
    root = PARSER.parse(text.encode()).root_node
    assert not root.has_error
    new: dict[str, tuple[str, Any]] = {}
    existing: dict[str, tuple[str, Any]] = {}
    for node in root.named_children:
        if node.type == "resource_declaration":
            name, kind, body = (each for each in node.named_children if each.type != "comment")
            words = [each.type for each in node.children]
            made = existing if "existing" in words else new
            made[(name.text or b"").decode()] = (evaluated(kind), evaluated(body))
    return new, existing


@pytest.mark.parametrize("plan", [azure("web", HOSTILE_ACCOUNT), azure("web", options=BINDINGS), mixed()])
def test_each_resource_has_arms_properties_and_an_existing_parent(plan: Any) -> None:
    new, existing = resources(bicep(plan, []))
    assert list(new) == [each.symbol for each in plan.resources]
    for (kind, got), expected in zip(new.values(), plan.resources, strict=True):
        assert (kind, got["name"], got["properties"]) == (
            expected.type_with_version,
            expected.name,
            expected.properties,
        )
        parent = existing[(got.get("parent") or got["scope"])[1:]]
        assert parent == (f"{expected.parent_type}@{parent[0].partition('@')[2]}", {"name": expected.parent.name})
        assert_valid(kind, got["name"], {"properties": got["properties"]})


def test_credentials_of_one_identity_are_created_one_after_the_other() -> None:
    new, _ = resources(bicep(azure("a", "b", "c", names=("demo", "other")), []))
    by_parent: dict[str, list[tuple[str, list[str]]]] = {}
    for symbol, (_, got) in new.items():
        if "parent" in got:
            by_parent.setdefault(got["parent"], []).append((f"@{symbol}", got.get("dependsOn", [])))
    assert len(by_parent) == 2
    for made in by_parent.values():
        assert [before for _, before in made] == [[], *([each] for each, _ in made[:-1])]


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("${a}", "'\\${a}'"),
        ("$${a}", "'$\\${a}'"),
        ("it's", "'it\\'s'"),
        ("a\\", "'a\\\\'"),
        ("\\${a}", "'\\\\\\${a}'"),
        ("$a {b}", "'$a {b}'"),
    ],
)
def test_a_string_is_never_an_interpolation(text: str, literal: str) -> None:
    assert string(text) == literal
    assert value(literal) == text


def test_a_remark_cannot_leave_its_comment() -> None:
    text = bicep(azure("web"), ["x\nresource y 'z' = {}\r\u2028"])
    assert "// x?resource y 'z' = {}??\n" in text
    assert len(resources(text)[0]) == 2


def test_several_resource_groups_are_rejected_by_name() -> None:
    one, other = azure("web"), azure("web", resourceID=f"{ID.replace('/g/', '/h/')}demo")
    both = type(one)([*one.resources, *other.resources], [])
    with pytest.raises(SeveralGroupsError, match="g: shop/demo; h: shop/demo"):
        bicep(both, [])
    assert "--resource-group h" in bicep(other, [])


def test_a_plan_without_resources_is_a_valid_file() -> None:
    assert resources(bicep(azure(options=GRANTS), [])) == ({}, {})
