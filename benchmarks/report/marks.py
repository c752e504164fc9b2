"""The generated part of a document, between two marks that name the program."""

from pathlib import Path
from typing import Final

END: Final = "<!-- end of what is made -->"


def standing(document: Path, maker: str) -> str:
    """Return the text between the marks. *maker* is the module that generates it."""
    return _parts(document, maker)[1].strip()


def put(document: Path, maker: str, made: str) -> None:
    """Replace the text between the marks."""
    before, _, after = _parts(document, maker)
    document.write_text(f"{before}\n\n{made}\n\n{after}")


def _parts(document: Path, maker: str) -> tuple[str, str, str]:
    """Split into the parts before, between and after the marks. Raises ValueError without such a pair."""
    begin = f"<!-- made by: python -m {maker} -->"
    before, opening, rest = document.read_text().partition(begin)
    between, ended, after = rest.partition(END)
    if not opening or not ended:
        raise ValueError(
            f"{document.name} has no lines {begin} and {END}: insert them where the generated part belongs"
        )
    return before + begin, between, END + after
