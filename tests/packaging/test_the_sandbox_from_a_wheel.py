"""`podidctl` out of an installed wheel, outside a checkout: with the extra `sandbox` and without it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.nightly
Install = Callable[..., Path]


def podidctl(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys, podidctl.cli as cli; print(cli.__file__, file=sys.stderr); sys.exit(cli.main())"
    return subprocess.run(
        [str(python), "-P", "-c", code, *arguments],
        cwd=folder,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.timeout(300)
def test_the_sandbox_demo_succeeds_from_an_installed_wheel(install: Install, tmp_path: Path) -> None:
    python = install()
    done = podidctl(python, tmp_path, "sandbox", "demo", "--loopback", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(str(python.parents[1])), "podidctl of the checkout"
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["ok"]
    assert len(summary["lines"]) == 4


@pytest.mark.timeout(300)
def test_without_the_extra_sandbox_only_the_sandbox_commands_fail(install: Install, tmp_path: Path) -> None:
    python = install("httptools", "iptc", "python_iptables", "requests", "cryptography")
    for command in (["up"], ["demo"], ["exec", "demo", "--", "true"]):
        done = podidctl(python, tmp_path, "sandbox", *command)
        (line,) = done.stderr.splitlines()[1:]
        assert done.returncode == 1
        assert line == (
            "podidctl: the sandbox needs cryptography, httptools, iptc, requests, not installed here: "
            "pip install 'aad-pod-identity[sandbox]'"
        )
    assert "sandbox" in podidctl(python, tmp_path, "--help").stdout
    for command in (["explain"], ["doctor"], ["plan"], ["token"], ["migrate", "from-reference"]):
        done = podidctl(python, tmp_path, *command, "--help")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["crds", "demo"])
def test_the_manifests_in_the_wheel_are_those_of_deploy(install: Install, folder: str) -> None:
    (site,) = install().parents[1].glob("lib/python3*/site-packages")
    packaged = site / "podidentity_sandbox" / "manifests" / folder
    source = Path(__file__).parents[2] / "deploy" / folder
    expected = {each.name: each.read_bytes() for each in source.glob("*.yaml")}
    assert expected
    assert {each.name: each.read_bytes() for each in packaged.glob("*.yaml")} == expected


def test_the_permissions_in_the_wheel_are_those_of_the_manifests(install: Install) -> None:
    (site,) = install().parents[1].glob("lib/python3*/site-packages")
    name = "deployment-rbac.yaml"
    source = Path(__file__).parents[2] / "deploy" / "manifests" / name
    assert (site / "podidentity_sandbox" / "manifests" / name).read_bytes() == source.read_bytes()
