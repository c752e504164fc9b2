"""The binaries of the Go implementation that the environment names: checks, images and the chart that runs them."""

import json
import platform
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mic.startup.settings import parse as parse_mic
from nmi.settings import parse as parse_nmi
from podidentity_sandbox.processes import ProgramError
from tests.deploy.go_implementation_chart import CLOUD, MIC_FLAGS, NMI_FLAGS, ProgramImages, write_chart
from tests.realnode import oci
from tests.realnode.go_programs import TRUST, GoPrograms, go_programs

NMI, MIC = "REFERENCE_NMI", "REFERENCE_MIC"
THIS, OTHER = (62, 183) if platform.machine() == "x86_64" else (183, 62)
"""The numbers of this machine and of another in an ELF file."""


def elf(machine: int, *, bits: int = 2) -> bytes:
    return struct.pack("<4sBB10xHH", b"\x7fELF", bits, 1, 2, machine) + b"program"


def executable(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o755)
    return path


@pytest.fixture
def named(tmp_path: Path) -> dict[str, str]:
    """Both variables, with programs for this machine."""
    return {name: str(executable(tmp_path / name, elf(THIS) + name.encode())) for name in (NMI, MIC)}


def test_without_the_variables_there_are_none() -> None:
    assert go_programs({}) is None
    assert go_programs({NMI: "", MIC: ""}) is None


def test_both_variables_name_the_programs(named: dict[str, str]) -> None:
    assert go_programs(named) == GoPrograms(nmi=Path(named[NMI]), mic=Path(named[MIC]))


@pytest.mark.parametrize(("present", "missing"), [(NMI, MIC), (MIC, NMI)])
def test_one_variable_alone_is_refused(named: dict[str, str], present: str, missing: str) -> None:
    with pytest.raises(ProgramError, match=f"{present} is set without {missing}; set both, or unset {present}"):
        go_programs({present: named[present]})


@pytest.mark.parametrize(("variable", "program"), [(NMI, "nmi"), (MIC, "mic")])
def test_a_file_that_cannot_be_executed_is_refused(named: dict[str, str], variable: str, program: str) -> None:
    message = (
        f"{variable} is .*, which is not an executable file; set it to the path of the Go implementation's {program}"
    )
    Path(named[variable]).chmod(0o644)
    with pytest.raises(ProgramError, match=message):
        go_programs(named)
    Path(named[variable]).unlink()
    with pytest.raises(ProgramError, match=message):
        go_programs(named)


@pytest.mark.parametrize(
    "content",
    [elf(OTHER), elf(THIS, bits=1), b"#!/bin/sh\nexec nmi\n", b""],
    ids=["architecture", "32-bits", "script", "empty"],
)
@pytest.mark.parametrize("variable", [NMI, MIC])
def test_a_program_of_another_machine_is_refused(named: dict[str, str], variable: str, content: bytes) -> None:
    executable(Path(named[variable]), content)
    with pytest.raises(ProgramError, match=f"{variable} is .*, which is no ELF program for {platform.machine()}"):
        go_programs(named)


def config_of(archive: Path) -> dict[str, Any]:
    image = oci.read_image(archive)
    manifest = json.loads(image.content[image.digest])
    return dict(json.loads(image.content[manifest["config"]["digest"]])["config"])


def test_each_program_replaces_the_command_of_this_projects_image(named: dict[str, str], tmp_path: Path) -> None:
    images, folder = tmp_path / "images", tmp_path / "made"
    images.mkdir()
    folder.mkdir()
    files = {"usr/sbin/iptables": b"iptables", TRUST: b"public authorities\n"}
    for name in ("nmi", "mic"):
        oci.write_image(images / f"{name}.tar", f"localhost/{name}:1", files, f"/opt/{name}", "amd64")
    programs = go_programs(named)
    assert programs is not None
    archives = programs.write_images(images, folder, b"the sandbox's authority\n")
    assert sorted(folder.iterdir()) == sorted(archives), "nothing else remains"
    for archive, name, variable in zip(archives, ("nmi", "mic"), (NMI, MIC), strict=True):
        assert oci.read_file(archive, name) == Path(named[variable]).read_bytes()
        assert oci.read_file(archive, "usr/sbin/iptables") == b"iptables"
        assert oci.read_file(archive, TRUST) == b"public authorities\nthe sandbox's authority\n"
        config = config_of(archive)
        assert (config["Entrypoint"], config["Cmd"]) == ([f"/{name}"], [])
        assert mode_of(archive, name) == 0o755


def mode_of(archive: Path, path: str) -> int:
    """Return the mode of a file in the last layer."""
    *_, digest = oci.read_image(archive).layers
    layer = archive.with_suffix(".layer")
    layer.write_bytes(oci.read_image(archive).content[digest])
    with tarfile.open(layer) as tar:
        return tar.getmember(path).mode


def containers(objects: Iterable[dict[str, Any]]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return the specification of the pod, and its container, by the container's name."""
    pods = [each["spec"]["template"]["spec"] for each in objects if each["kind"] in {"Deployment", "DaemonSet"}]
    return {container["name"]: (pod, container) for pod in pods for container in pod["containers"]}


def rendered(folder: Path, programs: ProgramImages | None) -> list[dict[str, Any]]:
    chart = write_chart(folder, programs=programs)
    return list(yaml.safe_load_all((chart / "templates" / "all.yaml").read_text()))


def test_the_chart_runs_the_programs_with_flags_of_both_implementations(tmp_path: Path) -> None:
    found = containers(rendered(tmp_path, ProgramImages(nmi="images/nmi:go", mic="images/mic:go")))
    pod, nmi = found["nmi"]
    assert (nmi["image"], nmi["args"], pod["hostNetwork"]) == ("images/nmi:go", list(NMI_FLAGS), True)
    assert nmi["securityContext"]["capabilities"]["add"] == ["DAC_READ_SEARCH", "NET_ADMIN", "NET_RAW"]
    pod, mic = found["mic"]
    assert (mic["image"], mic["args"], pod.get("hostNetwork")) == ("images/mic:go", list(MIC_FLAGS), None)
    assert {each["hostPath"]["path"] for each in pod["volumes"]} == {"/etc/kubernetes/azure.json", CLOUD}
    parse_nmi([each.replace("$(NODE_NAME)", "n0") for each in NMI_FLAGS], {})
    parse_mic(list(MIC_FLAGS), {"MIC_POD_NAMESPACE": "identity"})


def test_without_programs_the_chart_has_an_image_without_flags(tmp_path: Path) -> None:
    for _, container in containers(rendered(tmp_path, None)).values():
        assert container == {"name": container["name"], "image": "theirs"}
