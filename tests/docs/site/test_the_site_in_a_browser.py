"""A browser without a network opens the site from disk."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.browser import Page, open_page

pytestmark = pytest.mark.tools

PAGES = ("index.html", "troubleshooting.html", "performance.html", "runbooks/index.html")
READY = "document.readyState === 'complete' && !!document.querySelector('[data-md-component=search-query]')"
RESULTS = "[...document.querySelectorAll('.md-search-result__link')].map((each) => each.href)"


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with open_page(tmp_path / "profile") as opened:
        yield opened


async def show(page: Page, path: Path, *, scheme: str = "light", width: int = 1400) -> None:
    """Open *path* in a viewport of *width*, with the preferred colour *scheme*."""
    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    await page.open(path)
    await page.until(f"location.href === {path.as_uri()!r} && {READY}")


async def test_pages_request_only_files_of_the_site(page: Page, site: Path) -> None:
    for name in PAGES:
        await show(page, site / name)
    assert page.problems == []
    local = (f"{site.as_uri()}/", "data:", "blob:")
    assert [each for each in page.requests if not each.startswith(local)] == []
    assert any(each.endswith("/index.html") for each in page.requests)


async def test_the_search_finds_a_word_without_a_server(page: Page, site: Path) -> None:
    await show(page, site / "index.html")
    await page.evaluate("document.querySelector('[data-md-component=search-query]').focus()")
    await page.type("quarantined")
    # Results of the first letters are shown before those of the word.
    await page.until(f"{RESULTS}.some((each) => each.includes('/architecture.html'))")
    assert all(each.startswith(f"{site.as_uri()}/") for each in await page.evaluate(RESULTS))
    assert page.problems == []


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
async def test_pages_have_the_colours_of_the_system(page: Page, site: Path, scheme: str, dark: bool) -> None:
    await show(page, site / "index.html", scheme=scheme)
    await page.until(f"document.body.dataset.mdColorScheme === '{'slate' if dark else 'default'}'")
    red = await page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (red < 80) is dark


@pytest.mark.parametrize("name", PAGES)
async def test_no_page_is_wider_than_a_narrow_screen(page: Page, site: Path, name: str) -> None:
    await show(page, site / name, width=400)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 400
