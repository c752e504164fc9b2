"""The committed diagrams are those that D2 makes from their sources."""

import pytest

from tools.diagrams.rendering import NAMES, picture, rendered


@pytest.mark.plane  # D2 is compiled
@pytest.mark.parametrize("name", NAMES)
def test_a_diagram_is_the_one_of_its_source(name: str) -> None:
    assert picture(name).read_text() == rendered(name), "run: .venv/bin/python -m tools.diagrams"
