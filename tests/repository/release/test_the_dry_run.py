"""`make release-dry-run` in a new clone builds all artifacts twice, byte for byte equal, and refuses what is wrong."""

import json
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from podidentity.version import VERSION
from tests.repository.release.conftest import URL, DryRun

pytestmark = [pytest.mark.nightly, pytest.mark.tools, pytest.mark.timeout(1800)]  # usually two minutes


def document(path: Path) -> dict[str, Any]:
    """Return the JSON document in the file."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_all_artifacts_are_made(dry_run: DryRun) -> None:
    names = {re.sub(r"-(cp3\d+-cp3\d+-)?linux_\w+\.", "-MACHINE.", each.name) for each in dry_run.dist.iterdir()}
    chart = re.search(
        r"^version: (.+)$", (dry_run.clone / "deploy/charts/aad-pod-identity/Chart.yaml").read_text(), re.MULTILINE
    )
    assert chart is not None
    wheel = f"aad_pod_identity-{VERSION.replace('-rc.', 'rc')}"
    assert names == {
        f"{wheel}.tar.gz",
        f"{wheel}-MACHINE.whl",
        "python-MACHINE.cdx.json",
        f"aad-pod-identity-{chart[1]}.tgz",
        "chart.cdx.json",
        f"kubectl-podidentity-{VERSION}.tar.gz",
        "podidentity.yaml",
        "provenance.json",
        "notes.md",
        "SHA256SUMS",
    }


def test_the_checksums_and_the_provenance_are_those_of_the_files(dry_run: DryRun) -> None:
    subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dry_run.dist, check=True, capture_output=True
    )
    subjects = {
        each["name"]: each["digest"]["sha256"] for each in document(dry_run.dist / "provenance.json")["subject"]
    }
    lines = [line.split() for line in (dry_run.dist / "SHA256SUMS").read_text().splitlines()]
    sums = {name: digest for digest, name in lines}
    assert subjects.items() <= sums.items()
    assert set(sums) - set(subjects) == {"provenance.json"}


def test_the_sources_contain_the_files_for_another_build_and_no_tests(dry_run: DryRun) -> None:
    with tarfile.open(next(dry_run.dist.glob("aad_pod_identity-*.tar.gz"))) as archive:
        members = archive.getmembers()
    names = {each.name.partition("/")[2] for each in members}
    assert {"_native/lane.pyx", "build.lock", "setup.py", "podidentity_sandbox/manifests/demo/pod.yaml"} <= names
    assert not [each for each in names if each.startswith("tests") or each.endswith((".c", ".so"))]
    assert {(each.uid, each.gid, each.uname) for each in members} == {(0, 0, "")}
    assert len({each.mtime for each in members}) == 1


def test_no_file_has_the_name_of_a_directory_of_this_machine(dry_run: DryRun) -> None:
    machine = str(dry_run.clone).encode()
    for path in dry_run.dist.iterdir():
        contents = [path.read_bytes()]
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                contents = [archive.read(each) for each in archive.namelist()]
        assert not [each for each in contents if machine in each], path.name


def test_the_bills_have_the_locked_packages_without_a_place_and_the_charts_images(
    dry_run: DryRun,
) -> None:
    (path,) = dry_run.dist.glob("python-*.cdx.json")
    bill = document(path)
    lock = (dry_run.clone / "requirements.lock").read_text()
    found = {each["name"]: each["version"] for each in bill["components"]}
    assert {"aiohttp", "azure-identity", "kubernetes", "typer", "uvloop"} <= set(found)
    for name, version in found.items():
        assert re.search(
            rf"^{re.sub('[-_.]', '[-_.]', name)}=={re.escape(version)}\b", lock, re.MULTILINE | re.IGNORECASE
        )
    assert bill["metadata"]["component"]["name"] == "aad-pod-identity"
    assert "file:" not in path.read_text()

    found = {each["name"]: each["version"] for each in document(dry_run.dist / "chart.cdx.json")["components"]}
    assert found == {"aad-pod-identity/mic": VERSION, "aad-pod-identity/nmi": VERSION}


def test_notes_and_metadata_link_to_the_repository_and_the_clone_has_no_change(dry_run: DryRun) -> None:
    notes = (dry_run.dist / "notes.md").read_text()
    assert f"({URL}/blob/v{VERSION}/docs/migration.md#differences)" in notes
    assert "](docs/" not in notes
    assert not notes.startswith("## ")

    with zipfile.ZipFile(next(dry_run.dist.glob("*.whl"))) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        assert f"Project-URL: Repository, {URL}\n" in archive.read(name).decode()

    status = subprocess.run(["git", "status", "--porcelain"], cwd=dry_run.clone, check=True, capture_output=True)
    assert status.stdout == b""


def test_a_tag_of_another_version_is_refused_and_no_tag_is_run_by_the_shell(dry_run: DryRun) -> None:
    done = dry_run.make("release-check", "TAG=v0.0.1")
    assert done.returncode == 2
    assert f"no release: the tag is v0.0.1, but podidentity/version.py has {VERSION}" in done.stdout
    done = dry_run.make("release-check", "TAG=v1`touch started`")
    assert done.returncode == 2
    assert not (dry_run.clone / "started").exists()


def test_a_statement_about_a_vulnerability_without_a_justification_is_refused(dry_run: DryRun) -> None:
    source = dry_run.clone / "vulnerabilities.yaml"
    complete = source.read_text()
    source.write_text(complete.replace("    justification: vulnerable_code_not_present\n", "", 1))
    try:
        done = dry_run.make("release-check")
    finally:
        source.write_text(complete)
    assert done.returncode == 2
    assert "no release: vulnerabilities.yaml: CVE-2023-45853 about pkg:deb/debian/zlib1g@" in done.stdout
    assert "is not_affected without justification" in done.stdout
    assert dry_run.make("release-check").returncode == 0


SEAL = """
import sys
from pathlib import Path
from tools.release.dry_run import Release, ReleaseError
out = Path(sys.argv[1])
try:
    print(*(each.name for each in Release(Path.cwd(), out).seal(sorted(out.iterdir()))))
