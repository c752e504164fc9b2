"""A tenant's pod with the label of NMI or MIC changes no result: a DaemonSet runs NMI in the node's network."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from blockbuster import BlockBuster

from podidctl.diagnosis import gather as pod_gather
from podidctl.diagnosis.daemons import Daemon, genuine_nmi
from podidctl.diagnosis.input import NmiPods
from podidctl.doctor import gather as cluster_gather
from podidctl.migration.federation import state_reader
from podidctl.verify import verification
from podidentity.exits import StartError
from podidentity.kube import access
from podidentity.kube.client import Client
from tests.conftest import detect_blocking
from tests.mic.emulated_cloud import EmulatedCloud
from tests.mic.preview.run_programs import run

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
