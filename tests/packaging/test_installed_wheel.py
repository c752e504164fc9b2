"""The built wheel, used outside the source tree, where the sources cannot replace a file that it lacks."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", ["nmi", "mic", "podidctl"])
def test_the_programs_run_outside_the_source_tree(wheel: Path, program: str, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"import sys, {program}.cli as cli, _native.lane as lane; print(lane.__file__); sys.exit(cli.main())"
    run = [sys.executable, "-P", "-c", code, "--version"]
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    place, version = done.stdout.splitlines()
    assert place.startswith(str(tmp_path))
    assert version.startswith(f"{program} ")
