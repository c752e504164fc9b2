"""Files of the built images: only locked packages, one program, nothing unused, no timestamps, no growth."""

import json
import math
import re
import struct
import tarfile
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

from deploy.docker.bill_of_materials import debian_packages, python_of_the_base
from deploy.docker.install_program import COMMANDS, PACKAGES
from podidentity.version import VERSION
from tests.support.checkout import ROOT
from tests.support.image_sizes import RECORD, RENEW, TOTAL, find_growth, list_files, measure
from tests.system.images.conftest import BUILT, Image
from tools.release.vulnerabilities import FILE, Product, differences, read

LIMITS = {"nmi": 100_000_000, "mic": 110_000_000, "podidctl": 140_000_000}
UNCHECKED_HASH = 1  # the second word of a .pyc (PEP 552): valid without a comparison with the source
WITHOUT = ["/etc/python3.11/sitecustomize.py"]
SYMBOL_TABLE = 2  # SHT_SYMTAB of ELF
UNUSED_PROGRAMS = re.compile(
    r"pip[\d.]*|easy_install|gcc|g\+\+|cc|c\+\+|ld|as|make|strip|perl[\d.]*|apt|apt-get|dpkg|(?:ba|da)?sh"
)
UNUSED_FILES = re.compile(r"/(?:tests?|gconv|perl\d?|ensurepip|idlelib|lib2to3|unittest)/|\.(?:a|c|h|o|pxd|pyi)$")
UNUSED_PACKAGES = ("pip*", "[Cc]ython*", "setuptools*")


def installed(image: Image) -> set[tuple[str, str]]:
    distributions = metadata.distributions(path=[str(image.site)])
    return {
        (str(canonicalize_name(distribution.metadata["Name"])), distribution.version) for distribution in distributions
    }


def test_every_python_package_is_the_locked_one_and_has_its_listed_files(image: Image) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = re.findall(r"^([a-z0-9-]+)==([^ \\]+)", lock, re.MULTILINE)
    others = installed(image) - {(str(canonicalize_name(name)), version) for name, version in locked}
    assert {name for name, _ in others} == {"aad-pod-identity"}
    assert len(installed(image)) > 10
    for distribution in metadata.distributions(path=[str(image.site)]):
        missing = [file for file in distribution.files or [] if not Path(str(file.locate())).exists()]
        assert not missing, distribution.metadata["Name"]


def test_an_image_contains_only_its_own_program(image: Image) -> None:
    ours = {"_native", "podidentity", "podidentity_demo", "nmi", "mic", "podidctl"}
    assert {file.name for file in image.site.iterdir()} & ours == PACKAGES[image.name]
    commands = {file.name for file in (image.root / "opt/podidentity/bin").iterdir()}
    assert COMMANDS[image.name] in commands
    assert not commands & ({*COMMANDS.values(), "kubectl-podidentity", "pip"} - {COMMANDS[image.name]})
    assert (image.site / "azure" / "mgmt").exists() is (image.name in {"mic", "podidctl"})
    for program in ("iptables-nft", "iptables-legacy", "nft", "conntrack"):
        path = image.root / "usr/sbin" / program
        assert (path.is_symlink() or path.exists()) is (image.name == "nmi"), program


def test_no_file_of_this_project_contains_a_timestamp_and_no_bytecode_is_compared_with_its_source(
    image: Image,
) -> None:
    files = [path for path in (image.root / "opt/podidentity").rglob("*") if not path.is_symlink()]
    assert len({path.stat().st_mtime for path in files}) == 1
    compiled = [image.root / path.relative_to("/") for path in list_files(image.root) if path.suffix == ".pyc"]
    assert len(compiled) > 500
    assert {struct.unpack("<I", path.read_bytes()[4:8])[0] for path in compiled} == {UNCHECKED_HASH}


def test_each_module_has_one_bytecode_file_and_its_source(image: Image) -> None:
    paths = list_files(image.root)
    compiled = [path for path in paths if path.suffix == ".pyc"]
    tags = {path.name.partition(".")[2] for path in compiled}
    assert len(tags) == 1, "one interpreter, without optimization levels"
    sources = {path.parent.parent / f"{path.name.partition('.')[0]}.py" for path in compiled}
    links = {PurePosixPath("/") / path.relative_to(image.root) for path in image.root.glob("usr/lib/python3*/*.py")}
    assert sources - paths.keys() - links == set()
    # A start with a read-only root cannot store bytecode.
    assert {path for path in paths if path.suffix == ".py"} - sources <= {PurePosixPath(name) for name in WITHOUT}


