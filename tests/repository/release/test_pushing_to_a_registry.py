"""Images and chart are pushed to a real registry on loopback; their digests are those of the files."""

import json
import os
import re
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from podidentity.version import VERSION
from podidentity_sandbox.serving import free_ports
from tests.support.checkout import ROOT
from tests.support.waiting import until_sync
from tools.release import chart

UNPACKED: Final = ROOT / "build" / "registry" / "usr" / "bin" / "docker-registry"
EPOCH: Final = 1_700_000_000
INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"

pytestmark = [pytest.mark.tools, pytest.mark.root]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a registry, and yield its host and port."""
    folder = tmp_path_factory.mktemp("registry")
    address = f"127.0.0.1:{free_ports(1)[0]}"
    settings = folder / "settings.yaml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{address}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: '{folder / 'data'}'}}}}\n"
    )
    program = shutil.which("docker-registry") or str(UNPACKED)
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([program, "serve", settings], stdout=log, stderr=log) as run,
    ):

        def listens() -> bool:
            assert run.poll() is None, (folder / "log").read_text()
            urllib.request.urlopen(f"http://{address}/v2/", timeout=5).close()
            return True

        until_sync(listens, "the registry listens", ignoring=OSError)
        yield address
        run.terminate()


def fetch(registry: str, path: str, accept: str) -> tuple[dict[str, Any], str]:
    """Return a manifest of the registry and its digest."""
    request = urllib.request.Request(f"http://{registry}/v2/{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - an address of this test
        return json.load(response), response.headers["Docker-Content-Digest"]


def build(folder: Path, architecture: str) -> Path:
    """Build an image with one file for *architecture*, as tools/local-images does, and return its archive."""
    store = folder / architecture
    buildah = ["buildah", f"--root={store / 'store'}", f"--runroot={store / 'run'}", "--storage-driver=vfs"]

    def run(*arguments: str) -> str:
        command = [*buildah, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (folder / "file").write_text(architecture)
    container = run("from", f"--arch={architecture}", "scratch")
    run("config", f"--arch={architecture}", container)
    run("add", "-q", container, str(folder / "file"), "/")
    run("commit", "-q", f"--timestamp={EPOCH}", container, f"localhost/{architecture}")
    run("rm", container)
    archive = folder / f"nmi-{architecture}.oci.tar"
    run("push", "-q", f"localhost/{architecture}", f"oci-archive:{archive}:localhost/{architecture}")
    return archive


def digest_of(archive: Path) -> str:
    """Return the digest of the image in an OCI archive."""
    with tarfile.open(archive) as opened:
        index = opened.extractfile("index.json")
        assert index is not None
        digest: str = json.load(index)["manifests"][0]["digest"]
        return digest


def push(registry: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Push the image nmi in *folder* by the target of the Makefile."""
    names = [f"REGISTRY={registry}/Owner/Project", "PROGRAM=nmi", f"DIST={folder}"]
    environment = {**os.environ, "FLAGS": "--tls-verify=false"}
    command = ["make", "-s", "release-push-image", *names]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_index_below_a_name_without_capitals_lists_the_images_with_the_digests_of_their_archives(
    registry: str, tmp_path: Path
) -> None:
    archives = [build(tmp_path, architecture) for architecture in ("amd64", "arm64")]
    done = push(registry, tmp_path)
    assert done.returncode == 0, done.stderr
    name, *digests = done.stdout.splitlines()
    assert name == f"name={registry}/owner/project/nmi"
    index, digest = fetch(registry, f"owner/project/nmi/manifests/{VERSION}", INDEX)
    listed = {manifest["platform"]["architecture"]: manifest["digest"] for manifest in index["manifests"]}
    assert listed == {"amd64": digest_of(archives[0]), "arm64": digest_of(archives[1])}
    assert dict(line.split("=", 1) for line in digests) == {"index": digest, **listed}
    for image_digest in listed.values():
        assert fetch(registry, f"owner/project/nmi/manifests/{image_digest}", MANIFEST)[1] == image_digest
    assert push(registry, tmp_path).stdout == done.stdout, "the same index"


def test_a_file_that_is_no_image_is_refused(registry: str, tmp_path: Path) -> None:
    archive = tmp_path / "nmi-amd64.oci.tar"
    archive.write_text("no archive")
    done = push(registry, tmp_path)
    assert done.returncode == 2
    assert f"{archive} is not an OCI archive with one image; build it by tools/local-images" in done.stderr


def test_the_same_chart_has_the_same_digest_at_any_time(registry: str, tmp_path: Path) -> None:
    pushed = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        archive = chart.package(ROOT, tmp_path / name, EPOCH)
        os.utime(archive)
        pushed.append(chart.push(archive, f"{registry}/{name}/charts", EPOCH, "--plain-http"))
    (first, digest), (second, other) = pushed
    assert (first, second) == tuple(f"{registry}/{name}/charts/aad-pod-identity" for name in ("first", "second"))
    assert digest == other
    version = re.search(r"aad-pod-identity-(.+)\.tgz", archive.name)
    assert version is not None
    assert fetch(registry, f"first/charts/aad-pod-identity/manifests/{version[1]}", MANIFEST)[1] == digest


def test_the_images_of_a_packaged_chart_have_no_registry(tmp_path: Path) -> None:
    archive = chart.package(ROOT, tmp_path, EPOCH)
    assert chart.images(archive) == {f"aad-pod-identity/{name}:{VERSION}" for name in ("nmi", "mic")}
