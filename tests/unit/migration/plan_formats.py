"""Readers of the formats of a plan: the grammars of Bicep and HCL, YAML, and the shell. Schemas of Azure Resource
Manager for the planned resources: Microsoft's models, and the patterns of names.

No package of PyPI or npm has Microsoft's compiler of Bicep. The models are those of azure-mgmt-msi,
azure-mgmt-containerservice and azure-mgmt-authorization, which Microsoft generates from the specification of the same
API version.
"""

import re
import shlex
from dataclasses import dataclass
from typing import Any

import hcl2
import tree_sitter
import tree_sitter_bicep
from azure.mgmt.authorization.v2022_04_01.models import RoleAssignmentCreateParameters
from azure.mgmt.containerservice import types
from azure.mgmt.msi.v2024_11_30.models import FederatedIdentityCredential

BICEP = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bicep.language()))
BICEP_TOKEN = re.compile(r"\\(?P<value>[\\'$])|(?P<bad>\$\{|[\\'])|(?P<plain>.)")
"""Tokens of a string (Bicep's documentation, "Data types"), apart from the escapes that the program does not use."""
HCL_TOKEN = re.compile(r'\\(?P<value>["\\])|(?P<doubled>[$%])(?P=doubled)(?=\{)|(?P<bad>[$%]\{|[\\"])|(?P<plain>.)')
"""Tokens of a quoted template (HCL native syntax specification, "Template Expressions")."""


@dataclass(frozen=True)
class Written:
    """One new resource of a file."""

    symbol: str
    type_with_version: str
    parent: str
    """The id of its parent; in Bicep only what follows `providers/`."""
    properties: Any
    attributes: dict[str, Any]
    """All that the file states, as it states it."""


def _value(literal: str, quote: str, token: re.Pattern[str]) -> str:
    """Return the value of a string literal, which must not contain an interpolation."""
    assert literal[0] == literal[-1] == quote
    tokens = [match.groupdict() for match in token.finditer(literal[1:-1])]
    assert not any(groups["bad"] for groups in tokens)
    return "".join(groups["value"] or groups.get("doubled") or groups["plain"] for groups in tokens)


def bicep_value(literal: str) -> str:
    """Return the value of a string literal of Bicep."""
    return _value(literal, "'", BICEP_TOKEN)


def hcl_value(literal: str) -> str:
    """Return the value of a quoted template of HCL."""
    return _value(literal, '"', HCL_TOKEN)


def _of_bicep(node: tree_sitter.Node) -> Any:
    """Return the value of an expression; the name of a symbol starts with @."""
    text = (node.text or b"").decode()
    match node.type:
        case "string":
            return bicep_value(text)
        case "object":
            pairs = [child.named_children for child in node.named_children if child.type == "object_property"]
            return {(key.text or b"").decode(): _of_bicep(value) for key, value in pairs}
        case "array":
            return [_of_bicep(child) for child in node.named_children]
        case "identifier":
            return f"@{text}"
    raise AssertionError(f"unexpected {node.type}: {text}")


def read_bicep(text: str) -> list[Written]:
    """Return the new resources. The file must declare the parent of each one as existing."""
    root = BICEP.parse(text.encode()).root_node
    assert not root.has_error
    new: list[Written] = []
    existing: dict[str, str] = {}
    for node in root.named_children:
        if node.type == "resource_declaration":
            symbol, kind, body = (child for child in node.named_children if child.type != "comment")
            name, type_, attributes = f"@{(symbol.text or b'').decode()}", _of_bicep(kind), _of_bicep(body)
            if "existing" in [child.type for child in node.children]:
                assert set(attributes) == {"name"}
                existing[name] = f"{type_.partition('@')[0]}/{attributes['name']}"
            else:
                parent = existing[attributes.get("parent") or attributes["scope"]]
                new.append(Written(name[1:], type_, parent, attributes["properties"], attributes))
    return new


def _of_hcl(node: Any) -> Any:
    if isinstance(node, dict):
        return {key.strip('"'): _of_hcl(value) for key, value in node.items() if key != "__is_block__"}
    if isinstance(node, list):
        return [_of_hcl(item) for item in node]
    return hcl_value(node) if isinstance(node, str) and node.startswith('"') else node


def read_terraform(text: str) -> list[Written]:
    """Return the resources, which are all of type azapi_resource."""
    document: Any = hcl2.loads(text)
    new: list[Written] = []
    for block in document.get("resource", []):
        ((name, attributes),) = _of_hcl(block)["azapi_resource"].items()
        assert set(attributes["body"]) == {"properties"}
        properties = attributes["body"]["properties"]
        new.append(Written(name, attributes["type"], attributes["parent_id"], properties, attributes))
    return new


def read_az(script: str) -> list[list[str]]:
    """Return the words of the commands."""
    return [shlex.split(line) for line in script.splitlines() if line.startswith("az ")]


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
    properties = {attribute["key"].partition("properties.")[2]: key for key, attribute in model._attribute_map.items()}
    for name in body["properties"]:
        assert not model._validation.get(properties[name], {}).get("readonly")
    required = {key for key, rules in model._validation.items() if rules.get("required")}
    made = model.deserialize(body)
    assert all(getattr(made, name) is not None for name in required)
    assert made.serialize() == body


def _assert_typed(value: dict[str, Any], kind: Any) -> None:
    assert set(value) >= kind.__required_keys__
    for key, item in value.items():
        expected = kind.__annotations__[key]
        (inner,) = getattr(expected, "__args__", (expected,))
        if isinstance(item, dict):
            _assert_typed(item, getattr(types, inner.__forward_arg__))
        else:
            assert isinstance(item, inner)