def test_no_user_of_the_image_can_write_its_program_and_each_can_write_temporary_files(image: Image) -> None:
    for path in (image.root / "opt/podidentity").rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_uid == 0
            assert not path.stat().st_mode & 0o022, path
    assert (image.root / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_the_bill_of_materials_names_exactly_the_installed_packages(image: Image) -> None:
    listed = {(component["name"], component["version"]) for component in image.bill["components"]}
    python = {(str(canonicalize_name(name)), version) for name, version in listed}
    debian = {(package["name"], package["version"]) for package in debian_packages(image.root)}
    of_the_base = list(python_of_the_base(image.root))
    assert installed(image) <= python
    assert debian <= listed
    assert len(listed) == len(installed(image)) + len(debian) + len(of_the_base)


def test_each_listed_debian_package_has_a_licence_in_the_image(image: Image) -> None:
    names = [package["name"] for package in debian_packages(image.root)]
    assert {"libc6", "ca-certificates"} <= set(names)
    assert not [name for name in names if not (image.root / "usr/share/doc" / name / "copyright").is_file()]


def test_the_packages_of_the_statements_about_vulnerabilities_are_those_of_the_image(image: Image) -> None:
    components = {component["purl"] for component in image.bill["components"] if "purl" in component}
    statements = read((ROOT / FILE).read_text())
    if (BUILT / "base.snapshot").read_text().startswith("mirror "):  # its versions change without a change here
        components = {component.partition("@")[0] for component in components}
        statements = [{**statement, "package": statement["package"].partition("@")[0]} for statement in statements]
    assert [*differences(statements, [Product(image.name, "", components)])] == []


def test_the_parts_of_packages_that_the_statements_name_are_not_in_an_image(image: Image) -> None:
    programs = {file.name for file in (image.root / "usr/bin").iterdir() if not file.name.startswith("python3")}
    assert programs == {"sleep"}, "no other program of coreutils and none of util-linux"
    assert not [name for name in ("chroot", "chfn", "chsh") if (image.root / "usr/sbin" / name).exists()]
    (library,) = (file for file in image.root.glob("usr/lib/*/libz.so.1*") if not file.is_symlink())
    content = library.read_bytes()
    assert b"inflateInit2_" in content
    for function in (b"zipOpenNewFile", b"unzOpen"):
        assert function not in content, "zlib contains minizip"


def test_the_image_has_its_labels(image: Image) -> None:
    labels = image.config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"aad-pod-identity {image.name}"
    assert labels["org.opencontainers.image.version"] == image.bill["metadata"]["component"]["version"] == VERSION
    # The bill lists the wheel with its own version, in the form of PEP 440 (docs/releasing.md).
    (wheel,) = (component for component in image.bill["components"] if component["name"] == "aad-pod-identity")
    assert Version(wheel["version"]) == Version(VERSION)
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["org.opencontainers.image.revision"])


def test_each_image_has_a_digest_and_all_have_the_same_base_layer() -> None:
    # `make local-images` compares the digests with those of a second build.
    assert len(re.findall(r"sha256:[0-9a-f]{64}", (BUILT / "images.txt").read_text())) == len(COMMANDS)
    layers = []
    for name in COMMANDS:
        with tarfile.open(BUILT / f"{name}.tar") as archive:
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


def test_an_image_is_smaller_than_its_limit_and_no_group_of_files_grew(image: Image) -> None:
    files = list_files(image.root)
    assert measure(files)[TOTAL] <= LIMITS.get(image.name, math.inf)
    growth = list(find_growth(json.loads(RECORD.read_text())[image.name], files))
    assert not growth, "\n".join([f"{image.name}:", *growth, RENEW])


def test_no_unused_programs_packages_and_files_are_in_an_image(image: Image) -> None:
    commands = [path.name for path in image.root.glob("**/*bin/*")]
    assert len(commands) > 3
    assert not [name for name in commands if UNUSED_PROGRAMS.fullmatch(name)]
    assert not [path for path in list_files(image.root) if UNUSED_FILES.search(str(path))]
    assert not [path for pattern in UNUSED_PACKAGES for path in image.site.glob(pattern)]
    assert not (image.root / "src").exists()


def test_compiled_files_have_no_symbol_tables(image: Image) -> None:
    files = [image.root / path.relative_to("/") for path in list_files(image.root)]
    contents = {path: content for path in files if (content := path.read_bytes()).startswith(b"\x7fELF")}
    assert len(contents) > 50
    assert not [path for path, content in contents.items() if SYMBOL_TABLE in section_types(content)]


def section_types(content: bytes) -> set[int]:
    """Return the types of the sections of a 64-bit little-endian ELF file."""
    (offset,) = struct.unpack_from("<Q", content, 0x28)
    size, count = struct.unpack_from("<HH", content, 0x3A)
    return {struct.unpack_from("<I", content, offset + number * size + 4)[0] for number in range(count)}
