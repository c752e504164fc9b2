"""The site: `make site` refuses broken links and pages without navigation, nothing is loaded from elsewhere, and a
browser without a network shows it.
"""

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest
from typing_extensions import override

from tests.support.browser import Page, open_page
from tests.support.checkout import ROOT

pytestmark = pytest.mark.tools

PYTHON: Final = ROOT / ".venv/.site/bin/python"
BUILD_SECONDS: Final = 100
LOADED: Final = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "image": "href"}
"""Elements that load their address when the page opens."""
MARKDOWN: Final = re.compile(r"```|^\||\| *-{3}|\n([*-]|\d+\.) |\]\(|\*\*|^#+ ")
INDEX = "# Start\n\n[other](other.md#part) [again](other.md#part-1) [readme](../README.md) [folder](../folder)\n"
PAGES = ("index.html", "troubleshooting.html", "performance.html", "runbooks/index.html")
READY = "document.readyState === 'complete' && !!document.querySelector('[data-md-component=search-query]')"
RESULTS = "[...document.querySelectorAll('.md-search-result__link')].map((each) => each.href)"


def build(root: Path, site: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Build the site of the repository *root* into *site*, as `make site` does."""
    assert PYTHON.exists(), "the site's programs are missing; run: make .venv/.site/.installed"
    given = {key: value for key, value in os.environ.items() if key != "PROJECT_URL"}
    command = [str(PYTHON), "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(
        [*command, f"--config-file={root / 'mkdocs.yml'}", f"--site-dir={site}"],
        cwd=ROOT,
        env={**given, "NO_MKDOCS_2_WARNING": "1", "SITE_ROOT": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site of this checkout."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two pages in its navigation, and the project's configuration."""
    config = (ROOT / "mkdocs.yml").read_text()
    config = re.sub(r"(?ms)^nav:\n.*", "nav:\n  - docs/index.md\n  - docs/other.md\n", config)
    (tmp_path / "mkdocs.yml").write_text(config)
    shutil.copytree(ROOT / "tools/site", tmp_path / "tools/site")
    shutil.copytree(ROOT / "docs/assets", tmp_path / "docs/assets")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "data.json").write_text("{}")
    (tmp_path / "README.md").write_text("# Readme\n\n[start](docs/index.md)\n")
    (tmp_path / "docs/index.md").write_text(INDEX)
    (tmp_path / "docs/other.md").write_text("# Other\n\n## Part\n\n## Part\n")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("docs/index.md", INDEX + "[lost](lost.md)\n", "lost.md"),
        ("docs/index.md", INDEX + "[lost](../deploy/lost)\n", "../deploy/lost"),
        ("docs/index.md", INDEX + "[lost](other.md#lost)\n", "#lost"),
        ("docs/index.md", INDEX + "[lost](other.md#part-2)\n", "#part-2"),
        ("README.md", "# Readme\n\n[lost](docs/lost.md)\n", "docs/lost.md"),
        ("docs/new.md", "# New\n", "docs/new.md"),
    ],
    ids=["page", "file outside", "anchor", "anchor of a repeated heading", "page outside", "page without navigation"],
)
def test_a_broken_link_or_a_page_without_navigation_is_refused(
    repository: Path, path: str, text: str, message: str
) -> None:
    (repository / path).write_text(text)
    done = build(repository, repository / "site")
    assert done.returncode != 0
    assert message in done.stderr


def test_pages_link_to_the_repository_only_if_its_address_is_given(repository: Path) -> None:
    address = "https://git.example.com/pod-identity"
    build(repository, repository / "without")
    build(repository, repository / "with", PROJECT_URL=f"{address}/")
    assert address not in (repository / "without/other.html").read_text()
    assert f'href="{address}"' in (repository / "with/other.html").read_text()


class Document(HTMLParser):
    """The loaded addresses and the texts of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.texts: list[str] = []
        self._article = 0
        self._code = 0
        self.feed(path.read_text())

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name == LOADED.get(tag)]
        self._article += tag == "article"
        self._code += tag in {"code", "pre"}

    @override
    def handle_endtag(self, tag: str) -> None:
        self._article -= tag == "article"
        self._code -= tag in {"code", "pre"}

    @override
    def handle_data(self, data: str) -> None:
        if self._article and not self._code:
            self.texts.append(data)


@pytest.fixture(scope="module")
def documents(site: Path) -> dict[Path, Document]:
    """The pages by their paths. The page for unknown addresses is a template without links of its own."""
    return {path: Document(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_everything_that_a_page_loads_is_a_file_of_the_site(documents: dict[Path, Document]) -> None:
    assert len(documents) > 40
    loaded = [
        (path, address)
        for path, page in documents.items()
        for address in page.loaded
        if not address.startswith("data:")
    ]
    assert loaded
    for path, address in loaded:
        assert not urlsplit(address).scheme, address
        assert (path.parent / unquote(urlsplit(address).path)).is_file(), address


def test_style_sheets_load_nothing_from_elsewhere(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_no_markdown_is_left_in_the_text_of_a_page(documents: dict[Path, Document]) -> None:
    markdown = [(path.name, text) for path, page in documents.items() for text in page.texts if MARKDOWN.search(text)]
    assert markdown == []


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
    assert [address for address in page.requests if not address.startswith(local)] == []
    assert any(address.endswith("/index.html") for address in page.requests)


async def test_the_search_finds_a_word_without_a_server(page: Page, site: Path) -> None:
    await show(page, site / "index.html")
    await page.evaluate("document.querySelector('[data-md-component=search-query]').focus()")
    await page.type("quarantined")
    # Results of the first letters are shown before those of the word.
    await page.until(f"{RESULTS}.some((each) => each.includes('/architecture.html'))")
    assert all(address.startswith(f"{site.as_uri()}/") for address in await page.evaluate(RESULTS))
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
