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
    for platform in spec["platforms"]:
        expressions = platform.get("selector", {}).get("matchExpressions", [])
        rules |= {
            "uri": platform.get("uri", "").startswith("https://"),
            "sha256": re.fullmatch(r"[a-f0-9]{64}", platform.get("sha256", "")),
            "bin": platform.get("bin"),
            "selector": expressions and {expression["key"] for expression in expressions} <= {"os", "arch"},
        }
    return [name for name, holds in rules.items() if not holds]


def test_krew_accepts_the_manifest_and_not_its_template_and_the_archive_has_its_digest(tmp_path: Path) -> None:
    assert krew.main([URL], tmp_path) == 0
    assert set(faults(yaml.safe_load(krew.TEMPLATE.read_text()))) == {"version", "uri", "sha256"}
    manifest = yaml.safe_load((tmp_path / "podidentity.yaml").read_text())
    assert faults(manifest) == []
    assert manifest["spec"]["version"] == f"v{VERSION}"
    assert manifest["spec"]["homepage"] == "https://forge.example/team/aad-pod-identity"
    (platform,) = manifest["spec"]["platforms"]
    archive = tmp_path / platform["uri"].removeprefix(f"{URL}/")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == platform["sha256"]
    with tarfile.open(archive) as tar:
        names = {member.name: member for member in tar.getmembers()}
    assert set(names) == {platform["bin"], "LICENSE"}
    assert names[platform["bin"]].mode == 0o755


def test_two_archives_are_equal() -> None:
    first = krew.archive()
    for file in krew.FILES:
        os.utime(file)
    assert krew.archive() == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar.getmembers()} == {(0, 0, "")}


@pytest.mark.parametrize("url", ["http://forge.example/v1", "https://forge.example/v1/", "v1"])
def test_another_address_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        krew.main([url], tmp_path)


KUBECTL: Final = '[ "$1" = get ] || { echo "$*"; exit 3; }'
IN_THE_POD: Final = "exec --namespace podid podidctl -- podidctl doctor\n"
OTHER_POD: Final = {"PODIDENTITY_NAMESPACE": "identity", "PODIDENTITY_POD": "tool"}


@pytest.mark.parametrize(
    ("programs", "environment", "output"),
    [
        ({"podidctl": 'echo "here: $*"; exit 3', "kubectl": "exit 9"}, {}, "here: doctor\n"),
        ({"kubectl": KUBECTL}, {}, IN_THE_POD),
        ({"kubectl": KUBECTL}, OTHER_POD, "exec --namespace identity tool -- podidctl doctor\n"),
        ({"kubectl": "echo 'pods \"podidctl\" not found' >&2; exit 1"}, {}, ""),
    ],
    ids=["podidctl is installed here", "in the pod", "in another pod", "in neither"],
)
def test_the_program_runs_podidctl_here_or_in_the_pod(
    tmp_path: Path, programs: dict[str, str], environment: dict[str, str], output: str
) -> None:
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin", **environment}
    done = subprocess.run([PROGRAM, "doctor"], env=path, capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout == output
    assert done.returncode == (3 if output else 1)
    assert output or ("not found" in done.stderr and "deploy/podidctl/podidctl.yaml" in done.stderr)
