"""Install one program with its dependencies into /opt/podidentity. The Dockerfile runs this offline.

usage: install_program.py nmi|mic|demo

The dependencies are those of the program's extra in the wheel; /wheels contains exactly one version of each, that of
requirements.lock. The wheel contains all programs: this script removes the packages and commands of the others, also
from the list of installed files. Bytecode contains no times, so that the same sources give the same files.
"""

import csv
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
    "demo": {"podidentity_demo"},
}
COMMANDS = {"nmi": "nmi", "mic": "mic", "demo": "podidentity-demo"}
# The demo imports nothing of this project, so it does not need the common dependencies either.
OWN_EXTRA_ONLY = {"demo"}


def requirements(program: str, metadata: bytes) -> list[str]:
    """Return the program's requirements in the wheel's METADATA, without the marker of the extra."""
    needed = []
    for line in message_from_bytes(metadata).get_all("Requires-Dist", []):
        of_extra = re.search(r"""extra == ['"]([\w-]+)['"]""", line)
        plain = re.sub(r"""(?:\s+and\s+)?\(?extra == ['"][\w-]+['"]\)?""", "", line).rstrip(" ;")
        if (of_extra is None and program not in OWN_EXTRA_ONLY) or (of_extra and of_extra[1] == program):
            needed.append(plain)
    return needed


def remove_other_programs(site: Path, program: str) -> None:
    """Remove the other programs' packages and commands, and their lines in RECORD."""
    (record,) = site.glob("aad_pod_identity-*.dist-info/RECORD")
    kept = []
    for row in csv.reader(record.read_text().splitlines()):
        file = (site / row[0]).resolve()
        ours = file.parent == TARGET / "bin"
        top = row[0].split("/")[0]
        if (ours and file.name != COMMANDS[program]) or (
            not ours and top not in PACKAGES[program] and not top.endswith(".dist-info")
        ):
            file.unlink()
        else:
            kept.append(row)
    with record.open("w", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows(kept)
    for package in site.iterdir():
        if package.is_dir() and not any(each.is_file() for each in package.rglob("*")):
            shutil.rmtree(package)


def main() -> None:
    """Install the program that the first argument names."""
    program = sys.argv[1]
    (wheel,) = DIST.glob("aad_pod_identity-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [each for each in opened.namelist() if each.endswith(".dist-info/METADATA")]
        needed = requirements(program, opened.read(name))
    base = sys._base_executable  # type: ignore[attr-defined]  # noqa: SLF001 - the Python that the final image has, too
    subprocess.run([base, "-m", "venv", "--without-pip", "--symlinks", str(TARGET)], check=True)
    python = TARGET / "bin" / "python3"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-index", "--no-compile"]
    subprocess.run([*pip, f"--find-links={WHEELS}", *needed], check=True)
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    (site,) = TARGET.glob("lib/python3*/site-packages")
    remove_other_programs(site, program)
    for script in (TARGET / "bin").glob("[Aa]ctivate*"):
        script.unlink()
    (TARGET / ".gitignore").unlink(missing_ok=True)  # venv's, from Python 3.13 on
    compiled = [str(python), "-m", "compileall", "-q", "-f", "--invalidation-mode=unchecked-hash", str(site)]
    subprocess.run(compiled, check=True, env={**os.environ, "PYTHONHASHSEED": "0"})
    moment = int(os.environ.get("SOURCE_DATE_EPOCH") or "0")
    for path in [TARGET, *TARGET.rglob("*")]:
        os.utime(path, (moment, moment), follow_symlinks=False)


if __name__ == "__main__":
    main()
