"""The hook of mkdocs.yml. Files keep their path in the repository, so that links work as they are written.

mkdocs reads only the files of docs/. This hook adds the pages and files outside docs/ to which they link, directly or
through each other. A directory without a README has a page that lists its files. `PROJECT_URL` is the address of the
repository, as in setup.py; without it no page links to the repository.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files, InclusionLevel
from pymdownx.slugs import slugify

from tools.site import links, lists, search

ROOT: Final = Path(os.environ.get("SITE_ROOT") or Path(__file__).parents[2])
"""SITE_ROOT names another repository, for tests."""
SLUG: Final = slugify(case="lower")
REPEATED: Final[Counter[str]] = Counter()
"""The number of headings of the present page by their anchor."""


def anchor_of(heading: str, separator: str) -> str:
    """Return the anchor of the next *heading* as GitHub makes it: a repeated one ends with -1, not with _1."""
    anchor = SLUG(heading, separator)
    repeated = REPEATED[anchor]
    REPEATED[anchor] += 1
    return f"{anchor}-{repeated}" if repeated else anchor


def on_config(config: Any) -> Any:
    """Set what mkdocs.yml cannot state."""
    url = os.environ.get("PROJECT_URL", "").rstrip("/")
    if url:
        config.repo_url, config.repo_name = url, "Repository"
    config.mdx_configs.setdefault("toc", {})["slugify"] = anchor_of
    return config


def on_files(files: Files, config: Any) -> Files:
    """Return the files with their paths in the repository, and those to which they link."""
    inside = [document for document in files if _is_in_docs(document, config)]
    for document in inside:
        files.remove(document)
    excluded = {f"docs/{document.src_uri}" for document in inside if document.inclusion is InclusionLevel.EXCLUDED}
    paths = {f"docs/{document.src_uri}" for document in inside} - excluded
    for path in sorted(links.reachable(ROOT, paths)):
        if not (ROOT / path).is_dir():
            target = links.destination(path)
            file = File(path, str(ROOT), config.site_dir, use_directory_urls=False, dest_uri=target)
        elif "README.md" not in links.listed(ROOT, path):
            file = File.generated(config, f"{path}/README.md", content=links.listing(ROOT, path))
        else:
            continue
        # Each page of docs/ must be in the navigation.
        if path not in paths:
            file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001  # called by keyword
    """Return the text of a page for Python-Markdown."""
    REPEATED.clear()
    return lists.widened(links.to_pages_of_directories(ROOT, page.file.src_uri, markdown))


def on_post_build(config: Any) -> None:
    """Make the search work without a server."""
    search.write_worker(Path(config.site_dir))


def _is_in_docs(file: File, config: Any) -> bool:
    return file.src_dir is not None and Path(file.src_dir) == Path(config.docs_dir)
