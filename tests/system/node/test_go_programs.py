"""The binaries of the Go implementation that the environment names, and the chart that runs them."""

from pathlib import Path

import pytest
import yaml

from mic.startup.settings import parse as parse_mic
from nmi.settings import parse as parse_nmi
from podidentity_sandbox.processes import ProgramError
from tests.support.go_implementation_chart import CLOUD, MIC_FLAGS, NMI_FLAGS, ProgramImages, write_chart
from tests.system.node.go_programs import go_programs

NMI, MIC = "REFERENCE_NMI", "REFERENCE_MIC"


@pytest.fixture
def program(tmp_path: Path) -> str:
    """An executable that no machine can run."""
    (tmp_path / "program").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "program").chmod(0o755)
    return str(tmp_path / "program")


@pytest.mark.parametrize(("present", "missing"), [(NMI, MIC), (MIC, NMI)])
def test_one_variable_alone_is_refused(program: str, present: str, missing: str) -> None:
    with pytest.raises(ProgramError, match=f"{present} is set without {missing}; set both, or unset {present}"):
        go_programs({present: program})


def test_a_program_for_another_machine_is_refused(program: str) -> None:
    with pytest.raises(ProgramError, match=f"{NMI} is .*, which is no ELF program for .*; set it to a build for"):
        go_programs({NMI: program, MIC: program})


def test_the_chart_runs_the_programs_with_flags_of_both_implementations(tmp_path: Path) -> None:
    chart = write_chart(tmp_path, programs=ProgramImages(nmi="images/nmi:go", mic="images/mic:go"))
    objects = yaml.safe_load_all((chart / "templates" / "all.yaml").read_text())
    pods = [each["spec"]["template"]["spec"] for each in objects if each["kind"] in {"Deployment", "DaemonSet"}]
    found = {container["name"]: (pod, container) for pod in pods for container in pod["containers"]}
    pod, nmi = found["nmi"]
    assert (nmi["image"], nmi["args"], pod["hostNetwork"]) == ("images/nmi:go", list(NMI_FLAGS), True)
    assert nmi["securityContext"]["capabilities"]["add"] == ["DAC_READ_SEARCH", "NET_ADMIN", "NET_RAW"]
    pod, mic = found["mic"]
    assert (mic["image"], mic["args"], pod.get("hostNetwork")) == ("images/mic:go", list(MIC_FLAGS), None)
    assert {each["hostPath"]["path"] for each in pod["volumes"]} == {"/etc/kubernetes/azure.json", CLOUD}
    parse_nmi([each.replace("$(NODE_NAME)", "n0") for each in NMI_FLAGS], {})
    parse_mic(list(MIC_FLAGS), {"MIC_POD_NAMESPACE": "identity"})
