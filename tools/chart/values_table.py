"""The table of the chart's values in its README, generated from the comments in values.yaml.

A value's description is the comment directly above it. A mapping whose entries have comments is a group of values; any
other mapping, a list or a scalar is one value. Every value must have a comment.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from benchmarks.report.marks import put
from tools.handbook.tables import table

MAKER: Final = "tools.chart"
"""The name in the marks around the table in the README."""
LONGEST_DEFAULT: Final = 60
"""Longest default in characters that the table repeats; for a longer one it refers to values.yaml."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the chart."""

    name: str
    description: str
    default: object


def values_of(text: str) -> list[Value]:
    """Return the values of a values.yaml, in its order. Raise ValueError with the names of those without a comment."""
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode), "values.yaml contains no mapping"  # noqa: S101  a chart that helm refuses
    values = list(_values(root, text.splitlines(), ""))
    silent = [value.name for value in values if not value.description]
    if silent:
        raise ValueError(f"no comment above {', '.join(silent)} in values.yaml; describe the effect there")
    return values


def _values(mapping: yaml.MappingNode, lines: Sequence[str], above: str) -> Iterator[Value]:
    for key, node in mapping.value:
        name = f"{above}{key.value}"
        if isinstance(node, yaml.MappingNode) and node.value and _comment(lines, node.value[0][0].start_mark):
            yield from _values(node, lines, f"{name}.")
        else:
            default = yaml.safe_load(yaml.serialize(node))
            yield Value(name, _comment(lines, key.start_mark), default)


def _comment(lines: Sequence[str], mark: yaml.Mark) -> str:
    comment: list[str] = []
    opening = " " * mark.column + "#"
    for line in reversed(lines[: mark.line]):
        if not line.startswith(opening):
            break
        comment.insert(0, line.removeprefix(opening).strip())
    return " ".join(comment)


def made(chart: Path) -> str:
    """Return the table of the values of *chart*."""
    values = values_of((chart / "values.yaml").read_text())
    rows = [(f"`{value.name}`", value.description, _default(value.default)) for value in values]
    return table(["value", "effect", "default"], rows)


def _default(value: object) -> str:
    if isinstance(value, str):
        shown = f'"{value}"'
    else:
        shown = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
        shown = shown.removesuffix("\n...\n").strip()
    return f"`{shown}`" if len(shown) <= LONGEST_DEFAULT else "see values.yaml"


def update(chart: Path) -> None:
    """Write the table into the README of *chart*."""
    put(chart / "README.md", MAKER, made(chart))