except ReleaseError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ("", "aad-pod-identity.openvex.json nmi-amd64.cdx.json nmi-amd64.oci.tar provenance.json SHA256SUMS"),
        ("-1.1", "refused: vulnerabilities.yaml: CVE-2023-45853 is about pkg:deb/debian/zlib1g@"),
    ],
    ids=["equal", "updated"],
)
def test_a_release_with_images_has_openvex_about_exactly_the_packages_of_their_bills(
    dry_run: DryRun, tmp_path: Path, change: str, result: str
) -> None:
    statements = yaml.safe_load((dry_run.clone / "vulnerabilities.yaml").read_text())["statements"]
    purls = sorted({f"{each['package']}{change}?arch=amd64" for each in statements})
    bill = {
        "metadata": {"component": {"name": "aad-pod-identity/nmi"}},
        "components": [{"purl": each} for each in purls],
    }
    (tmp_path / "nmi-amd64.cdx.json").write_text(json.dumps(bill))
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [{"digest": f"sha256:{'a' * 64}"}]}))
    with tarfile.open(tmp_path / "nmi-amd64.oci.tar", "w") as archive:
        archive.add(tmp_path / "index.json", "index.json")
    (tmp_path / "index.json").unlink()
    python = dry_run.clone / "build" / "release" / "tools" / "bin" / "python"
    done = subprocess.run([python, "-c", SEAL, tmp_path], cwd=dry_run.clone, check=True, capture_output=True, text=True)
    assert done.stdout.strip().startswith(result)


def test_a_release_needs_all_files_in_a_commit(dry_run: DryRun) -> None:
    extra = dry_run.clone / "extra.txt"
    extra.touch()
    try:
        done = dry_run.make("release")
    finally:
        extra.unlink()
    assert done.returncode == 2
    assert "commit or remove these files first:\n?? extra.txt" in done.stdout


def test_cibuildwheel_builds_each_python_for_both_architectures(dry_run: DryRun) -> None:
    python = dry_run.clone / "build" / "release" / "tools" / "bin" / "python"
    flags = ("--print-build-identifiers", "--platform=linux", "--archs=x86_64,aarch64")
    command = [str(python), "-m", "cibuildwheel", *flags]
    done = subprocess.run(command, cwd=dry_run.clone, check=True, capture_output=True, text=True)
    versions = re.findall(r"Python :: (3\.\d+)", (dry_run.clone / "pyproject.toml").read_text())
    assert sorted(done.stdout.split()) == sorted(
        f"cp{version.replace('.', '')}-manylinux_{machine}" for version in versions for machine in ("x86_64", "aarch64")
    )


def test_the_commands_of_the_page_about_rebuilding_find_equal_files(dry_run: DryRun, tmp_path: Path) -> None:
    page = (dry_run.clone / "docs" / "rebuild.md").read_text()
    (block,) = re.findall(
        r"<!-- tests/repository/release/test_the_dry_run\.py runs this block -->\n\n```\n(.*?)```", page, re.DOTALL
    )
    published = tmp_path / "published"
    shutil.copytree(dry_run.dist, published)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["bash", "-e", "-c", block],
        cwd=dry_run.clone,
        env={**environment, "PROJECT_URL": URL, "PUBLISHED": str(published)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    compared = [line.removesuffix(": OK") for line in done.stdout.splitlines() if line.endswith(": OK")]
    assert {Path(each).suffix for each in compared} == {".gz", ".tgz", ".json", ".yaml"}
    assert "chart.cdx.json" in compared
