"""Links to other sites are complete addresses. No test requests them."""

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.docs.sentences import ROOT
from tools.site import links

PAGES: Final = sorted(
    path
    for path in links.reachable(ROOT, [str(each.relative_to(ROOT)) for each in (ROOT / "docs").rglob("*.md")])
    if path.endswith(".md")
)


def is_complete(address: str) -> bool:
    """Return whether *address* is an https address with a host name, or an address of mail."""
    parts = urlsplit(address)
    if parts.scheme == "mailto":
        return "@" in parts.path
    return parts.scheme == "https" and "." in parts.netloc and not set(address) & set(" <>\"'`")


@pytest.mark.parametrize("page", PAGES)
def test_an_external_link_is_a_complete_address(page: str) -> None:
    assert [each for each in links.external(Path(ROOT, page).read_text()) if not is_complete(each)] == []


@pytest.mark.parametrize("address", ["http://semver.org", "https://", "https://host", "https://a.b/<c>", "ftp://a.b"])
def test_an_incomplete_address_is_found(address: str) -> None:
    assert not is_complete(address)
