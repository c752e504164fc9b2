"""Renew deploy/docker/packages.lock: the Debian packages that the Dockerfile installs, with all their dependencies.

`make lock-packages` runs this on Debian, without root and without an image. apt-get works in a folder of its own, with
no installed package, so that the lock also has the packages of a base: a build may upgrade them.

usage: python -m tools.lock_packages [ARCHIVE]

The versions are read from the snapshot of yesterday in ARCHIVE, which is by default Debian's, and the lock names this
snapshot: so it has them, whatever Debian publishes later.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from deploy.docker.install_packages import GROUPS, INSTALL, LOCK, planned_versions

ARCHIVE: Final = "http://snapshot.debian.org/archive"
RELEASES: Final = ("bookworm", "trixie")
"""The releases that deploy/docker/README.md permits as a base, by codename."""
ARCHITECTURES: Final = ("amd64", "arm64")
KEYS: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
HEADER: Final = """\
# Debian packages that install_packages.py permits, by release and architecture. Generated: make lock-packages.
"""


def sources(release: str, archive: str, snapshot: str) -> str:
    """Return the apt sources of a *release* in a *snapshot* of *archive*."""
    suites = (("debian", release), ("debian", f"{release}-updates"), ("debian-security", f"{release}-security"))
    return "".join(f"deb [signed-by={KEYS}] {archive}/{name}/{snapshot} {suite} main\n" for name, suite in suites)


def snapshot_before(now: datetime) -> str:
    """Return the name of the first snapshot of the day before *now*: no later import changes it."""
    return f"{now - timedelta(days=1):%Y%m%d}T000000Z"


def text_of(snapshot: str, versions: Mapping[str, Mapping[str, Mapping[str, str]]]) -> str:
    """Return the lock with *versions* by release, architecture and package."""
    lines = [f'{HEADER}snapshot = "{snapshot}"']
    for release, architectures in versions.items():
        for architecture, packages in architectures.items():
            lines.append(f"\n[{release}.{architecture}]")
            lines += [f'"{name}" = "{version}"' for name, version in sorted(packages.items())]
    return "\n".join(lines) + "\n"


class Apt:
    """apt-get in *folder*, for one release and architecture, on which no package is installed."""

    def __init__(self, folder: Path, architecture: str, apt_sources: str) -> None:
        for subfolder in ("lists/partial", "cache/archives/partial", "parts"):
            (folder / subfolder).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(apt_sources)
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "root",  # its own user cannot write to the folder
            "Acquire::Check-Valid-Until": "false",
            "Acquire::Languages": "none",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": folder / "parts",
            "Dir::Etc::SourceList": folder / "sources.list",
            "Dir::Etc::SourceParts": folder / "parts",
            "Dir::State": folder,
            "Dir::State::Lists": folder / "lists",
            "Dir::State::Status": folder / "status",
        }
        self._command = ["apt-get", "-q", *(f"--option={name}={value}" for name, value in settings.items())]

    def run(self, *arguments: str) -> str:
        """Return the output of apt-get. Raise CalledProcessError."""
        command = [*self._command, *arguments]
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def main() -> None:
    """Write the lock."""
    archive = sys.argv[1].rstrip("/") if len(sys.argv) > 1 else ARCHIVE
    snapshot = snapshot_before(datetime.now(UTC))
    roots = sorted({name for group in GROUPS.values() for name in group})
    versions: dict[str, dict[str, dict[str, str]]] = {}
    for release in RELEASES:
        for architecture in ARCHITECTURES:
            sys.stderr.write(f"reading the packages of {release} for {architecture}\n")
            with TemporaryDirectory() as folder:
                apt = Apt(Path(folder), architecture, sources(release, archive, snapshot))
                apt.run("update")
                planned = planned_versions(apt.run(*INSTALL, "--simulate", *roots))
            versions.setdefault(release, {})[architecture] = planned
    LOCK.write_text(text_of(snapshot, versions))


if __name__ == "__main__":
    main()
