"""Runs in an image: prints a JSON object with the libraries that the image's loader does not find, by file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

LOADER = next(path for folder in ("/lib64", "/lib") for path in Path(folder).glob("ld-linux*.so.*"))
MOUNTED = {Path(name) for name in ("/dev", "/proc", "/run", "/sys", "/tmp")}


def main() -> None:
    """Print the result."""
    missing = {}
    count = 0
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if Path(folder, name) not in MOUNTED]
        for path in (Path(folder, name) for name in names):
            if path.is_symlink() or not path.is_file() or path.read_bytes()[:4] != b"\x7fELF":
                continue
            count += 1
            done = subprocess.run([str(LOADER), "--list", str(path)], capture_output=True, text=True, check=False)
            libraries = re.findall(r"(\S+) => not found", done.stdout)
            if libraries or (done.returncode != 0 and "statically linked" not in done.stdout + done.stderr):
                missing[str(path)] = libraries or [done.stderr.strip()]
    json.dump({"files": count, "missing": missing}, sys.stdout)


if __name__ == "__main__":
    main()
