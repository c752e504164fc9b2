"""Files of the built images: only locked packages, one program, no timestamps."""

import json
import re
import struct
import subprocess
import tarfile
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

from deploy.docker.bill_of_materials import debian_packages, python_of_the_base
from deploy.docker.install_program import COMMANDS, PACKAGES
from podidentity.version import VERSION
from tests.images.built.conftest import ROOT, Image

UNCHECKED_HASH = 1  # the second word of a .pyc (PEP 552): valid without a comparison with the source


def installed(image: Image) -> set[tuple[str, str]]:
    found = metadata.distributions(path=[str(image.site)])
    return {(str(canonicalize_name(each.metadata["Name"])), each.version) for each in found}


def test_every_python_package_is_the_locked_one(image: Image) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = {
        (str(canonicalize_name(name)), version)
        for name, version in re.findall(r"^([a-z0-9-]+)==([^ \\]+)", lock, re.MULTILINE)
    }
    others = {name for name, _ in installed(image) - locked}
    assert others == {"aad-pod-identity"}
    assert len(installed(image)) > 10


def test_an_image_contains_only_its_own_program(image: Image) -> None:
    ours = {"_native", "podidentity", "podidentity_demo", "nmi", "mic", "podidctl"}
    assert {each.name for each in image.site.iterdir()} & ours == PACKAGES[image.name]
    commands = {each.name for each in (image.root / "opt/podidentity/bin").iterdir()}
    assert COMMANDS[image.name] in commands
    assert not commands & ({*COMMANDS.values(), "kubectl-podidentity", "pip"} - {COMMANDS[image.name]})


def test_nmis_image_contains_no_code_for_azure_resource_manager() -> None:
    for name, there in (("nmi", False), ("mic", True), ("podidctl", True), ("demo", False)):
        assert (Image(name).site / "azure" / "mgmt").exists() is there


def test_the_list_of_installed_files_is_correct(image: Image) -> None:
    for distribution in metadata.distributions(path=[str(image.site)]):
        missing = [file for file in distribution.files or [] if not Path(str(file.locate())).exists()]
        assert not missing, distribution.metadata["Name"]


def test_no_file_of_this_project_contains_a_timestamp(image: Image) -> None:
    files = [path for path in (image.root / "opt/podidentity").rglob("*") if not path.is_symlink()]
    assert len({path.stat().st_mtime for path in files}) == 1
    compiled = [path for path in files if path.suffix == ".pyc"]
    assert len(compiled) > 100
    assert {struct.unpack("<I", path.read_bytes()[4:8])[0] for path in compiled} == {UNCHECKED_HASH}


def test_there_is_bytecode_for_every_module(image: Image) -> None:
    for source in image.site.rglob("*.py"):
        assert list((source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc")), source


def test_no_user_of_the_image_can_write_its_program(image: Image) -> None:
    for path in (image.root / "opt/podidentity").rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_uid == 0
            assert not path.stat().st_mode & 0o022, path


def test_the_bill_of_materials_names_exactly_the_installed_packages(image: Image) -> None:
    listed = {(each["name"], each["version"]) for each in image.bill["components"]}
    python = {(str(canonicalize_name(name)), version) for name, version in listed}
    debian = {(each["name"], each["version"]) for each in debian_packages(image.root)}
    of_the_base = list(python_of_the_base(image.root))
    assert installed(image) <= python
    assert debian <= listed
    assert len(listed) == len(installed(image)) + len(debian) + len(of_the_base)


def test_the_image_has_its_labels(image: Image) -> None:
    labels = image.config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"aad-pod-identity {image.name}"
    assert labels["org.opencontainers.image.version"] == image.bill["metadata"]["component"]["version"] == VERSION
    # The bill lists the wheel with its own version, in the form of PEP 440 (docs/releasing.md).
    (wheel,) = (each for each in image.bill["components"] if each["name"] == "aad-pod-identity")
    assert Version(wheel["version"]) == Version(VERSION)
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["org.opencontainers.image.revision"])


def test_only_nmi_has_programs_that_change_rules() -> None:
    for name, there in (("nmi", True), ("mic", False), ("podidctl", False), ("demo", False)):
        root = Image(name).root
        for program in ("iptables-nft", "iptables-legacy", "nft", "conntrack"):
            assert (root / "usr/sbin" / program).is_symlink() or (root / "usr/sbin" / program).exists() is there


def test_each_image_has_a_digest() -> None:
    """`make local-images` compares the digests with those of a second build."""
    digests = (ROOT / "build" / "images" / "images.txt").read_text()
    assert len(re.findall(r"sha256:[0-9a-f]{64}", digests)) == len(COMMANDS)


def test_compiler_and_pip_are_not_in_the_image(image: Image) -> None:
    for program in ("gcc", "cc", "pip", "pip3"):
        assert not list(image.root.glob(f"usr/bin/{program}"))
    assert (
        not list(image.site.glob("pip*")) + list(image.site.glob("[Cc]ython*")) + list(image.site.glob("setuptools*"))
    )
    assert subprocess.run(["ls", str(image.root / "src")], capture_output=True, check=False).returncode != 0


def test_every_user_can_write_temporary_files_in_an_image(image: Image) -> None:
    assert (image.root / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_each_listed_debian_package_has_a_licence_in_the_image(image: Image) -> None:
    names = [each["name"] for each in debian_packages(image.root)]
    assert {"libc6", "ca-certificates"} <= set(names)
    assert not [name for name in names if not (image.root / "usr/share/doc" / name / "copyright").is_file()]


def test_all_images_have_the_same_base_layer() -> None:
    layers = []
    for name in COMMANDS:
        with tarfile.open(ROOT / "build" / "images" / f"{name}.tar") as archive:
            (entry,) = read_json(archive, "index.json")["manifests"]
            manifest = read_json(archive, f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}")
            layers.append(manifest["layers"][0])
    assert all(layer == layers[0] for layer in layers)
    assert layers[0]["size"] > 10_000_000


def read_json(archive: tarfile.TarFile, path: str) -> dict[str, Any]:
    """Return a JSON object of an OCI archive."""
    file = archive.extractfile(path)
    assert file is not None
    return dict(json.load(file))
