"""The part of a document that a program makes, between two marks that name the program."""

from pathlib import Path
from typing import Final

END: Final = "<!-- end of what is made -->"


def standing(document: Path, maker: str) -> str:
    """What stands between the marks now. *maker* is the module that makes it."""
    return _parts(document, maker)[1].strip()


def put(document: Path, maker: str, made: str) -> None:
    """Replace what stands between the marks."""
    before, _, after = _parts(document, maker)
    document.write_text(f"{before}\n\n{made}\n\n{after}")


def _parts(document: Path, maker: str) -> tuple[str, str, str]:
    """Up to the first mark, between the marks, from the second on. Raises ValueError when there is no such pair."""
    begin = f"<!-- made by: python -m {maker} -->"
    before, found, rest = document.read_text().partition(begin)
    between, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{document.name} has no lines {begin} and {END}: put them where the made part belongs")
    return before + begin, between, END + after
