"""Anchors of headings, as GitHub makes them."""

from collections import Counter
from collections.abc import Callable


class Anchors:
    """The anchors of one page: a repeated heading gets the suffix -1, -2 and so on; Python-Markdown would add _1."""

    def __init__(self, slugify: Callable[[str, str], str]) -> None:
        self._slugify = slugify
        self._seen: Counter[str] = Counter()

    def start_page(self) -> None:
        """Delete the headings of the previous page."""
        self._seen.clear()

    def __call__(self, heading: str, separator: str) -> str:
        """Return the anchor of the next *heading*."""
        anchor = self._slugify(heading, separator)
        repeated = self._seen[anchor]
        self._seen[anchor] += 1
        return f"{anchor}-{repeated}" if repeated else anchor
