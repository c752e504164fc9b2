"""The built site: its links lead to existing places, it loads nothing from elsewhere, and no Markdown is left."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest
from typing_extensions import override

pytestmark = pytest.mark.tools

LOADED: Final = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "image": "href"}
"""Elements that load their address when the page opens."""
MARKDOWN: Final = re.compile(r"```|^\||\| *-{3}|\n([*-]|\d+\.) |\]\(|\*\*|^#+ ")


class Document(HTMLParser):
    """The links, anchors, loaded addresses and texts of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.texts: list[str] = []
        self._article = 0
        self._code = 0
        self.feed(path.read_text())

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if LOADED.get(tag) in given:
            self.loaded.append(given[LOADED[tag]])
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


def broken(path: Path, link: str, documents: dict[Path, Document]) -> bool:
    """Return whether *link* of the page at *path* leads to a file or an anchor that does not exist."""
    parts = urlsplit(link)
    if parts.scheme:
        return False
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.suffix != ".html":
        return not target.is_file()
    return target not in documents or bool(parts.fragment and unquote(parts.fragment) not in documents[target].anchors)


def test_every_page_and_anchor_that_a_link_names_exists(documents: dict[Path, Document]) -> None:
    assert len(documents) > 40
    found = [
        (path.name, link) for path, page in documents.items() for link in page.links if broken(path, link, documents)
    ]
    assert found == []


def test_a_broken_link_would_be_found(documents: dict[Path, Document], site: Path) -> None:
    page = site / "index.html"
    assert broken(page, "lost.html", documents)
    assert broken(page, "security.html#lost", documents)
    assert not broken(page, "security.html#what-the-promises-rest-on", documents)


def test_everything_that_a_page_loads_is_a_file_of_the_site(documents: dict[Path, Document]) -> None:
    loaded = [(path, each) for path, page in documents.items() for each in page.loaded if not each.startswith("data:")]
    assert loaded
    assert [each for path, each in loaded if broken(path, each, documents) or urlsplit(each).scheme] == []


def test_style_sheets_load_nothing_from_elsewhere(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_no_markdown_is_left_in_the_text_of_a_page(documents: dict[Path, Document]) -> None:
    found = [(path.name, text) for path, page in documents.items() for text in page.texts if MARKDOWN.search(text)]
    assert found == []
