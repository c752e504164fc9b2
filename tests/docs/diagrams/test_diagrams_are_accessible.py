"""Diagrams have a title and a description, load nothing, and are shown with a text for readers who do not see them."""

import re
from typing import Final
from xml.etree import ElementTree as ET

import pytest

from tests.docs.sentences import ROOT
from tools.diagrams.rendering import DOCS, HEAD, NAMES, SOURCES, finished, picture

SVG: Final = "{http://www.w3.org/2000/svg}"
SHOWN: Final = re.compile(r"!\[(?P<text>[^]]*)\]\((?P<target>[\w./-]+\.svg)\)")


def test_every_picture_has_a_source() -> None:
    assert len(NAMES) >= 5
    assert {each.stem for each in SOURCES.glob("*.svg")} == set(NAMES) - {"overview"}


@pytest.mark.parametrize("name", NAMES)
def test_a_diagram_has_the_title_and_the_description_of_its_source(name: str) -> None:
    head = HEAD.match((SOURCES / f"{name}.d2").read_text())
    assert head is not None
    root = ET.fromstring(picture(name).read_text())  # noqa: S314  # a file of this repository
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "title description"
    assert [root.findtext(f"{SVG}title"), root.findtext(f"{SVG}desc")] == [head["title"], head["description"]]


@pytest.mark.parametrize("source", ["a -> b\n", "# title: A\na -> b\n", "# description: a\n# title: A\na -> b\n"])
def test_a_source_without_title_and_description_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="begin the diagram with"):
        finished(source, "<svg></svg>")


@pytest.mark.parametrize("name", NAMES)
def test_a_diagram_loads_nothing(name: str) -> None:
    text = picture(name).read_text()
    addresses = re.findall(r"(?:href=|url\()[\"']?([^\"')]+)", text)
    assert [each for each in addresses if not each.startswith(("data:", "#"))] == []
    assert "<script" not in text


@pytest.mark.parametrize("name", NAMES)
def test_a_diagram_is_shown_with_a_text(name: str) -> None:
    texts = [
        found["text"]
        for page in [*DOCS.rglob("*.md"), ROOT / "README.md"]
        for found in SHOWN.finditer(page.read_text())
        if (page.parent / found["target"]).resolve() == picture(name)
    ]
    assert texts
    assert all(len(each.split()) > 5 for each in texts)
