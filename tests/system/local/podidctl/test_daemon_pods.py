"""NMI's and MIC's pods: their flags as the programs read them, and a tenant's pods that only have their label."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from blockbuster import BlockBuster

from mic.startup.settings import Settings as MicSettings
from nmi.settings import Settings as NmiSettings
from podidctl.diagnosis import gather as pod_gather
from podidctl.diagnosis.daemons import (
    Daemon,
    DaemonContainer,
    DaemonSpec,
    EnvironmentVariable,
    flags_of,
    genuine_nmi,
    nmi_settings,
)
from podidctl.diagnosis.gather import configuration_of, given_configuration
from podidctl.diagnosis.input import NmiPods, ReadFailure
from podidctl.doctor import gather as cluster_gather
from podidctl.doctor.programs import mic_settings
from podidctl.migration.federation import state_reader
from podidctl.verify import verification
from podidentity.exits import StartError
from podidentity.flags import UsageError
from podidentity.kube import access
from podidentity.kube.client import Client
from podidentity.resources import OwnerReference, PodMeta
from tests.conftest import detect_blocking
from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.preview.run_programs import run
from tests.support.nmi_objects import NODE, pod
from tests.support.podidctl.doctor_inputs import mic, nmi


def containers(*several: DaemonContainer) -> Daemon:
    meta = PodMeta(name="nmi-1", namespace="kube-system")
    return Daemon(metadata=meta, spec=DaemonSpec(node_name=NODE, containers=list(several)))


def test_the_flags_of_a_container_are_read_as_by_the_kubelet() -> None:
    variable = EnvironmentVariable(name="LEVEL", value="4")
    container = DaemonContainer(
        name="nmi", command=["python", "-m", "nmi"], args=["--v=$(LEVEL)", "--x=$(NONE)"], env=[variable]
    )
    assert flags_of(containers(container), "nmi") == ["--v=4", "--x=$(NONE)"]
    for command in (["/bin/nmi", "-v=4", "--x=1"], ["python", "-u", "-m", "nmi", "-v=4", "--x=1"]):
        assert flags_of(containers(DaemonContainer(name="nmi", command=command)), "nmi") == ["-v=4", "--x=1"]
    entry = DaemonContainer(name="nmi", command=["/bin/nmi", "-v=4"], args=["--x=1"])
    assert flags_of(containers(entry), "nmi") == ["-v=4", "--x=1"]
    sidecar, own = DaemonContainer(name="proxy", args=["--v=1"]), DaemonContainer(name="nmi", args=["--v=2"])
    assert flags_of(containers(sidecar, own), "nmi") == ["--v=2"]
    assert flags_of(containers(sidecar), "nmi") == ["--v=1"]
    assert flags_of(containers(), "nmi") == []


def test_given_flags_print_no_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="the flag --help"):
        given_configuration(["--help"])
    assert capsys.readouterr() == ("", "")


def test_the_environment_counts_and_no_file_of_the_pod_is_opened() -> None:
    forced = EnvironmentVariable(name="FORCENAMESPACED", value="true")
    made = containers(DaemonContainer(name="nmi", env=[forced]))
    assert nmi_settings(made).force_namespaced
    assert mic_settings(made).force_namespaced
    assert mic_settings(mic()) == MicSettings(namespace="kube-system")
    assert nmi_settings(nmi("--node=elsewhere")).node_name == NODE
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


def test_the_flags_of_a_daemonsets_pod_count_and_the_defaults_otherwise() -> None:
    owner = OwnerReference(kind="DaemonSet", name="nmi", controller=True)
    meta = PodMeta(name="nmi-2", namespace="kube-system", owner_references=[owner])
    own = Daemon(
        metadata=meta, spec=DaemonSpec(node_name=NODE, host_network=True, containers=[DaemonContainer(name="nmi")])
    )
    impostor = nmi("--operation-mode=managed", "--forceNamespaced", name="a", namespace="a", host_network=False)
    rules = configuration_of(NmiPods((impostor, own)), pod())
    assert rules.source == "the flags of pod kube-system/nmi-2"
    assert not rules.settings.force_namespaced
    rules = configuration_of(NmiPods((nmi("--flag-of-tomorrow"),)), pod())
    assert rules.source.startswith("NMI's defaults, because the flags of pod kube-system/nmi-1 cannot be read (")
    assert rules.settings == NmiSettings(node_name=NODE)
    for there in (NmiPods(), ReadFailure("not allowed")):
        assert "NMI's defaults" in configuration_of(there, pod()).source


OWNER = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "nmi", "uid": "u", "controller": True}
FILE = {"name": "kubelet-config", "hostPath": {"path": "/etc/default/kubelet"}}
"""NMI with the backend `cilium` has a network of its own and this file of the node."""
EMPTY = {"name": "tmp", "emptyDir": {}}


def daemon(name: str, *owners: Any, host_network: bool = False, volumes: tuple[Any, ...] = ()) -> Daemon:
    metadata = {"name": name, "namespace": "tenant", "ownerReferences": list(owners)}
    spec = {"hostNetwork": host_network, "volumes": list(volumes)}
    return msgspec.convert({"metadata": metadata, "spec": spec}, Daemon)


@pytest.mark.parametrize(
    "genuine",
    [
        daemon("nmi", OWNER, host_network=True),
        daemon("nmi", host_network=True),
        daemon("nmi", OWNER, volumes=(EMPTY, FILE)),
    ],
    ids=["host-network", "static-pod", "file-of-the-node"],
)
@pytest.mark.parametrize("other", [daemon("tenants"), daemon("tenants", OWNER, volumes=(EMPTY,))])
def test_only_a_pod_in_the_nodes_network_or_with_its_files_counts(genuine: Daemon, other: Daemon) -> None:
    assert genuine_nmi([other, genuine]) == [genuine]
    assert verification._nmis([other, genuine]) == [genuine]


def test_for_verify_it_does_not_count_without_another_pod_either() -> None:
    """Its image would run as the canary, and its log would be a proof."""
    with pytest.raises(StartError, match="install NMI"):
        verification._nmis([daemon("tenants", OWNER)])


def labelled(
    cloud: EmulatedCloud,
    name: str,
    node: str,
    *,
    component: str = "nmi",
    namespace: str = "default",
    args: Sequence[str] = ("--no-such-flag",),
    owned: bool = True,
    **spec: Any,
) -> None:
    owners = {"ownerReferences": [OWNER]} if spec and owned else {}
    meta = {"name": name, "namespace": namespace, "labels": {"component": component}} | owners
    container = {"name": component, "image": "i", "args": list(args)}
    cloud.api.store.create("pods", {"metadata": meta, "spec": {"nodeName": node, "containers": [container], **spec}})


async def connect(cloud: EmulatedCloud) -> Client:
    return Client(await access.find(str(cloud.folder / "kubeconfig"), {}), user_agent="test")


async def nmi_of(cloud: EmulatedCloud, node: str) -> NmiPods:
    async with await connect(cloud) as client:
        return await pod_gather._nmi(client, node)


def names(found: tuple[Daemon, ...]) -> list[str]:
    return [each.name for each in found]


async def test_explain_ignores_it_next_to_nmi_and_on_a_node_without_nmi(cloud: EmulatedCloud) -> None:
    for node in ("n0", "n1"):
        cloud.node(node)
        labelled(cloud, f"fake-{node}", node)
    assert names((await nmi_of(cloud, "n0")).here) == ["default/fake-n0"], "no other pod can be NMI"
    labelled(cloud, "genuine", "n0", hostNetwork=True)
    assert names((await nmi_of(cloud, "n0")).here) == ["default/genuine"]
    without = await nmi_of(cloud, "n1")
    assert (without.here, names(without.others)) == ((), ["default/genuine"])


async def test_migration_ignores_it(cloud: EmulatedCloud, nothing_blocks_the_loop: BlockBuster) -> None:
    cloud.node("n0")
    labelled(cloud, "fake", "n0")
    labelled(cloud, "genuine", "n0", hostNetwork=True, args=["--operation-mode=managed", "--forceNamespaced"])
    nothing_blocks_the_loop.deactivate()  # the parser of the flags looks for translations
    try:
        async with await connect(cloud) as client:
            assert await state_reader.is_managed(client)
            assert (await state_reader.read_federation_state(client, force_namespaced=False)).nmi_unknown == ""
    finally:
        detect_blocking(nothing_blocks_the_loop)


async def test_doctor_and_top_ignore_it(cloud: EmulatedCloud) -> None:
    cloud.api.store.create("namespaces", {"metadata": {"name": "tenant"}})
    cloud.node("n0")
    labelled(cloud, "fake", "n0", namespace="tenant")
    labelled(cloud, "fake-mic", "n0", component="mic", namespace="tenant")
    labelled(cloud, "genuine", "n0", hostNetwork=True)
    labelled(cloud, "mic", "n0", component="mic")
    async with await connect(cloud) as client:
        nmi = await cluster_gather._nmi(client)
        mic = await cluster_gather._mic(client, nmi)
    assert (names(nmi), names(mic)) == (["default/genuine"], ["default/mic"])
    shown = await run(cloud.folder, "podidctl", "top", "-o", "json", "--interval=1", cloudconfig=False)
    assert [each["pod"] for each in shown.document["nodes"]] == ["default/genuine"]
