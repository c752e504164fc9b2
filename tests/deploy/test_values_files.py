"""Values, versions and definitions that several files repeat are equal: values.yaml, its schema, its table in the
README, the values in the documentation, the versions."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from packaging.version import Version

from podidentity.version import VERSION
from tests.e2e.operators_shell import blocks_of
from tools.chart.rendering import CHART, ROOT, render
from tools.chart.values_table import table, values_of, with_table

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
OPEN = {"global"}
"""Values that helm itself adds."""
DEAD = {"installCRDs", "forceNameSpaced"}
"""Values of the Go implementation's older charts that the chart accepts and ignores."""


def schemas(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for each in part.values():
            yield from schemas(each)
    elif isinstance(part, list):
        for each in part:
            yield from schemas(each)


def names(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, each in schema["properties"].items():
        if "properties" in each:
            yield from names(each, f"{above}{name}.")
        yield f"{above}{name}"


def test_every_value_is_known() -> None:
    values = {value.name for value in values_of((CHART / "values.yaml").read_text())}
    assert values <= set(names(SCHEMA))


def test_the_schema_has_no_unknown_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(SCHEMA["properties"]) - OPEN - DEAD == set(values)
    for group in ("mic", "nmi", "rbac", "podMonitor", "serviceMonitor", "networkPolicy", "test", "federated"):
        assert set(SCHEMA["properties"][group]["properties"]) == set(values[group]), group


def test_every_set_of_names_is_closed() -> None:
    assert all(each["additionalProperties"] is False for each in schemas(SCHEMA) if "properties" in each)


def test_the_table_is_up_to_date() -> None:
    readme = (CHART / "README.md").read_text()
    assert with_table(readme, (CHART / "values.yaml").read_text()) == readme, "run: python -m tools.chart"


def test_a_value_without_a_comment_is_named() -> None:
    values = "# What it does.\none: 1\n"
    with pytest.raises(ValueError, match=r"no comment above group\.two in"):
        values_of(f"{values}group:\n  # Told.\n  three: 3\n\n  two: 2\n")
    assert [value.name for value in values_of(values)] == ["one"]


def test_a_mapping_of_commented_entries_is_a_group_and_any_other_is_a_value() -> None:
    found = values_of("group:\n  # A.\n  a: ''\n  # B,\n  # told in two lines.\n  b:\n    limits: 1\n")
    assert [(each.name, each.description, each.default) for each in found] == [
        ("group.a", "A.", ""),
        ("group.b", "B, told in two lines.", {"limits": 1}),
    ]


def test_a_bar_in_a_comment_does_not_end_the_cell() -> None:
    assert "| a \\| b |" in table(values_of("# a | b\none: 1\n"))


BLOCKS = blocks_of((ROOT / "docs" / "install-on-aks.md").read_text(), "yaml")


def test_the_page_has_values() -> None:
    keys = [set(yaml.safe_load(block)) for block in BLOCKS]
    assert keys.count({"adminsecret"}) == 2
    assert {"nmi", "mic"} in keys


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_chart_renders_with_the_values(block: str) -> None:
    objects = render(given=block)
    if "adminsecret" in block:
        (secret,) = (each for each in objects if each["kind"] == "Secret")
        assert {"ClientID", "ClientSecret", "TenantID", "ResourceGroup"} <= set(secret["data"])
        assert ("UseMSI" in secret["data"]) is ("useMSI" in block)


def test_the_charts_definitions_are_those_of_the_repository() -> None:
    ours = {file.name: file.read_text() for file in (ROOT / "deploy" / "crds").iterdir()}
    assert {file.name: file.read_text() for file in (CHART / "crds").iterdir()} == ours


def test_the_chart_and_the_demo_install_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == VERSION
    demo = yaml.safe_load((ROOT / "deploy" / "demo" / "pod.yaml").read_text())
    assert [each["image"] for each in demo["spec"]["containers"]] == [f"aad-pod-identity/demo:{VERSION}"]


def test_the_version_is_valid_as_semver_as_a_wheels_version_and_as_an_image_tag() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(-rc\.\d+)?", VERSION)
    assert str(Version(VERSION)) == VERSION.replace("-rc.", "rc")


def test_the_chart_of_a_release_candidate_is_a_release_candidate() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    assert chart.partition("-")[2] == VERSION.partition("-")[2]
    assert Version(chart) > Version("4.1.18"), "the Go implementation's last chart"
