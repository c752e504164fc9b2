"""The table in the README equals the comments in values.yaml."""

import pytest

from tools.chart.rendering import CHART
from tools.chart.values_table import table, values_of, with_table


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
