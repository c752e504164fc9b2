"""Install one program with its dependencies into /opt/podidentity. The Dockerfile runs this offline.

usage: install_program.py nmi|mic|podidctl|demo

The dependencies are those of the program's extra in the wheel; /wheels contains exactly one version of each, that of
requirements.lock. The wheel contains all programs: this script removes the packages and commands of the others, also
from the list of installed files. It also removes what no program uses when it runs: tests, sources in C and Cython,
type stubs, commands of the dependencies, and symbol tables of compiled modules. Bytecode contains no times, so that the
same sources give the same files.
"""

import base64
import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

TARGET = Path("/opt/podidentity")
WHEELS, DIST = Path("/wheels"), Path("/dist")
PACKAGES = {
    "nmi": {"_native", "podidentity", "nmi"},
    "mic": {"podidentity", "mic"},
    "podidctl": {"podidentity", "nmi", "mic", "podidctl"},
    "demo": {"podidentity_demo"},
}
COMMANDS = {"nmi": "nmi", "mic": "mic", "podidctl": "podidctl", "demo": "podidentity-demo"}
# Modules of a shared package that need the extra of one program, which alone imports them.
OF_ONE_PROGRAM = {
    "podidentity/http_client/connection.py": "nmi",
    "podidentity/http_client/session.py": "nmi",
}
# The demo imports nothing of this project, so it does not need the common dependencies either.
OWN_EXTRA_ONLY = {"demo"}
# In a pod the programs read the service account's files. The package for kubeconfigs would double an image.
OMITTED_EXTRAS = {"kubeconfig"}

UNUSED = (
    # Tests, and modules that only tests import.
    *("*/tests/**/*", "aiohttp/pytest_plugin.py", "aiohttp/test_utils.py", "uvloop/_testbase.py"),
    # Sources of compiled modules, and type stubs. Tracebacks need the sources of _native.
    *(f"**/*.{suffix}" for suffix in ("c", "h", "hash", "pxd", "pxi", "pyi", "pyx")),
)


def requirements(program: str, metadata: bytes) -> list[str]:
    """Return the program's requirements in the wheel's METADATA, without the marker of the extra.

    An extra that consists of other extras of this project has their requirements, except those of OMITTED_EXTRAS.
    """
    lines = message_from_bytes(metadata).get_all("Requires-Dist", [])
    needed, extras = [], {program}
    for line in [*lines, *lines]:  # twice, because the lines of an extra can precede those that include it
        if (others := re.match(r"aad-pod-identity\[([\w,-]+)\]", line)) and extra_of(line) in extras:
            extras |= set(others[1].split(",")) - OMITTED_EXTRAS
    for line in lines:
        extra = extra_of(line)
        plain = re.sub(r"""(?:\s+and\s+)?\(?extra == ['"][\w-]+['"]\)?""", "", line).rstrip(" ;")
        if line.startswith("aad-pod-identity["):
            continue
        if (extra is None and program not in OWN_EXTRA_ONLY) or extra in extras:
            needed.append(plain)
    return needed


def extra_of(line: str) -> str | None:
    """Return the extra to which a requirement belongs, or None for a requirement of every program."""
    match = re.search(r"""extra == ['"]([\w-]+)['"]""", line)
    return match[1] if match else None


def remove_other_programs(site: Path, program: str) -> None:
    """Remove the other programs' packages, and all commands except the program's, from the files and the lists."""
    (own,) = site.glob("aad_pod_identity-*.dist-info/RECORD")
    for record in site.glob("*.dist-info/RECORD"):
        for row in csv.reader(record.read_text().splitlines()):
            file = (site / row[0]).resolve()
            top = row[0].split("/")[0]
            if file.parent == TARGET / "bin":
                unused = file.name != COMMANDS[program]
            else:
                foreign = top not in PACKAGES[program] and not top.endswith(".dist-info")
                unused = record == own and (foreign or OF_ONE_PROGRAM.get(row[0], program) != program)
            if unused:
                file.unlink()
    update_records(site)


def remove_unused(site: Path) -> None:
    """Remove files that the programs do not use when they run, and the symbol tables of compiled modules."""
    for pattern in UNUSED:
        for path in site.glob(pattern):
            if path.is_file() and not (path.suffix == ".pyx" and path.parent == site / "_native"):
                path.unlink()
    compiled = [str(path) for path in site.rglob("*.so*") if path.is_file()]
    subprocess.run(["/usr/bin/strip", "--strip-unneeded", *compiled], check=True)
    update_records(site)


def update_records(site: Path) -> None:
    """Write the lists of installed files for the files that exist, with their present hashes. Remove empty folders."""
    for record in site.glob("*.dist-info/RECORD"):
        kept = []
        for name, digest, _ in csv.reader(record.read_text().splitlines()):
            file = site / name
            if file.exists():
                content = file.read_bytes() if digest else b""
                encoded = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
                kept.append([name, f"sha256={encoded}", len(content)] if digest else [name, "", ""])
        with record.open("w", newline="") as out:
            csv.writer(out, lineterminator="\n").writerows(kept)
    for folder in sorted(site.rglob("*/"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def main() -> None:
    """Install the program that the first argument names."""
    program = sys.argv[1]
    (wheel,) = DIST.glob("aad_pod_identity-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [member for member in opened.namelist() if member.endswith(".dist-info/METADATA")]
        needed = requirements(program, opened.read(name))
    base = sys._base_executable  # type: ignore[attr-defined]  # noqa: SLF001 - the Python that the final image has, too
    subprocess.run([base, "-m", "venv", "--without-pip", "--symlinks", str(TARGET)], check=True)
    python = TARGET / "bin" / "python3"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-index", "--no-compile"]
    subprocess.run([*pip, f"--find-links={WHEELS}", *needed], check=True)
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    (site,) = TARGET.glob("lib/python3*/site-packages")
    remove_other_programs(site, program)
    remove_unused(site)
    for script in (TARGET / "bin").glob("[Aa]ctivate*"):
        script.unlink()
    shutil.rmtree(TARGET / "include", ignore_errors=True)
    (TARGET / ".gitignore").unlink(missing_ok=True)  # venv's, from Python 3.13 on
    compiled = [str(python), "-m", "compileall", "-q", "-f", "--invalidation-mode=unchecked-hash", str(site)]
    subprocess.run(compiled, check=True, env={**os.environ, "PYTHONHASHSEED": "0"})
    moment = int(os.environ.get("SOURCE_DATE_EPOCH") or "0")
    for path in [TARGET, *TARGET.rglob("*")]:
        os.utime(path, (moment, moment), follow_symlinks=False)


if __name__ == "__main__":
    main()
