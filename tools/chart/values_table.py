"""The table of the chart's values in its README, made of the comments in values.yaml.

A value's description is the comment right above it. A mapping whose entries have comments is a group of values; any
other mapping, a list or a scalar is one value. That every value has a comment is part of making the table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

BEGIN: Final = "<!-- made by: python -m tools.chart -->"
END: Final = "<!-- end of what is made -->"
LONGEST_DEFAULT: Final = 60
"""Characters of a default that the table repeats; of a longer one it says where it stands."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the chart."""

    name: str
    description: str
    default: object


def values_of(text: str) -> list[Value]:
    """The values of a values.yaml, in its order. Raises ValueError naming those without a comment."""
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode), "values.yaml holds no mapping"  # noqa: S101  a chart that helm refuses
    found = list(_values(root, text.splitlines(), ""))
    silent = [value.name for value in found if not value.description]
    if silent:
        raise ValueError(f"no comment above {', '.join(silent)} in values.yaml: write what it does")
    return found


def _values(mapping: yaml.MappingNode, lines: Sequence[str], above: str) -> Iterator[Value]:
    for key, node in mapping.value:
        name = f"{above}{key.value}"
        if isinstance(node, yaml.MappingNode) and node.value and _comment(lines, node.value[0][0].start_mark):
            yield from _values(node, lines, f"{name}.")
        else:
            default = yaml.safe_load(yaml.serialize(node))
            yield Value(name, _comment(lines, key.start_mark), default)


def _comment(lines: Sequence[str], mark: yaml.Mark) -> str:
    found: list[str] = []
    opening = " " * mark.column + "#"
    for line in reversed(lines[: mark.line]):
        if not line.startswith(opening):
            break
        found.insert(0, line.removeprefix(opening).strip())
    return " ".join(found)


def table(values: Sequence[Value]) -> str:
    """A Markdown table of *values*."""
    rows = [(f"`{each.name}`", each.description.replace("|", "\\|"), _default(each.default)) for each in values]
    return "".join(f"| {' | '.join(row)} |\n" for row in (("value", "what it does", "default"), ("---",) * 3, *rows))


def _default(value: object) -> str:
    if isinstance(value, str):
        shown = f'"{value}"'
    else:
        shown = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
        shown = shown.removesuffix("\n...\n").strip()
    return f"`{shown}`" if len(shown) <= LONGEST_DEFAULT else "see values.yaml"


def with_table(readme: str, values: str) -> str:
    """*readme* with the table of *values* (the text of a values.yaml) between its two marks."""
    before, found, rest = readme.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"the README has no part between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table(values_of(values))}\n{END}{after}"


def update(chart: Path) -> None:
    """Write the table into the README of *chart*."""
    readme = chart / "README.md"
    readme.write_text(with_table(readme.read_text(), (chart / "values.yaml").read_text()))
