"""Folders of sandboxes: logs, configuration and the socket for faults. Each function blocks."""

import os
import shutil
import tempfile
from pathlib import Path

from podidentity_sandbox import namespaces
from podidentity_sandbox.fault_control import SOCKET_NAME


def running_folders() -> list[Path]:
    """Return the folders of this user's running sandboxes that accept faults."""
    return [folder for folder in _own_folders() if is_running(folder)]


def is_running(folder: Path) -> bool:
    """Return whether the sandbox with this folder accepts faults."""
    return (folder / SOCKET_NAME).exists() and not namespaces.orphaned(folder.name)


def folder_of_namespace(namespace: str) -> Path | None:
    """Return the folder of this user's sandbox to which the network namespace of this full name belongs."""
    folders = _own_folders()
    return next((folder for folder in folders if namespace.startswith(f"{folder.name.rpartition('-')[0]}-")), None)


def _own_folders() -> list[Path]:
    folders = sorted(Path(tempfile.gettempdir()).glob(f"{namespaces.PREFIX}-*"))
    return [folder for folder in folders if folder.is_dir() and folder.stat().st_uid == os.geteuid()]


def new_folder() -> Path:
    """Create a folder for this user alone. Remove the folders, with secrets, of this user's killed sandboxes."""
    for left in _own_folders():
        if namespaces.orphaned(left.name):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{namespaces.owner()}-"))
