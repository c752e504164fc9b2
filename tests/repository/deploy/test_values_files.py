"""Values, versions and definitions that several files repeat are equal: values.yaml, its schema, its table in the
README, the values in the documentation, the versions."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from benchmarks.report.marks import standing
from tests.support.operators_shell import blocks_of
from tools.chart.rendering import CHART, ROOT, render
from tools.chart.values_table import MAKER, made, values_of

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
OPEN = {"global"}
"""Values that helm itself adds."""
DEAD = {"installCRDs", "forceNameSpaced"}
"""Values of the Go implementation's older charts that the chart accepts and ignores."""


def schemas(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from schemas(value)
    elif isinstance(part, list):
        for value in part:
            yield from schemas(value)


def names(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in schema["properties"].items():
        if "properties" in value:
            yield from names(value, f"{above}{name}.")
        yield f"{above}{name}"


def test_the_schema_knows_the_values_and_no_others() -> None:
    text = (CHART / "values.yaml").read_text()
    assert {value.name for value in values_of(text)} <= set(names(SCHEMA))
    values = yaml.safe_load(text)
    assert set(SCHEMA["properties"]) - OPEN - DEAD == set(values)
    for group in ("mic", "nmi", "rbac", "podMonitor", "serviceMonitor", "networkPolicy", "test", "federated"):
        assert set(SCHEMA["properties"][group]["properties"]) == set(values[group]), group
    assert all(schema["additionalProperties"] is False for schema in schemas(SCHEMA) if "properties" in schema)


def test_the_table_is_up_to_date() -> None:
    assert standing(CHART / "README.md", MAKER) == made(CHART), "run: python -m tools.chart"


def test_a_value_without_a_comment_is_named() -> None:
    values = "# What it does.\none: 1\n"
    with pytest.raises(ValueError, match=r"no comment above group\.two in"):
        values_of(f"{values}group:\n  # Told.\n  three: 3\n\n  two: 2\n")
    assert [value.name for value in values_of(values)] == ["one"]


BLOCKS = blocks_of((ROOT / "docs" / "install-on-aks.md").read_text(), "yaml")


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_chart_renders_with_the_values(block: str) -> None:
    objects = render(given=block)
    assert [set(yaml.safe_load(block)) for block in BLOCKS].count({"adminsecret"}) == 2
    if "adminsecret" in block:
        (secret,) = (manifest for manifest in objects if manifest["kind"] == "Secret")
        assert {"ClientID", "ClientSecret", "TenantID", "ResourceGroup"} <= set(secret["data"])
        assert ("UseMSI" in secret["data"]) is ("useMSI" in block)


def test_the_values_for_argo_cd_need_neither_lookups_nor_hooks_before_a_synchronization() -> None:
    (application,) = map(yaml.safe_load, blocks_of((CHART / "README.md").read_text(), "yaml"))
    values = application["spec"]["source"]["helm"]["valuesObject"]
    image = {"image": values["image"]}

    def names_and_hooks(given: dict[str, Any]) -> tuple[set[str], set[str]]:
        objects = render(given=yaml.safe_dump(given))
        hooks = {document["metadata"].get("annotations", {}).get("helm.sh/hook", "") for document in objects}
        return {f"{document['kind']} {document['metadata']['name']}" for document in objects}, hooks

    usual, usual_hooks = names_and_hooks(image)
    names, hooks = names_and_hooks(values)
    assert usual_hooks - hooks == {"pre-upgrade"}
    assert hooks == {"", "post-delete", "test"}
    roles = {
        name.split()[1].removeprefix("aad-pod-identity-") for name in usual - names if name.startswith("ClusterRole ")
    }
    assert roles == {"mic-type-upgrade", "crds"}


def test_the_charts_definitions_are_those_of_the_repository() -> None:
    ours = {file.name: file.read_text() for file in (ROOT / "deploy" / "crds").iterdir()}
    assert {file.name: file.read_text() for file in (CHART / "crds").iterdir()} == ours
