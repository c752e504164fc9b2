"""The picture of the dashboard shows the present panels, with the values and units that Grafana would show."""

from pathlib import Path

import matplotlib.image
import pytest
from PIL import Image

from tests.observability.pack import dashboard
from tools.dashboard_picture.capture import Series, legend
from tools.dashboard_picture.drawing import PICTURE, ROWS, chosen, digest, draw, shown

PANELS = dashboard()["panels"]


def test_the_committed_picture_shows_the_present_panels() -> None:
    with Image.open(PICTURE) as picture:
        assert picture.text["Source"] == digest(PANELS), "run: .venv/bin/python -m tools.dashboard_picture"  # type: ignore[attr-defined]


def test_a_changed_panel_changes_the_digest_and_one_that_is_not_shown_does_not() -> None:
    first, last = [{**each} for each in PANELS], [{**each} for each in PANELS]
    first[1]["title"] = last[-1]["title"] = "changed"
    assert digest(first) != digest(PANELS) == digest(last)


def test_the_rows_of_the_picture_exist() -> None:
    assert {each["title"] for each in PANELS if each["type"] == "row"} >= set(ROWS)
    assert 20 < len(chosen(PANELS)) < len(PANELS)


def test_lines_and_numbers_are_drawn_at_the_places_of_their_panels(tmp_path: Path) -> None:
    line = [Series("x", [(0.0, 1.0), (60.0, 5.0), (120.0, 3.0)])]
    draw(PANELS, {}, tmp_path / "empty.png")
    draw(PANELS, {"Requests": line, "Requests by status": line * 2}, tmp_path / "filled.png")
    empty, filled = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("empty", "filled"))
    assert empty.shape == filled.shape
    down, across = (empty != filled).any(axis=2).nonzero()
    # The second number is in columns 3 to 6 of 24; the first graph in columns 0 to 8, below the numbers.
    height, width = empty.shape[0] / 55, empty.shape[1] / 24
    assert down.max() < 14 * height
    assert across.max() < 8 * width
    numbers = across[down < 5 * height]
    assert 3 * width < numbers.min() <= numbers.max() < 6 * width


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0241, "percentunit", "2.41 %"),
        (0.00241, "s", "2.41 ms"),
        (0.0, "s", "0 s"),
        (86400.0, "s", "24 h"),
        (111.2, "reqps", "111 req/s"),
        (41943040.0, "bytes", "41.9MB"),
        (12.0, "short", "12"),
    ],
)
def test_values_have_their_units(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_a_legend_contains_the_values_of_its_labels() -> None:
    assert legend("{{operation_type}} failed", {"operation_type": "adal_token"}) == "adal_token failed"
    assert legend("{{missing}} x", {}) == "x"
