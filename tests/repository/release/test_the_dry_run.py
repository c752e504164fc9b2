"""`make release-dry-run` in a new clone builds all artifacts twice, byte for byte equal, and refuses what is wrong."""

import json
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from podidentity.version import VERSION
from tests.repository.release.conftest import URL, make, run, write_image

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.tools,
    pytest.mark.timeout(1800),
]  # two minutes, and many more with other load


def document(path: Path) -> dict[str, Any]:
    """Return the JSON document in the file."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_all_artifacts_are_made_with_their_checksums_and_provenance(dry_run: Path, dist: Path) -> None:
    names = {re.sub(r"-(cp3\d+-cp3\d+-)?linux_\w+\.", "-MACHINE.", file.name) for file in dist.iterdir()}
    chart = yaml.safe_load((dry_run / "deploy/charts/aad-pod-identity/Chart.yaml").read_text())["version"]
    wheel = f"aad_pod_identity-{VERSION.replace('-rc.', 'rc')}"
    assert names == {
        f"{wheel}.tar.gz",
        f"{wheel}-MACHINE.whl",
        "python-MACHINE.cdx.json",
        f"aad-pod-identity-{chart}.tgz",
        "chart.cdx.json",
        f"kubectl-podidentity-{VERSION}.tar.gz",
        "podidentity.yaml",
        "provenance.json",
        "notes.md",
        "SHA256SUMS",
    }
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dist, check=True, capture_output=True)
    subjects = {
        subject["name"]: subject["digest"]["sha256"] for subject in document(dist / "provenance.json")["subject"]
    }
    sums = {line.split()[1]: line.split()[0] for line in (dist / "SHA256SUMS").read_text().splitlines()}
    assert subjects.items() <= sums.items()
    assert set(sums) - set(subjects) == {"provenance.json"}


def test_no_artifact_names_a_user_or_a_directory_of_this_machine(dry_run: Path, dist: Path) -> None:
    with tarfile.open(next(dist.glob("aad_pod_identity-*.tar.gz"))) as archive:
        members = archive.getmembers()
    assert {(member.uid, member.gid, member.uname) for member in members} == {(0, 0, "")}
    assert len({member.mtime for member in members}) == 1
    for path in dist.iterdir():
        contents = [path.read_bytes()]
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                contents = [wheel.read(name) for name in wheel.namelist()]
        assert not [content for content in contents if str(dry_run).encode() in content], path.name


def test_the_bills_have_the_locked_packages_without_a_place_and_the_charts_images(dry_run: Path, dist: Path) -> None:
    (path,) = dist.glob("python-*.cdx.json")
    bill = document(path)
    lock = (dry_run / "requirements.lock").read_text()
    locked = {
        (str(canonicalize_name(name)), version) for name, version in re.findall(r"(?m)^([\w.-]+)==([\w.]+)", lock)
    }
    listed = {(str(canonicalize_name(component["name"])), component["version"]) for component in bill["components"]}
    assert {"aiohttp", "azure-identity", "kubernetes", "typer", "uvloop"} <= {name for name, _ in listed}
    assert listed <= locked
    assert bill["metadata"]["component"]["name"] == "aad-pod-identity"
    assert "file:" not in path.read_text()
    images = {component["name"]: component["version"] for component in document(dist / "chart.cdx.json")["components"]}
    assert images == {"aad-pod-identity/mic": VERSION, "aad-pod-identity/nmi": VERSION}


def test_notes_and_metadata_link_to_the_repository_and_the_clone_has_no_change(dry_run: Path, dist: Path) -> None:
    notes = (dist / "notes.md").read_text()
    assert f"({URL}/blob/v{VERSION}/docs/migration.md#differences)" in notes
    assert "](docs/" not in notes
    assert not notes.startswith("## ")
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as archive:
        (name,) = (member for member in archive.namelist() if member.endswith(".dist-info/METADATA"))
        assert f"Project-URL: Repository, {URL}\n" in archive.read(name).decode()
    assert run(dry_run, "git", "status", "--porcelain").stdout == ""


def test_a_tag_of_another_version_is_refused_and_no_tag_is_run_by_the_shell(dry_run: Path) -> None:
    done = make(dry_run, "release-check", "TAG=v0.0.1")
    assert done.returncode == 2
    assert f"no release: the tag is v0.0.1, but podidentity/version.py has {VERSION}" in done.stdout
    done = make(dry_run, "release-check", "TAG=v1`touch started`")
    assert done.returncode == 2
    assert not (dry_run / "started").exists()


def test_a_statement_about_a_vulnerability_without_a_justification_is_refused(dry_run: Path) -> None:
    source = dry_run / "vulnerabilities.yaml"
    complete = source.read_text()
    source.write_text(complete.replace("    justification: vulnerable_code_not_present\n", "", 1))
    done = make(dry_run, "release-check")
    source.write_text(complete)
    assert done.returncode == 2
    assert "no release: vulnerabilities.yaml: CVE-2023-45853 about pkg:deb/debian/zlib1g@" in done.stdout
    assert "is not_affected without justification" in done.stdout
    assert make(dry_run, "release-check").returncode == 0


SEAL = """
import sys
from pathlib import Path
from tools.release.commands import ReleaseError
from tools.release.dry_run import Release
out = Path(sys.argv[1])
try:
    print(*(file.name for file in Release(Path.cwd(), out).seal(sorted(out.iterdir()))))
