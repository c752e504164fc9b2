"""In both colour schemes each text of a diagram has enough contrast to every colour behind texts."""

from pathlib import Path
from typing import Final

import pytest

from tests.browser import open_page
from tools.diagrams.rendering import NAMES, picture

pytestmark = pytest.mark.tools

LEAST: Final = 4.5
"""The contrast that WCAG 2.2 requires for text (1.4.3, level AA)."""
COLOURS: Final = """(() => {
  const fills = (elements) => [...new Set([...elements].map((each) => getComputedStyle(each).fill))]
    .filter((each) => each.startsWith("rgb(")).map((each) => each.match(/\\d+/g).map(Number));
  return [fills(document.querySelectorAll("text")), fills(document.querySelectorAll("rect:not(mask rect)"))];
})()"""


def luminance(colour: list[int]) -> float:
    """Return the relative luminance of WCAG."""
    parts = [each / 255 for each in colour]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: list[int], other: list[int]) -> float:
    """Return the contrast ratio of WCAG, from 1 to 21."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


async def test_texts_have_enough_contrast_in_both_schemes(tmp_path: Path) -> None:
    async with open_page(tmp_path / "profile") as page:
        for scheme in ("light", "dark"):
            await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for name in NAMES:
                await page.open(picture(name))
                await page.until(f"location.href === {picture(name).as_uri()!r} && document.readyState === 'complete'")
                texts, areas = await page.evaluate(COLOURS)
                assert texts
                assert len(areas) >= 2
                assert any((luminance(each) > 0.5) is (scheme == "light") for each in areas)
                low = [(text, area) for text in texts for area in areas if contrast(text, area) < LEAST]
                assert low == [], (name, scheme)


def test_the_contrast_is_that_of_wcag() -> None:
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast([119, 119, 119], [255, 255, 255]) == pytest.approx(4.48, abs=0.01)
