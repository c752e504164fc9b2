"""`make site` fails for broken links, and for pages that the navigation omits."""

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.sentences import ROOT
from tests.docs.site.building import build

pytestmark = pytest.mark.tools
INDEX = "# Start\n\n[other](other.md#part) [again](other.md#part-1) [readme](../README.md) [folder](../folder)\n"


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


def test_pages_of_docs_and_pages_outside_are_in_the_site(repository: Path) -> None:
    done = build(repository, repository / "site")
    assert done.returncode == 0, done.stderr
    index = (repository / "site/index.html").read_text()
    for link in ("other.html#part", "README.html", "folder/index.html"):
        assert f'href="{link}"' in index
    assert 'href="data.json"' in (repository / "site/folder/index.html").read_text()
    assert (repository / "site/folder/data.json").read_text() == "{}"
    assert 'href="index.html"' in (repository / "site/README.html").read_text()


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
