"""Checksums of artifacts."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUMS: Final = "SHA256SUMS"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of the release."""

    name: str
    sha256: str


def artifact(path: Path) -> Artifact:
    """Return name and checksum of the file at *path*."""
    with path.open("rb") as file:
        return Artifact(path.name, hashlib.file_digest(file, "sha256").hexdigest())


def sums(artifacts: Iterable[Artifact]) -> str:
    """Return the checksums in the form that `sha256sum --check` reads, sorted by name."""
    return "".join(f"{file.sha256}  {file.name}\n" for file in sorted(artifacts, key=lambda file: file.name))


def differences(first: Sequence[Path], second: Sequence[Path]) -> Iterator[str]:
    """Yield a message for each file of the *first* build that differs from the one of the *second*, in their order."""
    for built, rebuilt in zip(first, second, strict=True):
        if built.name != rebuilt.name or built.read_bytes() != rebuilt.read_bytes():
            yield f"two builds differ: compare {built} with {rebuilt}, for example by diffoscope"
