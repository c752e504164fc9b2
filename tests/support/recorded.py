"""Recorded results in the repository: a list in JSON with one result on each line."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


def read(file: Path, kind: type[T]) -> list[T]:
    """Return the results in a file; none if it is missing."""
    return msgspec.json.decode(file.read_bytes(), type=list[kind]) if file.exists() else []  # type: ignore[valid-type]


def write(file: Path, results: Iterable[msgspec.Struct]) -> None:
    """Write *results* with one on each line, so that a diff shows those that changed."""
    file.write_bytes(b"[\n" + b",\n".join(map(msgspec.json.encode, results)) + b"\n]\n")
