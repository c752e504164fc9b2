"""The pages of the site: each is in the navigation once, links are complete addresses, and lists look as on GitHub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support.checkout import ROOT
from tools.site import links
from tools.site.lists import widened


def paths(entry: Any) -> Iterator[str]:
    """Yield the paths below one entry of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for child in entry.values() if isinstance(entry, dict) else entry:
            yield from paths(child)


LISTED: Final = list(paths(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
PAGES: Final = sorted(
    path
    for path in links.reachable(ROOT, [str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")])
    if path.endswith(".md")
)


def test_each_page_of_docs_is_listed_once_and_each_listed_page_exists() -> None:
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")}
    assert len(pages) > 40
    assert pages - set(LISTED) == set(), "add the pages to nav in mkdocs.yml"
    assert sorted(LISTED) == sorted(set(LISTED))
    assert [page for page in LISTED if not (ROOT / page).is_file()] == []


def is_complete(address: str) -> bool:
    """Return whether *address* is an https address with a host name, or an address of mail."""
    parts = urlsplit(address)
    if parts.scheme == "mailto":
        return "@" in parts.path
    return parts.scheme == "https" and "." in parts.netloc and not set(address) & set(" <>\"'`")


@pytest.mark.parametrize("page", PAGES)
def test_an_external_link_is_a_complete_address(page: str) -> None:
    external = filter(links.SCHEME.match, links.targets(Path(ROOT, page).read_text()))
    assert [address for address in external if not is_complete(address)] == []


@pytest.mark.parametrize("address", ["http://semver.org", "https://", "https://host", "https://a.b/<c>", "ftp://a.b"])
def test_an_incomplete_address_is_found(address: str) -> None:
    assert not is_complete(address)


@pytest.mark.parametrize(
    ("github", "python_markdown"),
    [
        ("* a\n  more\n  * b\n* c", "* a\n    more\n    * b\n* c"),
        ("1. a\n\n   para\n2. b", "1. a\n\n    para\n\n2. b"),
        ("10. a\n\n    para", "10. a\n\n    para"),
        ("1. a\n   * b\n     * c\n2. d", "1. a\n    * b\n        * c\n2. d"),
        (
            "1. a\n\n   ```\n   x\n     y\n\n   z\n   ```\n2. b",
            "1. a\n\n    ```\n    x\n      y\n\n    z\n    ```\n2. b",
        ),
        ("text\n* a", "text\n\n* a"),
        ("* a\n\ntext\n  more", "* a\n\ntext\n  more"),
    ],
)
def test_the_content_of_an_item_is_indented_by_four_columns(github: str, python_markdown: str) -> None:
    assert widened(github) == python_markdown


@pytest.mark.parametrize(
    "text", ["```\n* a\n  * b\n\n1. c\n```", "| a |\n| --- |\n| * b |", "*a* b\n**c** d", "a\n    b"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert widened(text) == text