except ReleaseError as error:
    print("refused:", error)
"""
PYTHON = "build/release/tools/bin/python"


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ("", "aad-pod-identity.openvex.json nmi-amd64.cdx.json nmi-amd64.oci.tar provenance.json SHA256SUMS"),
        ("-1.1", "refused: vulnerabilities.yaml: CVE-2023-45853 is about pkg:deb/debian/zlib1g@"),
    ],
    ids=["equal", "updated"],
)
def test_a_release_with_images_has_openvex_about_exactly_the_packages_of_their_bills(
    dry_run: Path, tmp_path: Path, change: str, result: str
) -> None:
    statements = yaml.safe_load((dry_run / "vulnerabilities.yaml").read_text())["statements"]
    purls = sorted({f"{statement['package']}{change}?arch=amd64" for statement in statements})
    write_image(tmp_path, "nmi", purls)
    done = run(dry_run, PYTHON, "-c", SEAL, str(tmp_path))
    assert done.stdout.startswith(result)


def test_a_release_needs_all_files_in_a_commit(dry_run: Path) -> None:
    extra = dry_run / "extra.txt"
    extra.touch()
    done = make(dry_run, "release")
    extra.unlink()
    assert done.returncode == 2
    assert "commit or remove these files first:\n?? extra.txt" in done.stdout


def test_cibuildwheel_builds_each_python_for_both_architectures(dry_run: Path) -> None:
    flags = ("--print-build-identifiers", "--platform=linux", "--archs=x86_64,aarch64")
    done = run(dry_run, PYTHON, "-m", "cibuildwheel", *flags)
    versions = re.findall(r"Python :: (3\.\d+)", (dry_run / "pyproject.toml").read_text())
    assert sorted(done.stdout.split()) == sorted(
        f"cp{version.replace('.', '')}-manylinux_{machine}" for version in versions for machine in ("x86_64", "aarch64")
    )


def test_the_commands_of_the_page_about_rebuilding_find_equal_files(dry_run: Path, dist: Path, tmp_path: Path) -> None:
    page = (dry_run / "docs" / "rebuild.md").read_text()
    (block,) = re.findall(
        r"<!-- tests/repository/release/test_the_dry_run\.py runs this block -->\n\n```\n(.*?)```", page, re.DOTALL
    )
    published = tmp_path / "published"
    shutil.copytree(dist, published)
    done = run(dry_run, "bash", "-e", "-c", block, PUBLISHED=str(published))
    assert done.returncode == 0, done.stdout
    compared = [line.removesuffix(": OK") for line in done.stdout.splitlines() if line.endswith(": OK")]
    assert {Path(file).suffix for file in compared} == {".gz", ".tgz", ".json", ".yaml"}
    assert "chart.cdx.json" in compared
