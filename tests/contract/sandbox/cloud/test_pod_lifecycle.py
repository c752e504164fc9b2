"""The effects of scheduler and kubelets on pods, through the API server. Excluded: network namespaces, the demo."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from podidentity.kube.errors import NotFound
from podidentity.resources import NODES, PODS
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import SandboxSettings
from tests.support.sandbox.cloud.fixtures import pod
from tests.support.waiting import until

DEMO = "mcr.microsoft.com/k8s/aad-pod-identity/demo:1.2"


@pytest.fixture
async def stage() -> AsyncIterator[Sandbox]:
    """A sandbox without MIC and NMI, with its pods on loopback addresses."""
    async with Sandbox(SandboxSettings(nodes=2, programs=False, namespaces=False, environment=os.environ)) as sandbox:
        yield sandbox


async def runs(stage: Sandbox, name: str) -> bool:
    return (await stage.cluster.client.get(PODS, "default", name)).status.phase == "Running"


async def gone(stage: Sandbox, name: str) -> bool:
    try:
        await stage.cluster.client.get(PODS, "default", name)
    except NotFound:
        return True
    return False


async def test_pods_without_a_node_are_spread_and_run_with_an_address_each(stage: Sandbox) -> None:
    names = ["one", "two", "three", "four"]
    for name in names:
        await stage.cluster.apply(pod(name))
    for name in names:
        await until(lambda name=name: runs(stage, name), stage.failure)  # type: ignore[misc] # the default binds it
    pods = await stage.cluster.client.list(PODS, "default")
    assert sorted(pod.spec.node_name for pod in pods) == ["node-0", "node-0", "node-1", "node-1"]
    assert len({pod.status.pod_ip for pod in pods}) == 4
    assert all(pod.addresses == (pod.status.pod_ip,) for pod in pods)


async def test_a_pod_is_pending_until_a_node_has_the_labels_of_its_node_selector(stage: Sandbox) -> None:
    await stage.cluster.apply(pod("second", nodeSelector={"kubernetes.io/hostname": "node-1"}))
    await stage.cluster.apply(pod("disk", nodeSelector={"disk": "ssd"}))

    async def pending_conditions() -> list[Any]:
        document = json.loads(await stage.cluster.client.request("GET", PODS.path("default", "disk")))
        assert "nodeName" not in document["spec"]
        return document["status"].get("conditions") or []

    async def is_reported() -> bool:
        return bool(await pending_conditions())

    await until(is_reported, stage.failure)
    assert await pending_conditions() == [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
        }
    ]
    await until(lambda: runs(stage, "second"), stage.failure)
    assert (await stage.cluster.client.get(PODS, "default", "second")).spec.node_name == "node-1"
    await stage.cluster.client.patch_merge(NODES, "", "node-0", {"metadata": {"labels": {"disk": "ssd"}}})
    await until(lambda: runs(stage, "disk"), stage.failure)
    assert (await stage.cluster.client.get(PODS, "default", "disk")).spec.node_name == "node-0"


async def test_a_pod_of_another_scheduler_is_left_alone_and_a_host_network_pod_has_the_nodes_address(
    stage: Sandbox,
) -> None:
    await stage.cluster.apply(pod("foreign", schedulerName="other"))
    await stage.cluster.apply(pod("host", hostNetwork=True, nodeName="node-1"))
    await until(lambda: runs(stage, "host"), stage.failure)
    assert (await stage.cluster.client.get(PODS, "default", "host")).status.pod_ip == "127.0.0.1"
    assert (await stage.cluster.client.get(PODS, "default", "foreign")).spec.node_name == ""


async def test_a_deleted_or_force_deleted_pod_is_removed_and_its_namesake_is_another_pod(stage: Sandbox) -> None:
    await stage.cluster.apply(pod("again"))
    await until(lambda: runs(stage, "again"), stage.failure)
    first = await stage.cluster.client.get(PODS, "default", "again")
    await stage.cluster.client.delete(PODS, "default", "again")
    await until(lambda: gone(stage, "again"), stage.failure)
    await stage.cluster.apply(pod("again"))
    await until(lambda: runs(stage, "again"), stage.failure)
    second = await stage.cluster.client.get(PODS, "default", "again")
    assert first.metadata.uid != second.metadata.uid
    await stage.cluster.client.request(
        "DELETE", PODS.path("default", "again"), body=b'{"gracePeriodSeconds":0}', content_type="application/json"
    )

    async def forgotten() -> bool:
        return all(kubelet.context("default", "again") is None for kubelet in stage.cluster.kubelets.values())

    await until(forgotten, stage.failure)


async def test_the_demo_image_runs_with_the_declared_environment_and_its_log_is_kept(stage: Sandbox) -> None:
    source = {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    host = {"name": "AZURE_POD_IDENTITY_AUTHORITY_HOST", "value": "http://127.0.0.1:1"}
    container = {
        "args": ["--subscriptionid=s", "--clientid=c", "--resourcegroup=g", "--retry-wait-time=0.1"],
        "env": [{"name": "MY_POD_IP", **source}, host],
    }
    await stage.cluster.apply(pod("demo", image=DEMO, container=container))

    async def error_is_logged() -> bool:
        log = await stage.cluster.pod_log("default", "demo")
        return "failed to doARMOperations, error: no answer from http://127.0.0.1:1:" in log

    await until(error_is_logged, stage.failure)


async def test_an_ended_program_is_restarted_unless_the_pod_says_never(stage: Sandbox) -> None:
    wrong = {"args": ["--no-such-flag"]}
    await stage.cluster.apply(pod("never", image=DEMO, container=wrong, restartPolicy="Never"))

    async def failed() -> bool:
        return (await stage.cluster.client.get(PODS, "default", "never")).status.phase == "Failed"

    await until(failed, stage.failure)
    await stage.cluster.apply(pod("always", image=DEMO, container=wrong))

    async def twice() -> bool:
        return (await stage.cluster.pod_log("default", "always")).count("usage:") >= 2

    await until(twice, stage.failure)
    await stage.cluster.client.delete(PODS, "default", "always")
    await until(lambda: gone(stage, "always"), stage.failure)


async def test_the_log_of_an_ended_pod_can_be_read_and_followed_until_it_is_deleted(stage: Sandbox) -> None:
    wrong = {"args": ["--no-such-flag"]}
    await stage.cluster.apply(pod("ended", image=DEMO, nodeName="node-0", container=wrong, restartPolicy="Never"))
    kubelet = stage.cluster.kubelets["node-0"]

    async def usage_is_logged(*, follow: bool) -> bool:
        async with asyncio.timeout(60):
            return b"usage:" in b"".join([piece async for piece in kubelet.read_log("default", "ended", follow=follow)])

    async def over() -> bool:
        phase = (await stage.cluster.client.get(PODS, "default", "ended")).status.phase
        return phase == "Failed" and kubelet.context("default", "ended") is None

    await until(over, stage.failure)
    assert await usage_is_logged(follow=False)
    assert await usage_is_logged(follow=True)
    await stage.cluster.client.delete(PODS, "default", "ended")
    await until(lambda: gone(stage, "ended"), stage.failure)

    async def forgotten() -> bool:
        return kubelet.log_file("default", "ended") is None

    await until(forgotten, stage.failure)
