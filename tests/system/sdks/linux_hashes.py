"""Removal of the hashes from Python's locks that no installation on Linux needs.

`python -m tests.system.sdks.linux_hashes LOCK...` rewrites locks. `uv pip compile --generate-hashes` writes the hashes
of all files of a release, for cryptography more than forty. The applications run only on Linux, so that their locks
permit only the files that pip selects there.
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

VERSIONS: Final = ("3.11", "3.12", "3.13", "3.14")
"""The versions of Python that the project supports."""
ARCHITECTURES: Final = ("x86_64", "aarch64")
GLIBC: Final = range(36, 16, -1)
"""Minor versions of glibc, from that of Debian 12 to the oldest that wheels name."""
_REQUIREMENT: Final = re.compile(r"^(\S[^\\\n]*) \\\n((?: +--hash=\S+(?: \\)?\n)+)", re.MULTILINE)


def selected(requirements: Path, version: str, architecture: str) -> set[str]:
    """Return the hashes of the files that pip selects on Linux. Nothing is installed."""
    platforms = [f"--platform=manylinux_2_{minor}_{architecture}" for minor in GLIBC]
    platforms += [f"--platform={kind}_{architecture}" for kind in ("manylinux2014", "manylinux2010", "manylinux1")]
    interpreter = [*platforms, f"--python-version={version}", "--implementation=cp"]
    folder = requirements.with_suffix(".target")  # pip demands one for another interpreter, and does not write to it
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    done = subprocess.run(
        [*command, *interpreter, "--target", folder, "--report=-", "-r", requirements],
        stdout=subprocess.PIPE,
        check=True,
    )
    return {
        package["download_info"]["archive_info"]["hashes"]["sha256"] for package in json.loads(done.stdout)["install"]
    }


def reduced(lock: str) -> str:
    """Return the text of a lock without the hashes, and the requirements, that pip selects on no Linux."""
    hashed = [(name, re.findall(r"--hash=sha256:(\w+)", hashes)) for name, hashes in _REQUIREMENT.findall(lock)]
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text("".join(f"{name}\n" for name, _ in hashed))
        needed = {
            sha256
            for version, architecture in itertools.product(VERSIONS, ARCHITECTURES)
            for sha256 in selected(requirements, version, architecture)
        }
    kept = [(name, [f"    --hash=sha256:{sha256}" for sha256 in hashes if sha256 in needed]) for name, hashes in hashed]
    return "".join(" \\\n".join([name, *hashes]) + "\n" for name, hashes in kept if hashes)


def main() -> None:
    """Rewrite each lock."""
    for lock in map(Path, sys.argv[1:]):
        lock.write_text(reduced(lock.read_text()))


if __name__ == "__main__":
    main()
