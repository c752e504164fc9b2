"""Sections of CHANGELOG.md."""

import re
from dataclasses import dataclass
from typing import Final

_TITLE: Final = re.compile(r"^## (?P<version>\S+) \((?P<date>unreleased|\d{4}-\d\d-\d\d)\)$", re.MULTILINE)
_RELATIVE_LINK: Final = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Section:
    """The changes of one version. *date* is None while the version is not released."""

    version: str
    date: str | None
    body: str


def sections(text: str) -> list[Section]:
    """Return the sections of the changelog *text*, the newest first."""
    titles = [*_TITLE.finditer(text)]
    ends = [*(title.start() for title in titles), len(text)][1:]
    return [
        Section(
            version=title["version"],
            date=None if title["date"] == "unreleased" else title["date"],
            body=text[title.end() : end].strip() + "\n",
        )
        for title, end in zip(titles, ends, strict=True)
    ]


def notes(section: Section, url: str) -> str:
    """Return the release notes of *section*: its body, with relative links to the tag's files below *url*.

    *url* is the repository's address. If it is empty, the links stay relative.
    """
    if not url:
        return section.body
    return _RELATIVE_LINK.sub(rf"]({url.rstrip('/')}/blob/v{section.version}/\1)", section.body)
