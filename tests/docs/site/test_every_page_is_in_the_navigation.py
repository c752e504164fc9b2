"""The navigation has the sections that readers look for, and each page of docs/ once."""

from collections.abc import Iterator
from typing import Any, Final

import yaml

from tests.docs.sentences import ROOT

NAVIGATION: Final = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]


def paths(entry: Any) -> Iterator[str]:
    """Yield the paths below one entry of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for each in entry.values() if isinstance(entry, dict) else entry:
            yield from paths(each)


LISTED: Final = list(paths(NAVIGATION))


def test_the_sections_are_those_of_the_tasks() -> None:
    sections = ["Quick start", "Install on AKS", "Operate", "Troubleshoot", "Security", "Reference", "Develop"]
    assert [next(iter(each)) for each in NAVIGATION] == ["Home", *sections]


def test_each_page_of_docs_is_listed_once() -> None:
    pages = {str(each.relative_to(ROOT)) for each in (ROOT / "docs").rglob("*.md")}
    assert len(pages) > 40
    assert pages - set(LISTED) == set(), "add the pages to nav in mkdocs.yml"
    assert sorted(LISTED) == sorted(set(LISTED))


def test_each_listed_page_exists() -> None:
    assert [each for each in LISTED if not (ROOT / each).is_file()] == []
