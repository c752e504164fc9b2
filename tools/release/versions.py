"""The version in podidentity/version.py, the places that repeat it (docs/releasing.md), and CHANGELOG.md's sections."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

VERSION_FILE: Final = "podidentity/version.py"
CHART_FILE: Final = "deploy/charts/aad-pod-identity/Chart.yaml"
DEMO_FILE: Final = "deploy/demo/pod.yaml"
CHANGELOG: Final = "CHANGELOG.md"
_TITLE: Final = re.compile(r"^## (?P<version>\S+) \((?P<date>unreleased|\d{4}-\d\d-\d\d)\)$", re.MULTILINE)
_RELATIVE_LINK: Final = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")
_SEMVER: Final = re.compile(r"\d+\.\d+\.\d+(-rc\.\d+)?")


@dataclass(frozen=True, slots=True)
class Section:
    """The changes of one version. *date* is None while the version is not released."""

    version: str
    date: str | None
    body: str


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions that one tree states."""

    program: str
    app: str
    chart: str
    demo: str
    newest: Section | None
    """The newest section of the changelog."""


def read(tree: Path) -> Versions:
    """Return the versions in the files of *tree*. Raise ValueError if podidentity/version.py contains none."""
    line = re.search(r'^VERSION = "(.+)"$', (tree / VERSION_FILE).read_text(), re.MULTILINE)
    if line is None:
        raise ValueError(f'{VERSION_FILE} has no line VERSION = "…"')
    chart = yaml.safe_load((tree / CHART_FILE).read_text())
    demo = yaml.safe_load((tree / DEMO_FILE).read_text())
    (image,) = {container["image"] for container in demo["spec"]["containers"]}
    listed = sections((tree / CHANGELOG).read_text())
    return Versions(
        program=line[1],
        app=str(chart["appVersion"]),
        chart=str(chart["version"]),
        demo=image.rpartition(":")[2],
        newest=listed[0] if listed else None,
    )


def problems(versions: Versions, tag: str = "") -> Iterator[str]:
    """Yield a message for each place that contradicts podidentity/version.py.

    With the *tag* of a release, the tag must be that of the version, and the changelog's newest section must have a
    date.
    """
    wanted = versions.program
    if not _SEMVER.fullmatch(wanted):
        yield f"{VERSION_FILE} has {wanted}; the form is 1.2.3 or 1.2.3-rc.4"
    if versions.app != wanted:
        yield f"{CHART_FILE} has appVersion {versions.app}; set it to {wanted}"
    if versions.chart.partition("-")[2] != wanted.partition("-")[2]:
        yield f"{CHART_FILE} has version {versions.chart}; end it like {wanted}"
    if versions.demo != wanted:
        yield f"{DEMO_FILE} uses the image {versions.demo}; set it to {wanted}"
    if versions.newest is None or versions.newest.version != wanted:
        yield f"the newest section of {CHANGELOG} is not that of {wanted}; its title is ## {wanted} (YYYY-MM-DD)"
    if tag and tag != f"v{wanted}":
        yield f"the tag is {tag}, but {VERSION_FILE} has {wanted}; the tag of this version is v{wanted}"
    if tag and versions.newest is not None and versions.newest.date is None:
        yield f"{CHANGELOG} has {versions.newest.version} as unreleased; replace the word by the date"


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
