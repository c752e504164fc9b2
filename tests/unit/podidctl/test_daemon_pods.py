"""NMI's and MIC's pods: their flags as the programs read them, and a tenant's pods that only have their label."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from mic.startup.settings import MicSettings
from nmi.settings import NmiSettings
from podidctl.facts.kinds import Daemon, DaemonContainer, DaemonSpec, EnvironmentVariable
from podidctl.facts.model import Facts, ReadFailure, readable
from podidctl.facts.settings import (
    configuration_of,
    flags_of,
    genuine_nmi,
    given_configuration,
    mic_settings,
    nmi_settings,
    on_node,
)
from podidctl.migration.federation import state_reader
from podidctl.migration.federation.planning_input import PlanOptions
from podidctl.reading import reader
from podidctl.top.reader import read_all
from podidctl.verify import verification
from podidentity.azure.clouds import PUBLIC
from podidentity.exits import StartError
from podidentity.flags import UsageError
from podidentity.resources import OwnerReference, PodMeta
from tests.support.nmi_objects import NODE, pod
from tests.support.podidctl.doctor_inputs import cluster_case, mic, nmi
from tests.support.podidctl.memory_cluster import OWNER, MemoryCluster


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
    assert configuration_of((made,), pod()).cloud_file == "/etc/azure/cloud.json"


@pytest.mark.parametrize("flag", ["--help", "-h", "-help", "--help=true"])
def test_the_help_flag_of_a_pod_or_given_prints_no_help_here(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="the flag --help"):
        given_configuration([flag])
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
    rules = configuration_of((impostor, own), pod())
    assert rules.source == "the flags of pod kube-system/nmi-2"
    assert not rules.settings.force_namespaced
    rules = configuration_of((nmi("--flag-of-tomorrow"),), pod())
    assert rules.source.startswith("NMI's defaults, because the flags of pod kube-system/nmi-1 cannot be read (")
    assert rules.settings == NmiSettings(node_name=NODE)
    for there in ((), ReadFailure("not allowed")):
        assert "NMI's defaults" in configuration_of(there, pod()).source


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


def names(daemons: Iterable[Daemon]) -> list[str]:
    return [daemon.name for daemon in daemons]


async def test_explain_ignores_it_next_to_nmi_and_on_a_node_without_nmi(cluster: MemoryCluster) -> None:
    for node in ("n0", "n1"):
        cluster.node(node)
    cluster.daemon("fake-n0")
    cluster.daemon("fake-n1", nodeName="n1", hostNetwork=False)
    assert names(await reader.nmi_on(cluster.client, "n0")) == ["default/fake-n0"], "no other pod can be NMI"
    cluster.daemon("genuine", hostNetwork=True)
    assert names(await reader.nmi_on(cluster.client, "n0")) == ["default/genuine"]
    without = await reader.nmi_on(cluster.client, "n1")
    assert (names(without), on_node(without, "n1")) == (["default/genuine"], [])


async def test_migration_ignores_it(cluster: MemoryCluster) -> None:
    cluster.node("n0")
    cluster.daemon("fake")
    cluster.daemon("genuine", hostNetwork=True, args=["--operation-mode=managed", "--forceNamespaced"])
    assert await state_reader.is_cluster_managed(cluster.client)
    state = await state_reader.read_federation_state(cluster.client, PlanOptions(PUBLIC), force_namespaced=False)
    assert state.nmi_unknown == ""


async def test_doctor_and_top_ignore_it(cluster: MemoryCluster) -> None:
    cluster.api.store.create("namespaces", {"metadata": {"name": "tenant"}})
    cluster.node("n0")
    cluster.daemon("fake", namespace="tenant")
    cluster.daemon("fake-mic", component="mic", namespace="tenant")
    cluster.daemon("genuine", hostNetwork=True)
    cluster.daemon("mic", component="mic")
    facts = await reader.read(cluster.client, Facts(), reader.DAEMONS)
    assert (names(readable(facts.nmi)), names(readable(facts.mic))) == (["default/genuine"], ["default/mic"])
    assert [row.pod for row in await read_all(cluster.client)] == ["default/genuine"]


@pytest.mark.parametrize(("node", "namespaced"), [("", False), ("n0", True)])
def test_a_mic_that_waits_for_a_node_does_not_restrict_identities_to_their_namespace(
    node: str, namespaced: bool
) -> None:
    waiting = mic("--forceNamespaced", name="mic-new", node=node, ready=False)
    assert cluster_case(nmi=(nmi(),), mic=(mic(), waiting)).namespaced is namespaced


def test_the_flags_for_other_nodes_are_those_of_the_first_nmi_also_if_its_node_has_a_second_one() -> None:
    first = nmi("--allow-cross-namespace-secrets", name="nmi-a", node="n0")
    case = cluster_case(nmi=(first, nmi(name="nmi-z", node="n0")))
    assert case.on("n1").source == "the flags of pod kube-system/nmi-a"
    assert case.on("n0").source == "the flags of pod kube-system/nmi-z"
