"""The chart renders the files in tests/deploy/golden, with each version of helm.

`python -m tools.chart` writes all of them: review the difference before you commit it.
"""

import difflib
from pathlib import Path

import pytest

from tools.chart.rendering import GOLDEN, HELMS, golden_file, golden_sets, render, text_of

SETS = golden_sets()


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("values", SETS, ids=lambda values: values.name.removesuffix(".values.yaml"))
def test_the_chart_renders_the_golden_file(values: Path, helm: str) -> None:
    kept, now = golden_file(values).read_text(), text_of(render(values, helm=helm))
    assert now == kept, "".join(difflib.unified_diff(kept.splitlines(True), now.splitlines(True), "kept", "now"))


def test_each_golden_file_has_its_values() -> None:
    assert len(SETS) >= 12
    assert set(GOLDEN.iterdir()) == {*SETS, *map(golden_file, SETS)}
