"""NMI's and MIC's flags as their pods' manifests have them, read as the kubelet and the programs would."""

import pytest

from mic.startup.settings import Settings as MicSettings
from nmi.settings import Settings as NmiSettings
from podidctl.diagnosis.daemons import Daemon, DaemonContainer, DaemonSpec, EnvironmentVariable, flags_of, nmi_settings
from podidctl.diagnosis.gather import configuration_of, given_configuration
from podidctl.diagnosis.input import NmiPods, ReadFailure
from podidctl.doctor.programs import mic_settings
from podidentity.flags import UsageError
from podidentity.resources import OwnerReference, PodMeta
from tests.podidctl.doctor_inputs import mic, nmi
from tests.support.nmi_objects import NODE, pod


def containers(*several: DaemonContainer) -> Daemon:
    meta = PodMeta(name="nmi-1", namespace="kube-system")
    return Daemon(metadata=meta, spec=DaemonSpec(node_name=NODE, containers=list(several)))


def test_variables_are_expanded_and_the_program_name_is_no_flag() -> None:
    variable = EnvironmentVariable(name="LEVEL", value="4")
    container = DaemonContainer(
        name="nmi", command=["python", "-m", "nmi"], args=["--v=$(LEVEL)", "--x=$(NONE)"], env=[variable]
    )
    assert flags_of(containers(container), "nmi") == ["--v=4", "--x=$(NONE)"]


def test_a_flag_with_one_dash_is_accepted() -> None:
    for command in (["/bin/nmi", "-v=4", "--x=1"], ["python", "-u", "-m", "nmi", "-v=4", "--x=1"]):
        assert flags_of(containers(DaemonContainer(name="nmi", command=command)), "nmi") == ["-v=4", "--x=1"]
    entry = DaemonContainer(name="nmi", command=["/bin/nmi", "-v=4"], args=["--x=1"])
    assert flags_of(containers(entry), "nmi") == ["-v=4", "--x=1"]


def test_given_flags_print_no_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="the flag --help"):
        given_configuration(["--help"])
    assert capsys.readouterr() == ("", "")


def test_the_container_of_that_name_is_used_and_the_first_otherwise() -> None:
    sidecar, own = DaemonContainer(name="proxy", args=["--v=1"]), DaemonContainer(name="nmi", args=["--v=2"])
    assert flags_of(containers(sidecar, own), "nmi") == ["--v=2"]
    assert flags_of(containers(sidecar), "nmi") == ["--v=1"]
    assert flags_of(containers(), "nmi") == []


def test_the_node_is_the_pods_own_whatever_its_flag_says() -> None:
    assert nmi_settings(nmi("--node=elsewhere")).node_name == NODE


def test_an_environment_that_forces_namespaced_mode_counts_for_both_programs() -> None:
    forced = EnvironmentVariable(name="FORCENAMESPACED", value="true")
    made = containers(DaemonContainer(name="nmi", env=[forced]))
    assert nmi_settings(made).force_namespaced
    assert mic_settings(made).force_namespaced
    assert mic_settings(mic()) == MicSettings(namespace="kube-system")


def test_a_file_path_of_the_pod_is_not_opened_here() -> None:
    cloud = EnvironmentVariable(name="AZURE_ENVIRONMENT_FILEPATH", value="/etc/azure/cloud.json")
    made = containers(DaemonContainer(name="nmi", env=[cloud]))
    assert nmi_settings(made).azure_environment_file is None
    assert configuration_of(NmiPods((made,)), pod()).cloud_file == "/etc/azure/cloud.json"


@pytest.mark.parametrize("flag", ["--help", "-h", "-help", "--help=true"])
def test_a_pod_with_the_help_flag_prints_no_help_here(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    for read, made in ((nmi_settings, nmi(flag)), (mic_settings, mic(flag))):
        with pytest.raises(UsageError, match="the flag --help"):
            read(made)
    assert capsys.readouterr() == ("", "")


def test_a_pod_of_a_daemonset_takes_precedence_over_a_pod_with_only_the_label() -> None:
    owner = OwnerReference(kind="DaemonSet", name="nmi", controller=True)
    meta = PodMeta(name="nmi-2", namespace="kube-system", owner_references=[owner])
    own = Daemon(
        metadata=meta, spec=DaemonSpec(node_name=NODE, host_network=True, containers=[DaemonContainer(name="nmi")])
    )
    impostor = nmi("--operation-mode=managed", "--forceNamespaced", name="a", namespace="a", host_network=False)
    rules = configuration_of(NmiPods((impostor, own)), pod())
    assert rules.source == "the flags of pod kube-system/nmi-2"
    assert not rules.settings.force_namespaced


def test_flags_that_cannot_be_read_are_reported_and_the_defaults_are_used() -> None:
    rules = configuration_of(NmiPods((nmi("--flag-of-tomorrow"),)), pod())
    assert rules.source.startswith("NMI's defaults, because the flags of pod kube-system/nmi-1 cannot be read (")
    assert rules.settings == NmiSettings(node_name=NODE)


def test_without_a_pod_of_nmi_the_defaults_are_used_and_reported() -> None:
    for there in (NmiPods(), ReadFailure("not allowed")):
        assert "NMI's defaults" in configuration_of(there, pod()).source
