"""A release is refused if a place contradicts podidentity/version.py. Its notes are the changelog's section of the
version, with links that work outside the repository."""

import dataclasses
from typing import Final

import pytest
from packaging.version import Version

from tests.support.checkout import ROOT
from tools.release.versions import Section, Versions, notes, problems, read, sections

RELEASED: Final = Section("1.2.3", "2026-12-01", "* New.\n")
GOOD: Final = Versions(program="1.2.3", app="1.2.3", chart="5.2.0", demo="1.2.3", newest=RELEASED)


def test_equal_versions_are_accepted_also_of_a_release_candidate() -> None:
    assert list(problems(GOOD, "v1.2.3")) == []
    name = "1.2.3-rc.1"
    candidate = Versions(program=name, app=name, chart="5.2.0-rc.1", demo=name, newest=Section(name, "2026-12-01", ""))
    assert list(problems(candidate, f"v{name}")) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"app": "1.2.2"}, "appVersion 1.2.2; set it to 1.2.3"),
        ({"chart": "5.2.0-rc.1"}, "version 5.2.0-rc.1; end it like 1.2.3"),
        ({"demo": "1.2.4"}, "uses the image 1.2.4"),
        ({"newest": dataclasses.replace(RELEASED, version="1.2.2")}, "is not that of 1.2.3"),
        ({"newest": None}, "is not that of 1.2.3"),
        ({"newest": dataclasses.replace(RELEASED, date=None)}, "replace the word by the date"),
    ],
)
def test_a_place_that_differs_is_named(change: dict[str, object], message: str) -> None:
    (problem,) = problems(dataclasses.replace(GOOD, **change), "v1.2.3")  # type: ignore[arg-type]
    assert message in problem


@pytest.mark.parametrize("tag", ["1.2.3", "v1.2.4", "v1.2.3-rc.1", "v1.2.3; id"])
def test_another_tag_is_refused(tag: str) -> None:
    (problem,) = problems(GOOD, tag)
    assert "the tag of this version is v1.2.3" in problem


def test_a_version_that_is_not_semver_is_refused() -> None:
    short = Versions(program="1.2", app="1.2", chart=GOOD.chart, demo="1.2", newest=Section("1.2", None, ""))
    (problem,) = problems(short)
    assert "the form is 1.2.3" in problem


def test_this_tree_is_consistent() -> None:
    versions = read(ROOT)
    assert list(problems(versions)) == []
    assert Version(versions.chart) > Version("4.1.18"), "the Go implementation's last chart"
    undated = dataclasses.replace(GOOD, newest=dataclasses.replace(RELEASED, date=None))
    assert list(problems(undated)) == [], "without a tag the changelog needs no date"


TEXT: Final = """\
# Changelog

Versions follow [docs/releasing.md](docs/releasing.md).

## 1.1.0 (unreleased)

* New.

## 1.0.0 (2026-12-01)

The first.

### NMI

* Serves [identities](docs/federated-identities.md#limits), as [others](https://example.org/docs) do.

## 1.0.0-rc.1 (2026-11-01)

* Tried.
"""


def test_each_section_has_its_own_lines() -> None:
    newest, first, candidate = sections(TEXT)
    assert newest == Section("1.1.0", None, "* New.\n")
    assert (first.version, first.date) == ("1.0.0", "2026-12-01")
    assert first.body.startswith("The first.\n\n### NMI\n")
    assert "Tried" not in first.body
    assert candidate == Section("1.0.0-rc.1", "2026-11-01", "* Tried.\n")

    assert sections("# Changelog\n\n## Unreleased\n\n* New.\n\n## 1.0 (soon)\n") == []


def test_relative_links_become_links_to_the_files_of_the_tag() -> None:
    text = notes(sections(TEXT)[1], "https://git.example/owner/project/")
    assert "(https://git.example/owner/project/blob/v1.0.0/docs/federated-identities.md#limits)" in text
    assert "(https://example.org/docs)" in text
    assert notes(sections(TEXT)[1], "") == sections(TEXT)[1].body, "without an address the links stay"
