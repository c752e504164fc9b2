"""Bicep file of a plan's Azure resources. Pure.

A Bicep file without modules deploys to one resource group. Resources of one parent are created one after the other:
Azure refuses concurrent changes of one identity's federated credentials with 409.
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
from podidctl.report.text import listed
from podidentity.azure.resource_ids import ResourceId
from podidentity.report import printable

_ESCAPED: Final = re.compile(r"[\\']|\$(?=\{)")


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
            f"resource {symbol} {string(f'{each.parent_type}@{API_VERSIONS[each.parent_type]}')} existing = {{",
        ]
        lines += [f"  name: {string(each.parent.name)}", "}"]
    previous: dict[str, str] = {}
    for each in plan.resources:
        lines += ["", f"// AzureIdentity {printable(each.about)}", *_resource(each, previous)]
    return "".join(f"{line}\n" for line in lines)


def string(text: str) -> str:
    """Return a Bicep string that evaluates to *text*, which is one line of printable characters."""
    return f"'{_ESCAPED.sub(lambda found: chr(92) + found[0], text)}'"


def _resource(each: AzureResource, previous: dict[str, str]) -> Iterator[str]:
    parent = _parent_symbol(each)
    yield f"resource {each.symbol} {string(each.type_with_version)} = {{"
    yield f"  {'scope' if each.type is ResourceType.ROLE_ASSIGNMENT else 'parent'}: {parent}"
    yield f"  name: {string(each.name)}"
    yield "  properties: {"
    yield from _attributes(each.properties, 4)
    yield "  }"
    if each.type is not ResourceType.ROLE_ASSIGNMENT:
        if before := previous.get(parent):
            yield f"  dependsOn: [\n    {before}\n  ]"
        previous[parent] = each.symbol
    yield "}"


def _attributes(value: Mapping[str, Any], indent: int) -> Iterator[str]:
    margin = " " * indent
    for key, each in value.items():
        if isinstance(each, Mapping):
            yield f"{margin}{key}: {{"
            yield from _attributes(each, indent + 2)
            yield f"{margin}}}"
        elif isinstance(each, str):
            yield f"{margin}{key}: {string(each)}"
        else:
            yield f"{margin}{key}: ["
            yield from (f"{margin}  {string(one)}" for one in each)
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
