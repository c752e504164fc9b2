"""Reader and writer of manifests in files, directories and standard input."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from podidctl.migration.field_spellings import Rewritten, UnreadableError, rewrite
from podidentity.exits import StartError

STDIN: Final = Path("-")
SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})


@dataclass(frozen=True)
class Manifest:
    """One file and its rewritten text."""

    path: Path
    before: str
    done: Rewritten


def read_manifests(paths: Sequence[Path]) -> list[Manifest]:
    """Return the manifests at *paths*; from a directory all files with a known suffix, sorted. Raises StartError."""
    return [_one(file) for path in paths for file in _files(path)]


def join_manifests(manifests: Sequence[Manifest]) -> str:
    """Return all manifests as one stream of documents. JSON files stay JSON, which YAML permits."""
    parts = []
    for each in manifests:
        text = each.done.text
        parts.append(text if text.endswith("\n") or not text else f"{text}\n")
    return "".join(
        part if not number or part.startswith(("---", "%")) else f"---\n{part}" for number, part in enumerate(parts)
    )


def _files(path: Path) -> list[Path]:
    if path == STDIN or not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise StartError(
            f"{path} contains no file that ends in {', '.join(sorted(SUFFIXES))}: pass the manifests themselves"
        )
    return found


def _one(path: Path) -> Manifest:
    try:
        text = (sys.stdin.buffer.read() if path == STDIN else path.read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise StartError(
            f"{path} cannot be read ({why}): pass a manifest, a directory of them, or - for stdin"
        ) from error
    try:
        return Manifest(path, text, rewrite(text))
    except UnreadableError as error:
        raise StartError(f"{path}: {error}; render templates first (helm template), and correct other files") from error
