"""Links of Markdown texts to files of the repository: which of them the site must contain."""

import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

LINK: Final = re.compile(r"(?<=\]\()(?P<target>[^()\s#]+)(?P<anchor>#[^()\s]*)?(?=\))")
"""The target of an inline link or picture, without a title."""
SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
FENCE: Final = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+).*?^ *(?P=fence) *$", re.MULTILINE | re.DOTALL)
CODE: Final = re.compile(r"(?<!`)(`+)(?!`)[^\n]*?(?<!`)\1(?!`)")


def without_code(text: str) -> str:
    """Return *text* without its blocks and spans of code."""
    return CODE.sub("", FENCE.sub("", text))


def targets(text: str) -> Iterator[str]:
    """Yield the targets of the links in *text*, without their anchors; those in code are none."""
    for match in LINK.finditer(without_code(text)):
        yield match["target"]


def resolve(page: str, target: str) -> str | None:
    """Return the path in the repository to which a link of *page* leads, or None if it leads elsewhere."""
    if SCHEME.match(target) or target.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    return None if path == ".." or path.startswith("../") else path


def reachable(root: Path, pages: Iterable[str]) -> set[str]:
    """Return all paths below *root* to which links lead from *pages*, directly or through other pages.

    A directory is in the result as itself. Links to nothing are omitted: mkdocs reports them.
    """
    paths: set[str] = set()
    waiting = list(pages)
    while waiting:
        page = waiting.pop()
        if page in paths or not (root / page).exists():
            continue
        paths.add(page)
        if (root / page).is_dir():
            waiting += [f"{page}/{name}" for name in listed(root, page)]
        elif page.endswith(".md"):
            links = (resolve(page, target) for target in targets((root / page).read_text()))
            waiting += [link for link in links if link is not None]
    return paths


def listed(root: Path, directory: str) -> list[str]:
    """Return the names that the site shows for *directory*: its README if it has one, else its files."""
    names = sorted(file.name for file in (root / directory).iterdir() if file.is_file())
    return ["README.md"] if "README.md" in names else names


def listing(root: Path, directory: str) -> str:
    """Return the page of a *directory* without a README: a list of its files."""
    return f"# {directory}\n\n" + "".join(f"* [{name}]({name})\n" for name in listed(root, directory))


def to_pages_of_directories(root: Path, page: str, text: str) -> str:
    """Return *text*, the content of *page*, with links to directories replaced by links to their pages."""

    def replaced(match: re.Match[str]) -> str:
        path = resolve(page, match["target"])
        if path is None or not (root / path).is_dir():
            return match[0]
        return f"{match['target'].rstrip('/')}/README.md{match['anchor'] or ''}"

    return LINK.sub(replaced, text)


def destination(path: str) -> str:
    """Return the path in the site of a file of the repository. Pages of docs/ are at the top."""
    if path == "README.md":
        return "README.html"  # the top has the page docs/index.md
    inside = path.removeprefix("docs/")
    if not inside.endswith(".md"):
        return inside
    stem = inside.removesuffix(".md")
    return (stem.removesuffix("README") + "index" if posixpath.basename(stem) == "README" else stem) + ".html"
