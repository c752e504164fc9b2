"""The built wheel, used outside the source tree, where the sources cannot replace a file that it lacks."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("answers", "histogram", "index", "lane", "query", "scan")


@pytest.mark.timeout(180)
def test_the_wheel_contains_extension_modules_with_sources_and_stubs_but_no_generated_c(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for room in ROOMS:
        assert {f"_native/{room}.pyx", f"_native/{room}.pyi"} <= names
        assert any(name.startswith(f"_native/{room}.") and name.endswith(".so") for name in names)
    assert not [name for name in names if name.endswith(".c")]
    assert {"nmi/py.typed", "podidentity/py.typed", "_native/py.typed"} <= names


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


@pytest.mark.timeout(180)
def test_nmi_requires_only_the_azure_package_for_signing_in(wheel: Path) -> None:
    (metadata,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA")]
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    required = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    of_the_node = [line for line in required if "extra ==" not in line or "extra == 'nmi'" in line.replace('"', "'")]
    assert len(of_the_node) >= 6
    named = [re.split(r"[^A-Za-z0-9-]", line)[0] for line in of_the_node]
    assert [name for name in named if "azure" in name.lower()] == ["azure-identity"]
