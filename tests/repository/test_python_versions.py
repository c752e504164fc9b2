"""The pages and the classifiers state the versions of Python that pyproject.toml accepts."""

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_RANGE: Final = re.fullmatch(r">=3\.(\d+)\.(\d+),<3\.(\d+)", PROJECT["requires-python"])
assert _RANGE is not None
FIRST, PATCH, END = map(int, _RANGE.groups())


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/install-on-aks.md"])
def test_a_page_states_the_first_and_the_last_version(page: str) -> None:
    ranges = re.findall(r"Python (3\.[\d.]+ to 3\.\d+)", (ROOT / page).read_text())
    assert ranges == [f"3.{FIRST}.{PATCH} to 3.{END - 1}"]


def test_the_classifiers_name_each_minor_version() -> None:
    named = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["classifiers"]))
    assert list(map(int, named)) == list(range(FIRST, END))
