"""The picture of the dashboard shows the present panels."""

from PIL import Image

from tests.observability.pack import dashboard
from tools.dashboard_picture.drawing import PICTURE, ROWS, chosen, digest

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
