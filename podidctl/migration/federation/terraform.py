"""Terraform configuration of a plan's Azure resources. Pure.

It uses the provider azapi of Microsoft, because azurerm has no resource for identity bindings. azapi takes the
properties of Azure Resource Manager's own types, and `locks` keeps two changes of one parent apart: Azure refuses
concurrent changes of one identity's federated credentials with 409.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from podidctl.migration.federation.azure_resources import AzurePlan, ResourceType
from podidentity.report import printable

_ESCAPED: Final = re.compile(r'[\\"]|[$%](?=\{)')
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "$": "$$", "%": "%%"}

HEAD: Final = """\
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


def terraform(plan: AzurePlan, remarks: list[str]) -> str:
    """Return the configuration. *remarks* are comments at its start."""
    lines = [f"# {printable(each)}" for each in (*remarks, *plan.omitted)]
    for each in plan.resources:
        lines += ["", f"# AzureIdentity {printable(each.about)}", f'resource "azapi_resource" "{each.symbol}" {{']
        lines += [
            f"  type      = {string(each.type_with_version)}",
            f"  parent_id = {string(each.parent.text)}",
            f"  name      = {string(each.name)}",
        ]
        if each.type is not ResourceType.ROLE_ASSIGNMENT:
            lines.append(f"  locks     = [{string(each.parent.text)}]")
        lines += [f"  body = {{\n    properties = {_object(each.properties, 4)}\n  }}", "}"]
    return HEAD + "".join(f"{line}\n" for line in lines)


def string(text: str) -> str:
    """Return a quoted template of HCL that evaluates to *text*, which is one line of printable characters."""
    return f'"{_ESCAPED.sub(lambda found: _ESCAPES[found[0]], text)}"'


def _object(value: Mapping[str, Any], indent: int) -> str:
    inner = "".join(f"{line}\n" for line in _attributes(value, indent + 2))
    return f"{{\n{inner}{' ' * indent}}}"


def _attributes(value: Mapping[str, Any], indent: int) -> Iterator[str]:
    width = max(map(len, value))
    for key, each in value.items():
        if isinstance(each, Mapping):
            text = _object(each, indent)
        elif isinstance(each, str):
            text = string(each)
        else:
            text = f"[{', '.join(map(string, each))}]"
        yield f"{' ' * indent}{key:{width}} = {text}"
