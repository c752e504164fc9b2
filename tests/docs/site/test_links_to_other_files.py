"""The files that the site must contain follow from the links in its pages."""

from pathlib import Path

import pytest

from tools.site import links


def written(root: Path, files: dict[str, str]) -> Path:
    """Write *files* below *root* and return it."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_a_link_is_found_with_and_without_an_anchor() -> None:
    assert list(links.targets("[a](x.md) ![b](y.png) [c](z.md#part)")) == ["x.md", "y.png", "z.md"]


@pytest.mark.parametrize(
    "text", ["`[a](x.md)`", "```\n[a](x.md)\n```", "1. b\n\n   ```\n   [a](x.md)\n   ```", "[a](#part)"]
)
def test_code_and_anchors_of_the_same_page_are_no_links(text: str) -> None:
    assert list(links.targets(text)) == []


def test_a_link_after_a_block_of_code_is_found() -> None:
    assert list(links.targets("```\n`\n```\n\n[a](x.md) `b` [c](y.md)")) == ["x.md", "y.md"]


@pytest.mark.parametrize(
    ("target", "path"),
    [("../README.md", "README.md"), ("b.md", "docs/b.md"), ("../../b.md", None), ("https://c", None), ("/b", None)],
)
def test_a_link_leads_to_a_path_of_the_repository_or_elsewhere(target: str, path: str | None) -> None:
    assert links.resolve("docs/a.md", target) == path


def test_pages_that_only_other_pages_name_are_reachable(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        {
            "docs/a.md": "[b](../deploy/b.md) [missing](../c.md)",
            "deploy/b.md": "[picture](d.png)",
            "deploy/d.png": "",
            "deploy/unnamed.md": "",
        },
    )
    assert links.reachable(root, ["docs/a.md"]) == {"docs/a.md", "deploy/b.md", "deploy/d.png"}


def test_a_directory_has_its_readme_or_else_all_its_files(tmp_path: Path) -> None:
    root = written(tmp_path, {"a.md": "[b](b) [c](c/)", "b/README.md": "", "b/x.txt": "", "c/y.txt": "", "c/z.txt": ""})
    found = links.reachable(root, ["a.md"])
    assert found == {"a.md", "b", "b/README.md", "c", "c/y.txt", "c/z.txt"}
    assert links.listing(root, "c") == "# c\n\n* [y.txt](y.txt)\n* [z.txt](z.txt)\n"


def test_a_link_to_a_directory_leads_to_its_page(tmp_path: Path) -> None:
    root = written(tmp_path, {"docs/a.md": "", "b/x.txt": ""})
    text = "[b](../b) [b](../b/) [x](../b/x.txt) [e](https://b)"
    expected = "[b](../b/README.md) [b](../b/README.md) [x](../b/x.txt) [e](https://b)"
    assert links.to_pages_of_directories(root, "docs/a.md", text) == expected


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("docs/index.md", "index.html"),
        ("docs/runbooks/README.md", "runbooks/index.html"),
        ("docs/overview.svg", "overview.svg"),
        ("deploy/docker/README.md", "deploy/docker/index.html"),
        ("CHANGELOG.md", "CHANGELOG.html"),
        ("README.md", "README.html"),
        ("LICENSE", "LICENSE"),
    ],
)
def test_each_file_has_an_address_of_its_own(path: str, address: str) -> None:
    assert links.destination(path) == address
