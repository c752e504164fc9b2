"""The cgroup of a node: a group in each controller of cgroup v1, or one group of cgroup v2."""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.system.node.processes import BedError, wait_for

ROOT: Final = Path("/sys/fs/cgroup")
V2: Final = (ROOT / "cgroup.controllers").exists()
"""Whether the controllers of this machine belong to a hierarchy of v2."""
V1_CONTROLLERS: Final = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
CONTROLLERS: Final[Sequence[str]] = (
    () if V2 else [controller for controller in V1_CONTROLLERS if (ROOT / controller).is_dir()]
)
"""The controllers of cgroup v1 that this machine has."""
UNIFIED: Final = ROOT / "unified"
"""An additional hierarchy of cgroup v2 without controllers, to which programs of the kernel can be attached."""
REMOVAL_SECONDS: Final = 10
"""How long the kernel may need to release the group of a killed process."""


class Cgroup:
    """The group *name* of one node."""

    def __init__(self, name: str) -> None:
        self.folders = [ROOT / controller / name for controller in CONTROLLERS] or [ROOT / name]
        if CONTROLLERS and (UNIFIED / "cgroup.procs").exists():
            self.folders.append(UNIFIED / name)

    @property
    def entrances(self) -> list[Path]:
        """The files to which a process writes its id to enter the node's group."""
        return [folder / "cgroup.procs" for folder in self.folders]

    @property
    def later_entrances(self) -> list[Path]:
        """The same for processes after the first: with cgroup v2 the group itself then has no processes."""
        return [self.folders[0] / "node" / "cgroup.procs"] if V2 else self.entrances

    def create(self) -> None:
        """Create the group. Raise OSError."""
        for folder in self.folders:
            folder.mkdir()
            if folder.parent.name == "cpuset":
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    (folder / setting).write_text((folder.parent / setting).read_text())

    def remove(self) -> None:
        """Remove the group with all groups in it, whose processes must have ended or end within REMOVAL_SECONDS."""
        for folder in self.folders:
            children = [path for path in folder.rglob("*") if path.is_dir()]
            for child in (*sorted(children, reverse=True), folder):
                with contextlib.suppress(BedError):
                    wait_for(functools.partial(_removed, child), REMOVAL_SECONDS, f"{child} remains")


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
