"""The memory limit of this process's cgroup: the smallest limit of the cgroup and its parents."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc/self")
UNLIMITED: Final = 1 << 60
"""Bytes. Version 1 of cgroups reports the largest multiple of a page if there is no limit."""


def memory_limit(proc: Path = PROC) -> int | None:
    """Return the limit in bytes; None if there is none, or if it cannot be read. Blocks for file reads.

    Kernel: Documentation/admin-guide/cgroup-v2.rst (memory.max), cgroup-v1/memory.rst (memory.limit_in_bytes).
    """
    try:
        limits = [limit for file in _files(proc) if (limit := _limit(file)) is not None]
    except (OSError, ValueError, UnicodeDecodeError):
        return None
    return min(limits, default=None)


def _files(proc: Path) -> Iterator[Path]:
    """Return the files that contain a limit, from the process's cgroup up to the root of the mount."""
    paths = {}
    for line in (proc / "cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and controllers == "":
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, point = before.split(" ")[3:5]
        if kind not in paths or (kind == "cgroup" and "memory" not in options.split(" ")[-1].split(",")):
            continue
        name = "memory.max" if kind == "cgroup2" else "memory.limit_in_bytes"
        top = Path(point)
        # In a container the path may be the node's, with only the container's own part mounted.
        inside = paths[kind].removeprefix(root if root != "/" else "").strip("/")
        innermost = top / inside if paths[kind].startswith(root) else top
        for directory in (innermost, *innermost.parents):
            yield directory / name
            if directory == top:
                break


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:  # the root has no such file
        return None
    if text == "max" or not text.isdecimal():
        return None
    limit = int(text)
    return limit if 0 < limit < UNLIMITED else None
