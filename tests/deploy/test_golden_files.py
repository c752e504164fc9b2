"""What the chart renders for each set of values is what tests/deploy/golden holds, whichever helm renders it.

`python -m tools.chart` renders all of them anew: look at the difference before you commit it.
"""

import difflib
from pathlib import Path

import pytest

from tools.chart.rendering import GOLDEN, HELMS, golden_file, golden_sets, render, text_of

SETS = golden_sets()


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("values", SETS, ids=lambda values: values.name.removesuffix(".values.yaml"))
def test_the_chart_renders_what_is_kept(values: Path, helm: str) -> None:
    kept, now = golden_file(values).read_text(), text_of(render(values, helm=helm))
    assert now == kept, "".join(difflib.unified_diff(kept.splitlines(True), now.splitlines(True), "kept", "now"))


def test_there_is_nothing_rendered_without_its_values() -> None:
    assert len(SETS) >= 12
    assert set(GOLDEN.iterdir()) == {*SETS, *map(golden_file, SETS)}
