"""Requests to the real kube-apiserver with the selectors of NMI and MIC, from an account with read permissions only."""

import asyncio
from pathlib import Path

import pytest

from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, IDENTITIES, NODES, PODS
from tests.conftest import NewPlane
from tests.mic.emulated_cloud import EmulatedCloud
from tests.mic.preview.run_programs import Answer, run
from tests.mic.real_server import add_node, assigned, bind, in_place_of_the_emulator, run_pod
from tests.support.objects import vm_id
from tests.testplane.accounts import create_account
from tests.testplane.up import Plane

pytestmark = pytest.mark.plane

READ = ["get", "list"]
RULES = [
    {"apiGroups": [kind.group], "resources": [kind.plural], "verbs": READ}
    for kind in (PODS, NODES, IDENTITIES, BINDINGS, ASSIGNED_IDENTITIES, EXCEPTIONS)
] + [{"apiGroups": [""], "resources": ["events"], "verbs": READ}]


async def ask(folder: Path, *words: str) -> Answer:
    return await run(folder, "podidctl", "explain", "pod", *words, cloudconfig=False)


async def test_a_pod_is_explained_from_its_label_to_its_node(cloud: EmulatedCloud, new_plane: NewPlane) -> None:
    def prepare(plane: Plane) -> None:
        add_node(plane, "n0", vm_id("n0"))
        bind(plane, "demo")
        folder = cloud.folder / "reader"
        folder.mkdir()
        (folder / "kubeconfig").write_text(create_account(plane, "reader", RULES))

    real = await in_place_of_the_emulator(cloud, new_plane, prepare)
    reader = cloud.folder / "reader"
    await cloud.mic()
    await asyncio.to_thread(run_pod, real, "web", "n0")
    await assigned(real, web="Assigned")
    status = {"status": {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}]}}
    path = f"{PODS.path('default', 'web')}/status"
    await asyncio.to_thread(real.api, "PATCH", path, status, content_type="application/merge-patch+json")
    runs = "--nmi-flags=--node=n0"  # it is no pod of this cluster
    result = await ask(reader, "web", runs, "-o", "json")
    assert (result.code, result.err) == (0, ""), result.out
    assert result.document["answer"]["outcome"] == "granted"
    assert result.document["eventsUnread"] == ""
    seen = {each["link"]: each["state"] for each in result.document["links"]}
    assert seen["assigned identity"] == seen["host"] == "ok"
    await asyncio.to_thread(real.api, "DELETE", BINDINGS.path("default", "demo"))
    await assigned(real)
    broken = await ask(reader, "default/web")
    assert broken.code == 3
    assert "no AzureIdentityBinding has selector 'demo'" in broken.out
