"""explain, token, doctor and access as programs on a real API server: pods with NMI, and on nodes without it."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, IDENTITIES, NODES, PODS
from tests.conftest import NewPlane, apply_definitions
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.mic.real_server import create
from tests.support.objects import identity_id, set_id
from tests.support.testplane.accounts import create_account, place_pod
from tests.support.testplane.up import Plane
from tests.support.waiting import until_sync

READ = ["get", "list"]
RULES = [
    {"apiGroups": [kind.group], "resources": [kind.plural], "verbs": READ}
    for kind in (PODS, NODES, IDENTITIES, BINDINGS, ASSIGNED_IDENTITIES, EXCEPTIONS)
] + [{"apiGroups": [""], "resources": ["events"], "verbs": READ}]


PLACES = {
    "linux": ({"kubernetes.io/os": "linux"}, []),
    "win": ({"kubernetes.io/os": "windows"}, []),
    "virtual": ({"kubernetes.io/os": "linux", "type": "virtual-kubelet"}, []),
    "gpu": ({"kubernetes.io/os": "linux"}, [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]),
    "full": ({"kubernetes.io/os": "linux"}, []),
}
DAEMON_SETS = "/apis/apps/v1/namespaces/default/daemonsets"
READY = [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]
"""The API server adds the taint to a new node."""


def prepare(plane: Plane) -> None:
    """Nodes with a labelled pod each, and NMI's DaemonSet, whose pod runs on the first node."""
    apply_definitions(plane)
    for number, (name, (labels, taints)) in enumerate(PLACES.items()):
        spec = {"providerID": f"azure://{set_id()}/virtualMachines/{number}", "taints": taints}
        plane.api("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}, "spec": spec})
        place_pod(plane, f"on-{name}", name, {"aadpodidbinding": "demo"}, address=f"10.0.0.{number + 7}")
    create(plane, IDENTITIES, "demo", {"type": 0, "resourceID": identity_id("demo"), "clientID": "c"})
    create(plane, BINDINGS, "demo", {"azureIdentity": "demo", "selector": "demo"})
    template: dict[str, Any] = {
        "metadata": {"labels": {"component": "nmi"}},
        "spec": {
            "hostNetwork": True,
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": READY,
            "containers": [{"name": "nmi", "image": "i", "args": ["--node=$(NODE_NAME)"]}],
        },
    }
    whole = {"selector": {"matchLabels": {"component": "nmi"}}, "template": template}
    plane.api("POST", DAEMON_SETS, {"metadata": {"name": "nmi"}, "spec": whole})
    name = until_created(plane, "linux")
    until_created(plane, "full")
    target = {"target": {"kind": "Node", "name": "linux"}}
    plane.api("POST", f"{PODS.path('default', name)}/binding", {"metadata": {"name": name}, **target})


def until_created(plane: Plane, node: str) -> str:
    """Return the name of the pod that the DaemonSet's controller created for *node*. There is no scheduler."""

    def name() -> str:
        for pod in plane.api("GET", f"{PODS.path('default')}?labelSelector=component%3Dnmi")["items"]:
            if f'"{node}"' in json.dumps(pod["spec"]["affinity"]):
                return str(pod["metadata"]["name"])
        return ""

    return until_sync(name, f"the controller creates a pod for {node}")


@pytest.fixture
def folder(new_plane: NewPlane, tmp_path: Path) -> Path:
    """Return the folder of the administrator's kubeconfig, and of `reader` with that of an account that only reads."""
    plane = new_plane()
    prepare(plane)
    shutil.copyfile(plane.kubeconfig, tmp_path / "kubeconfig")
    (tmp_path / "reader").mkdir()
    (tmp_path / "reader" / "kubeconfig").write_text(create_account(plane, "reader", RULES))
    return tmp_path


CAUSES = {
    "win": "the node runs Windows, where NMI does not run",
    "virtual": "the node is virtual (virtual-kubelet), where NMI does not run",
    "gpu": "NMI's DaemonSet nmi does not tolerate its taint sku=gpu:NoSchedule",
    "full": "is not scheduled to it: the scheduler has not reported a reason",
}


@pytest.mark.plane
async def test_each_command_names_the_cause(folder: Path) -> None:
    async def ask(*words: str, folder: Path = folder) -> CommandResult:
        return await run(folder, "podidctl", *words, "-o", "json", cloudconfig=False)

    async def nmi_link(name: str) -> dict[str, Any]:
        explained = await ask("explain", "pod", f"on-{name}", folder=folder / "reader")
        assert (explained.code, explained.err, explained.document["eventsUnread"]) == (3, "", "")
        (link,) = [link for link in explained.document["links"] if link["link"] == "NMI"]
        return dict(link)

    for name, cause in CAUSES.items():
        assert cause in (await nmi_link(name))["says"]
    about = (await nmi_link("linux"))["about"]
    assert about.startswith("default/nmi-"), "NMI has a pod here, whose readiness no kubelet reports"
    doctor, access = await asyncio.gather(ask("doctor"), ask("access"))
    sentences = {finding["says"] for finding in doctor.document["findings"] if finding["check"] == "NMI"}
    for name, cause in CAUSES.items():
        assert any(cause in sentence and sentence.count(name) for sentence in sentences), (name, sentences)
    states = {grant["pod"]: grant["state"] for grant in access.document["grants"]}
    assert states == {
        "default/on-linux": "pending",
        **{f"default/on-{cause_name}": "bypassed" for cause_name in CAUSES},
    }
