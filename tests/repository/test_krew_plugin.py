"""The plugin for krew: its manifest is valid, and its program runs podidctl here or in the cluster.

Source of the rules: kubernetes-sigs/krew, internal/index/validation/validate.go.
"""

import hashlib
import io
import os
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from podidentity.version import VERSION
from tools import krew

URL: Final = "https://forge.example/team/aad-pod-identity/releases/download/v1"
PROGRAM: Final = krew.FILES[0]
FIELDS: Final = {"version", "homepage", "shortDescription", "description", "caveats", "platforms"}


def faults(plugin: dict[str, Any]) -> list[str]:
    """Return the rules of krew that a manifest breaks."""
    spec = plugin["spec"]
    rules = {
        "apiVersion": plugin["apiVersion"] == "krew.googlecontainertools.github.com/v1alpha2",
        "kind": plugin["kind"] == "Plugin",
        "name": re.fullmatch(r"[\w-]+", plugin["metadata"]["name"]),
        "fields": set(spec) == FIELDS,
        "version": re.fullmatch(r"v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", spec["version"]),
        "shortDescription": spec["shortDescription"] and "\n" not in spec["shortDescription"],
        "platforms": spec["platforms"],
    }
    for each in spec["platforms"]:
        expressions = each.get("selector", {}).get("matchExpressions", [])
        rules |= {
            "uri": each.get("uri", "").startswith("https://"),
            "sha256": re.fullmatch(r"[a-f0-9]{64}", each.get("sha256", "")),
            "bin": each.get("bin"),
            "selector": expressions and {one["key"] for one in expressions} <= {"os", "arch"},
        }
    return [name for name, holds in rules.items() if not holds]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    assert krew.main([URL], tmp_path) == 0
    return tmp_path


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "podidentity.yaml").read_text())
    return found


def test_krew_accepts_the_manifest(made: Path) -> None:
    assert faults(manifest(made)) == []
    assert manifest(made)["spec"]["version"] == f"v{VERSION}"
    assert manifest(made)["spec"]["homepage"] == "https://forge.example/team/aad-pod-identity"


def test_the_template_without_values_is_refused() -> None:
    assert set(faults(yaml.safe_load(krew.TEMPLATE.read_text()))) == {"version", "uri", "sha256"}


def test_the_manifest_names_the_archive_and_its_digest(made: Path) -> None:
    (platform,) = manifest(made)["spec"]["platforms"]
    archive = made / platform["uri"].removeprefix(f"{URL}/")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == platform["sha256"]
    with tarfile.open(archive) as tar:
        names = {each.name: each for each in tar.getmembers()}
    assert set(names) == {platform["bin"], "LICENSE"}
    assert names[platform["bin"]].mode == 0o755


def test_two_archives_are_equal() -> None:
    first = krew.archive()
    for file in krew.FILES:
        os.utime(file)
    assert krew.archive() == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert {(each.mtime, each.uid, each.uname) for each in tar.getmembers()} == {(0, 0, "")}


@pytest.mark.parametrize("url", ["http://forge.example/v1", "https://forge.example/v1/", "v1"])
def test_another_address_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        krew.main([url], tmp_path)


def program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": f"{folder}:/usr/bin:/bin", **environ}
    return subprocess.run([PROGRAM, *arguments], env=path, capture_output=True, text=True, timeout=20, check=False)


def test_podidctl_of_this_machine_is_used_if_it_is_installed(tmp_path: Path) -> None:
    program(tmp_path, "podidctl", 'echo "here: $*"; exit 3')
    program(tmp_path, "kubectl", "exit 9")
    done = run(tmp_path, "explain", "pod", "a b")
    assert (done.stdout, done.returncode) == ("here: explain pod a b\n", 3)


def test_else_that_of_the_pod(tmp_path: Path) -> None:
    program(tmp_path, "kubectl", '[ "$1" = get ] || { echo "$*"; exit 3; }')
    done = run(tmp_path, "doctor", "-o", "json")
    assert (done.stdout, done.returncode) == ("exec --namespace podid podidctl -- podidctl doctor -o json\n", 3)
    done = run(tmp_path, "doctor", PODIDENTITY_NAMESPACE="identity", PODIDENTITY_POD="tool")
    assert done.stdout == "exec --namespace identity tool -- podidctl doctor\n"


def test_without_both_the_next_action_is_named(tmp_path: Path) -> None:
    program(tmp_path, "kubectl", "echo 'pods \"podidctl\" not found' >&2; exit 1")
    done = run(tmp_path, "doctor")
    assert done.returncode == 1
    assert "not found" in done.stderr
    assert "deploy/podidctl/podidctl.yaml" in done.stderr
