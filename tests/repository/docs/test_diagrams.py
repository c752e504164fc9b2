"""Diagrams are current, readable in both colour schemes and accessible, and load nothing."""

import re
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pytest

from tests.support.browser import open_page
from tests.support.checkout import ROOT
from tools.diagrams.rendering import DOCS, HEAD, NAMES, SOURCES, finished, picture, rendered

SVG: Final = "{http://www.w3.org/2000/svg}"
SHOWN: Final = re.compile(r"!\[(?P<text>[^]]*)\]\((?P<target>[\w./-]+\.svg)\)")
LEAST: Final = 4.5
"""The contrast that WCAG 2.2 requires for text (1.4.3, level AA)."""
COLOURS: Final = """(() => {
  const fills = (elements) => [...new Set([...elements].map((each) => getComputedStyle(each).fill))]
    .filter((each) => each.startsWith("rgb(")).map((each) => each.match(/\\d+/g).map(Number));
  return [fills(document.querySelectorAll("text")), fills(document.querySelectorAll("rect:not(mask rect)"))];
})()"""


@pytest.mark.parametrize("name", NAMES)
def test_a_diagram_has_its_sources_title_and_description_loads_nothing_and_is_shown_with_a_text(name: str) -> None:
    text = picture(name).read_text()
    head = HEAD.match((SOURCES / f"{name}.d2").read_text())
    assert head is not None
    root = ET.fromstring(text)  # noqa: S314  # a file of this repository
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "title description"
    assert [root.findtext(f"{SVG}title"), root.findtext(f"{SVG}desc")] == [head["title"], head["description"]]
    addresses = re.findall(r"(?:href=|url\()[\"']?([^\"')]+)", text)
    assert [address for address in addresses if not address.startswith(("data:", "#"))] == []
    assert "<script" not in text
    texts = [
        match["text"]
        for page in [*DOCS.rglob("*.md"), ROOT / "README.md"]
        for match in SHOWN.finditer(page.read_text())
        if (page.parent / match["target"]).resolve() == picture(name)
    ]
    assert texts
    assert all(len(text.split()) > 5 for text in texts)


@pytest.mark.parametrize("source", ["a -> b\n", "# title: A\na -> b\n", "# description: a\n# title: A\na -> b\n"])
def test_a_source_without_title_and_description_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="begin the diagram with"):
        finished(source, "<svg></svg>")


def luminance(colour: list[int]) -> float:
    """Return the relative luminance of WCAG."""
    parts = [channel / 255 for channel in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: list[int], second: list[int]) -> float:
    """Return the contrast ratio of WCAG, from 1 to 21."""
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.tools
async def test_texts_have_enough_contrast_in_both_schemes(tmp_path: Path) -> None:
    assert contrast([119, 119, 119], [255, 255, 255]) == pytest.approx(4.48, abs=0.01), "as in WCAG"
    async with open_page(tmp_path / "profile") as page:
        for scheme in ("light", "dark"):
            await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for name in NAMES:
                await page.open(picture(name))
                await page.until(f"location.href === {picture(name).as_uri()!r} && document.readyState === 'complete'")
                texts, areas = await page.evaluate(COLOURS)
                assert texts
                assert len(areas) >= 2
                assert any((luminance(area) > 0.5) is (scheme == "light") for area in areas)
                low = [(text, area) for text in texts for area in areas if contrast(text, area) < LEAST]
                assert low == [], (name, scheme)


@pytest.mark.plane  # D2 is compiled
@pytest.mark.parametrize("name", NAMES)
def test_a_diagram_is_the_one_of_its_source(name: str) -> None:
    assert picture(name).read_text() == rendered(name), "run: .venv/bin/python -m tools.diagrams"
