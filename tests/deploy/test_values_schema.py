"""values.schema.json contains exactly the values of values.yaml."""

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tools.chart.rendering import CHART
from tools.chart.values_table import values_of

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
