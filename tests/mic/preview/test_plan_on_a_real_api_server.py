"""The plan on the real kube-apiserver, with read permissions only, while another MIC leads."""

import asyncio
from typing import Any

import pytest

from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, IDENTITIES, NODES, PODS
from tests.conftest import NewPlane
from tests.mic.emulated_cloud import EmulatedCloud
from tests.mic.preview.run_programs import Answer, run
from tests.mic.real_server import add_node, assigned, bind, in_place_of_the_emulator, run_pod
from tests.support.objects import set_id, vm_id
from tests.testplane.accounts import create_account
from tests.testplane.up import Plane

pytestmark = pytest.mark.plane

KINDS = (PODS, NODES, IDENTITIES, BINDINGS, ASSIGNED_IDENTITIES)
READ = [{"apiGroups": [kind.group], "resources": [kind.plural], "verbs": ["get", "list"]} for kind in KINDS]


@pytest.fixture
async def real(cloud: EmulatedCloud, new_plane: NewPlane) -> Plane:
    """The real server in place of the emulator: MIC's kubeconfig is its administrator's, ours may read five kinds."""

    def prepare(plane: Plane) -> None:
        add_node(plane, "n0", vm_id("n0"))
        add_node(plane, "s0", f"{set_id()}/virtualMachines/0")
        bind(plane, "demo")
        (cloud.folder / "reader").mkdir()
        (cloud.folder / "reader" / "kubeconfig").write_text(create_account(plane, "reader", READ))
        for name in ("azure.json", "cloud.json", "ca.pem"):
            (cloud.folder / "reader" / name).write_text((cloud.folder / name).read_text())

    return await in_place_of_the_emulator(cloud, new_plane, prepare)


async def versions(plane: Plane) -> dict[str, str]:
    """The version of every object that MIC reads or could write, but its lease, which a leader renews."""

    def read() -> dict[str, str]:
        found: dict[str, str] = {}
        for path in (*(kind.path() for kind in KINDS), "/api/v1/events", "/api/v1/configmaps", "/api/v1/endpoints"):
            for item in plane.api("GET", path)["items"]:
                meta: Any = item["metadata"]
                about = str(item.get("involvedObject", {}).get("kind", meta["name"]))
                # Other controllers also write Events, ConfigMaps and Endpoints.
                if path in {kind.path() for kind in KINDS} or about.startswith(("Azure", "aad-pod-identity")):
                    found[f"{path} {meta.get('namespace', '')}/{meta['name']}"] = meta["resourceVersion"]
        return found

    return await asyncio.to_thread(read)


async def leases(plane: Plane) -> list[str]:
    found = await asyncio.to_thread(plane.api, "GET", "/apis/coordination.k8s.io/v1/namespaces/default/leases")
    return [each["metadata"]["name"] for each in found["items"]]


async def plan(cloud: EmulatedCloud, *command: str) -> Answer:
    return await run(cloud.folder / "reader", *command)


async def test_a_read_only_user_gets_the_plan_that_mic_then_executes_and_nothing_is_written(
    cloud: EmulatedCloud, real: Plane
) -> None:
    await asyncio.to_thread(run_pod, real, "web", "n0")
    await asyncio.to_thread(run_pod, real, "api", "s0")
    before = await versions(real)
    result = await plan(cloud, "mic", "--plan", "--plan-output=json")
    assert (result.code, result.err) == (3, "")
    tables = await plan(cloud, "podidctl", "plan")
    assert (tables.code, tables.err) == (3, "")
    assert "default/web-default-demo" in tables.out
    assert await versions(real) == before
    assert await leases(real) == []
    assert cloud.arm.writes() == []
    await cloud.mic()
    await assigned(real, web="Assigned", api="Assigned")
    objects = await asyncio.to_thread(real.api, "GET", ASSIGNED_IDENTITIES.path("default"))
    assert {each["metadata"]["name"] for each in objects["items"]} == {
        each["name"] for host in result.document["hosts"] for each in host["objects"]
    }
    for host in result.document["hosts"]:
        assert cloud.arm.vm(host["host"]).identities == {each.lower() for each in host["add"]}
    assert len(cloud.arm.writes()) == result.document["summary"]["updates"] == 2
