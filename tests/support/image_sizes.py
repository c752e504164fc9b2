"""dict[str, int] of an image's files in groups, and their comparison with the record in image_sizes.json.

`python -m tests.support.image_sizes` records those of the images that `tools/local-images` has built.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from tests.support.checkout import ROOT

RECORD: Final = Path(__file__).with_name("image_sizes.json")
PROGRAMS: Final = ("nmi", "mic", "podidctl", "demo")
GROWTH_PERCENT: Final = 5
TOTAL: Final = "total"
OTHER: Final = "other files"
SMALL: Final = 400_000
"""Bytes below which the record has no group for a package or directory: one more file is not growth there."""
RENEW: Final = (
    "if this is intended, run `.venv/bin/python -m tests.support.image_sizes` and commit tests/support/image_sizes.json"
)

Files = dict[PurePosixPath, int]
"""Bytes by path in the image."""


def list_files(root: Path) -> Files:
    """Return the regular files of the image whose root directory is *root*."""
    return {
        PurePosixPath("/") / path.relative_to(root): path.stat().st_size
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def group_of(path: PurePosixPath) -> str:
    """Return the group of a file: its Python package, the standard library, or its directory."""
    parts = path.parts[1:]
    if "site-packages" in parts:
        return f"package {parts[parts.index('site-packages') + 1]}"
    if "lib" in parts and any(part.startswith("python3") for part in parts[1:-1]):
        return "standard library"
    if parts[:2] == ("usr", "lib") and "-linux-gnu" in path.as_posix():
        return "extensions of iptables" if "xtables" in parts else "shared libraries"
    return "/" + "/".join(parts[:-1][:2])


def measure(files: Files, groups: Collection[str] | None = None) -> dict[str, int]:
    """Return the total, and the sizes of *groups*, by default of those that are not small. The rest is other files."""
    sizes = Counter[str]()
    for path, size in files.items():
        sizes[group_of(path)] += size
    measured = Counter({TOTAL: sizes.total()})
    for group, size in sorted(sizes.items()):
        named = size >= SMALL if groups is None else group in groups
        measured[group if named else OTHER] += size
    return dict(measured)


def find_growth(record: dict[str, int], files: Files) -> Iterator[str]:
    """Yield a message for each group, and for the total, that is more than 5 % larger than in *record*."""
    for group, size in measure(files, record).items():
        recorded = record.get(group, 0)
        if size * 100 > recorded * (100 + GROWTH_PERCENT):
            of_group = {path: size for path, size in files.items() if group in measure({path: size}, record)}
            largest = sorted(of_group.items(), key=lambda item: -item[1])[:5]
            listed = ", ".join(f"{path} ({bytes_:,})" for path, bytes_ in largest)
            yield f"{group} grew from {recorded:,} to {size:,} bytes; its largest files: {listed}"


if __name__ == "__main__":
    built = ROOT / "build" / "images" / "rootfs"
    RECORD.write_text(
        json.dumps({program: measure(list_files(built / program)) for program in PROGRAMS}, indent=1) + "\n"
    )
