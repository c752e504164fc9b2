"""The release notes are the changelog's section of the version, with links that work outside the repository."""

from pathlib import Path
from typing import Final

from tools.release.changelog import Section, notes, sections

ROOT: Final = Path(__file__).parents[2]
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


def test_a_title_of_another_form_is_no_section() -> None:
    assert sections("# Changelog\n\n## Unreleased\n\n* New.\n\n## 1.0 (soon)\n") == []


def test_relative_links_become_links_to_the_files_of_the_tag() -> None:
    text = notes(sections(TEXT)[1], "https://git.example/owner/project/")
    assert "(https://git.example/owner/project/blob/v1.0.0/docs/federated-identities.md#limits)" in text
    assert "(https://example.org/docs)" in text


def test_without_an_address_the_links_stay() -> None:
    first = sections(TEXT)[1]
    assert notes(first, "") == first.body


def test_the_changelog_of_this_tree_has_sections() -> None:
    found = sections((ROOT / "CHANGELOG.md").read_text())
    assert found
    assert found[0].body
