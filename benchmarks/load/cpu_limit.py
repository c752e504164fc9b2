"""A limit of CPU time for one program, as a container's `limits.cpu`: a cgroup of version 1 or 2. Needs root."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
PERIOD_US: Final = 100_000
"""The kubelet's default."""
REMOVAL_SECONDS: Final = 10.0
"""How long the kernel may need to release the group of an ended process."""


@dataclass(frozen=True, slots=True)
class CpuLimit:
    """The group with the limit. `limited` creates it."""

    folder: Path

    def enter(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs *argv* in the group."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *argv]


def possible() -> bool:
    """Return whether this process can create such a group."""
    try:
        with limited(1.0):
            return True
    except OSError:
        return False


@contextmanager
def limited(cores: float) -> Iterator[CpuLimit]:
    """Create a group that may use this number of cores, and remove it at the end. Raises OSError without permission."""
    second = (ROOT / "cgroup.controllers").exists()
    if second and "cpu" not in (ROOT / "cgroup.subtree_control").read_text().split():
        (ROOT / "cgroup.subtree_control").write_text("+cpu")
    folder = (ROOT if second else ROOT / "cpu") / f"nmi-benchmark-{os.getpid()}"
    folder.mkdir()
    try:
        quota = round(cores * PERIOD_US)
        if second:
            (folder / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota))
        yield CpuLimit(folder)
    finally:
        until = time.monotonic() + REMOVAL_SECONDS
        while folder.exists() and time.monotonic() < until:
            with contextlib.suppress(OSError):  # its processes are ending
                folder.rmdir()
                break
            time.sleep(0.05)
