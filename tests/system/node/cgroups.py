"""The cgroup of a node: a group in each controller of cgroup v1, or one group of cgroup v2."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
V1_CONTROLLERS: Final = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
UNIFIED: Final = "unified"
"""An additional hierarchy of cgroup v2 without controllers, to which programs of the kernel can be attached."""
REMOVAL_SECONDS: Final = 10
"""How long the kernel may need to release the group of a killed process."""


class CgroupError(Exception):
    """The machine's cgroups do not permit a node. The message names the reason."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The group *name* of one node. *root* is where the machine's cgroups are mounted."""

    name: str
    root: Path = ROOT

    @property
    def v2(self) -> bool:
        return (self.root / "cgroup.controllers").exists()

    @property
    def controllers(self) -> Sequence[str]:
        """The controllers of cgroup v1 that the machine has; empty with cgroup v2."""
        return () if self.v2 else [each for each in V1_CONTROLLERS if (self.root / each).is_dir()]

    @property
    def folders(self) -> list[Path]:
        groups = [self.root / each / self.name for each in self.controllers]
        if groups and (self.root / UNIFIED / "cgroup.procs").exists():
            groups.append(self.root / UNIFIED / self.name)
        return groups or [self.root / self.name]

    @property
    def entrances(self) -> list[Path]:
        """The files to which a process writes its id to enter the node's group."""
        return [folder / "cgroup.procs" for folder in self.folders]

    @property
    def later_entrances(self) -> list[Path]:
        """The same for processes after the first: with cgroup v2 the group itself then has no processes."""
        return [self.root / self.name / "node" / "cgroup.procs"] if self.v2 else self.entrances

    def create(self) -> None:
        """Create the group. Raise CgroupError."""
        try:
            for folder in self.folders:
                folder.mkdir()
                if folder.parent.name == "cpuset":
                    for setting in ("cpuset.cpus", "cpuset.mems"):
                        (folder / setting).write_text((folder.parent / setting).read_text())
        except OSError as failure:
            raise CgroupError(f"cannot create the cgroup {folder}: {failure.strerror}") from failure

    def remove_children(self) -> None:
        """Remove all groups in this group. Their processes must have ended, or end within REMOVAL_SECONDS."""
        for folder in self.folders:
            for child in sorted((path for path in folder.rglob("*") if path.is_dir()), key=_depth, reverse=True):
                _remove(child)

    def remove(self) -> None:
        """Remove the group with all groups in it. Do nothing if it does not exist."""
        self.remove_children()
        for folder in self.folders:
            _remove(folder)


def _depth(path: Path) -> int:
    return len(path.parts)


def _remove(folder: Path) -> None:
    end = time.monotonic() + REMOVAL_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
            try:
                folder.rmdir()
            except OSError as failure:
                if isinstance(failure, FileNotFoundError):
                    raise
                time.sleep(0.1)
                continue
        return
