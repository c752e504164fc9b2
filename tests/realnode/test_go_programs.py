"""The binaries of the Go implementation that the environment names: their images and the chart that runs them."""

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
from tests.realnode.go_programs import TRUST, go_programs

NMI, MIC = "REFERENCE_NMI", "REFERENCE_MIC"
MACHINE = 62 if platform.machine() == "x86_64" else 183
"""The number of this machine in an ELF file."""


@pytest.fixture
def named(tmp_path: Path) -> dict[str, str]:
    """Both variables, with programs for this machine."""
    for name in (NMI, MIC):
        (tmp_path / name).write_bytes(struct.pack("<4sBB10xHH", b"\x7fELF", 2, 1, 2, MACHINE) + name.encode())
        (tmp_path / name).chmod(0o755)
    return {name: str(tmp_path / name) for name in (NMI, MIC)}


@pytest.mark.parametrize(("present", "missing"), [(NMI, MIC), (MIC, NMI)])
def test_one_variable_alone_is_refused(named: dict[str, str], present: str, missing: str) -> None:
    with pytest.raises(ProgramError, match=f"{present} is set without {missing}; set both, or unset {present}"):
        go_programs({present: named[present]})


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


def test_the_chart_runs_the_programs_with_flags_of_both_implementations(tmp_path: Path) -> None:
    chart = write_chart(tmp_path, programs=ProgramImages(nmi="images/nmi:go", mic="images/mic:go"))
    found = containers(yaml.safe_load_all((chart / "templates" / "all.yaml").read_text()))
    pod, nmi = found["nmi"]
    assert (nmi["image"], nmi["args"], pod["hostNetwork"]) == ("images/nmi:go", list(NMI_FLAGS), True)
    assert nmi["securityContext"]["capabilities"]["add"] == ["DAC_READ_SEARCH", "NET_ADMIN", "NET_RAW"]
    pod, mic = found["mic"]
    assert (mic["image"], mic["args"], pod.get("hostNetwork")) == ("images/mic:go", list(MIC_FLAGS), None)
    assert {each["hostPath"]["path"] for each in pod["volumes"]} == {"/etc/kubernetes/azure.json", CLOUD}
    parse_nmi([each.replace("$(NODE_NAME)", "n0") for each in NMI_FLAGS], {})
    parse_mic(list(MIC_FLAGS), {"MIC_POD_NAMESPACE": "identity"})
