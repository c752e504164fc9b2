"""The wheel in a new virtual environment, with the locked versions of its dependencies."""

import json
import re
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from tools.release.commands import ReleaseError, run
from tools.release.summary import artifact

EXTRAS: Final = "demo,mic,nmi,podidctl"
SOURCES: Final = ("python-iptables",)
"""Dependencies that have no wheel."""
PIP: Final = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
ELSEWHERE: Final = Path("/")
"""A working directory outside this tree."""
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
COMMANDS: Final[tuple[tuple[str, ...], ...]] = (
    ("nmi", "--version"),
    ("nmi", "--help"),
    ("mic", "--version"),
    ("mic", "--help"),
    ("podidctl", "--version"),
    ("podidctl", "--help"),
    ("kubectl-podidentity", "--version"),
)


def install(wheel: Path, locks: Path, home: Path) -> Path:
    """Install *wheel* with its extras into a new environment at *home*, and return that environment's Python.

    The versions of its dependencies are those of *locks*, and each archive has one of the hashes there. pip's own check
    needs a list of exactly these packages, so its report is checked. No code of a package runs before. Raise
    ReleaseError.
    """
    run(sys.executable, "-m", "venv", "--without-pip", home)
    lock, python, report = locks.read_text(), home / "bin" / "python", home / "report.json"
    compiled = _compile(lock, home)
    (home / "versions.txt").write_text(without_hashes(lock))
    pip = [*PIP[:3], f"--python={python}", *PIP[3:], "install", "--no-compile", "--only-binary=:all:"]
    pip += [f"--find-links={compiled}", f"--constraint={home / 'versions.txt'}", f"--report={report}"]
    run(*pip, f"aad-pod-identity[{EXTRAS}] @ {wheel.resolve().as_uri()}", cwd=ELSEWHERE)
    own = {artifact(path).sha256 for path in (wheel, *compiled.iterdir())}
    if foreign := unlocked(json.loads(report.read_text()), lock, own):
        raise ReleaseError(f"these archives have no hash in {locks.name}: {', '.join(foreign)}; run make lock")
    return python


def _compile(lock: str, home: Path) -> Path:
    """Build the packages of SOURCES from their locked archives, and return the folder of the wheels."""
    entries = re.findall(rf"^(?:{'|'.join(SOURCES)})==(?:.*\\\n)+.*\n", lock, re.MULTILINE)
    (home / "sources.txt").write_text("".join(entries))
    wheels = home / "wheels"
    command = ["wheel", "--no-deps", "--no-build-isolation", "--require-hashes", f"--wheel-dir={wheels}"]
    run(*PIP, *command, f"--requirement={home / 'sources.txt'}", cwd=ELSEWHERE)
    return wheels


def without_hashes(lock: str) -> str:
    """Return the lines of a lock without their hashes, as constraints for pip."""
    return re.sub(r" *\\\n +--hash=\S+", "", lock)


def unlocked(report: Mapping[str, Any], lock: str, own: AbstractSet[str]) -> list[str]:
    """Return the archives in pip's installation *report* whose SHA-256 is neither in *lock* nor in *own*."""
    hashes = {*own, *re.findall(r"--hash=sha256:([0-9a-f]{64})", lock)}
    archives = [package["download_info"] for package in report["install"]]
    return [archive["url"] for archive in archives if archive["archive_info"]["hashes"]["sha256"] not in hashes]


def try_programs(python: Path, version: str) -> None:
    """Run the programs of the environment of *python*; those with --version must print *version*.

    Raise ReleaseError. The programs do not see this tree.
    """
    for program, option in COMMANDS:
        output = run(python.parent / program, option, cwd=ELSEWHERE, environment=ENVIRONMENT)
        if option == "--version" and version not in output.split():
            raise ReleaseError(f"{program} --version prints {output.strip()!r} without {version}")
