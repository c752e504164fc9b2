"""`podidctl verify` on the real API server: admission, permissions, logs, clean-up.

The kubelets publish results of canaries and logs of NMI. tests/system/local/podidctl/verify runs the programs.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from aiohttp import web
from typing_extensions import override

from nmi.server.decision_lines import LOGGER
from podidctl.verify.pod import CANARY_SELECTOR, CONTAINER
from podidentity.resources import NODES, PODS
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.serving import HttpService
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.testplane.accounts import create_account, place_pod
from tests.support.testplane.up import Plane
from tests.support.waiting import until_sync

pytestmark = pytest.mark.plane

MERGE: Final = "application/merge-patch+json"
ADDRESS: Final = "10.9.0.1"
ALL_CANARIES: Final = f"{PODS.path()}?labelSelector={quote(CANARY_SELECTOR)}"


def container_status(state: dict[str, Any], phase: str = "Pending") -> dict[str, Any]:
    """Return the status of a canary pod whose container has *state*."""
    status = {"name": CONTAINER, "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    return {"phase": phase, "containerStatuses": [status]}


def answered(who: str) -> dict[str, Any]:
    """Return the status of a canary that *who* answered."""
    message = json.dumps([{"who": who, "source": ADDRESS, "status": 404, "server": "", "text": ""}] * 5)
    state = {"exitCode": 0 if who == "nmi" else 3, "reason": "Completed", "message": message}
    return container_status({"terminated": state}, "Succeeded")


class Kubelets(HttpService):
    """The kubelets of several nodes."""

    def __init__(self, plane: Plane, namespace: str) -> None:
        super().__init__()
        self.plane = plane
        self.namespace = namespace
        self.statuses: dict[str, Mapping[str, Any] | None] = {}
        """By node, the status that a canary gets there; None if nothing happens."""
        self.logs: dict[str, str] = {}
        """By node, the node on which NMI logs the canary's request."""
        self.canaries: list[dict[str, Any]] = []
        """All canary pods so far, as created."""

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the log of the NMI that the API server requests."""
        node = request.path.removeprefix("/containerLogs/default/nmi-").removesuffix("/nmi")
        request_ids = [pod["spec"]["containers"][0]["args"][2] for pod in self.canaries if self._logs_at(pod) == node]
        head = f"I0101 00:00:00.000000 {LOGGER}] refused"
        return web.Response(
            text="".join(f'{head} client_request="{request_id}" peer="{ADDRESS}"\n' for request_id in request_ids)
        )

    def _logs_at(self, canary: dict[str, Any]) -> str:
        return self.logs.get(canary["spec"]["nodeName"], "")

    async def call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        return await asyncio.to_thread(self.plane.api, method, path, body, content_type)

    async def add_node(
        self, name: str, status: Mapping[str, Any] | None = None, *, logs_at: str = "", nmi: bool = True, **node: str
    ) -> None:
        """Add a node with NMI's pod, and with the *status* of its canary."""
        self.statuses[name] = status
        self.logs[name] = logs_at
        labels = {"kubernetes.io/os": node.get("system", "linux")}
        await self.call("POST", NODES.path(), {"metadata": {"name": name, "labels": labels}})
        ready = {"type": "Ready", "status": node.get("ready", "True"), "message": "no network"}
        published = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "conditions": [ready],
        }
        await self.call("PATCH", NODES.path("", name, "status"), {"status": published}, MERGE)
        if nmi:
            labels = {"app.kubernetes.io/component": "nmi"}
            every: dict[str, Any] = {"hostNetwork": True, "tolerations": [{"operator": "Exists"}]}
            await asyncio.to_thread(
                lambda: place_pod(self.plane, f"nmi-{name}", name, labels, address="127.0.0.1", **every)
            )

    async def run(self) -> None:
        handled: set[str] = set()
        while True:
            for pod in (await self.call("GET", ALL_CANARIES))["items"]:
                if pod["metadata"]["uid"] not in handled and pod["spec"]["nodeName"] in self.statuses:
                    handled.add(pod["metadata"]["uid"])
                    self.canaries.append(pod)
                    status = self.statuses[pod["spec"]["nodeName"]]
                    if status is not None:
                        path = PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"], "status")
                        await self.call("PATCH", path, {"status": status}, MERGE)
            await asyncio.sleep(0.05)

    async def remove_all(self) -> None:
        for node in self.statuses:
            await self.call("DELETE", NODES.path("", node))
        await self.call("DELETE", f"{PODS.path('default')}?labelSelector=app.kubernetes.io%2Fcomponent%3Dnmi")
        await self.call("DELETE", f"/api/v1/namespaces/{self.namespace}")

    async def left(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in (await self.call("GET", ALL_CANARIES))["items"]]


@pytest.fixture
def namespace(plane: Plane) -> str:
    """A namespace that enforces the restricted Pod Security level."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    made = plane.api("POST", "/api/v1/namespaces", {"metadata": {"generateName": "verify-", "labels": labels}})
    name = str(made["metadata"]["name"])
    for ns in (name, "default"):
        until_sync(lambda ns=ns: plane.api("GET", f"/api/v1/namespaces/{ns}/serviceaccounts")["items"])  # type: ignore[misc]
    return name


@pytest.fixture
async def nodes(plane: Plane, namespace: str, tmp_path: Path) -> AsyncIterator[Kubelets]:
    running = Kubelets(plane, namespace)
    await running.start(ssl_context=await asyncio.to_thread(Authority("kubelets").server_context))
    task = asyncio.create_task(running.run(), name="kubelets")
    (tmp_path / "kubeconfig").symlink_to(plane.kubeconfig)
    try:
        yield running
    finally:
        task.cancel()
        await asyncio.wait({task})
        await running.remove_all()
        await running.stop()


async def verify(folder: Path, namespace: str, *flags: str) -> CommandResult:
    command = ("podidctl", "verify", "-o", "json", f"--namespace={namespace}", *flags)
    return await run(folder, *command, cloudconfig=False)


def verdicts(answer: CommandResult) -> dict[str, tuple[str, str]]:
    return {node["node"]: (node["level"], node["answeredBy"]) for node in answer.document["nodes"]}


async def test_each_node_gets_its_verdict(nodes: Kubelets, namespace: str, tmp_path: Path) -> None:
    back_off = {"waiting": {"reason": "ImagePullBackOff", "message": "no such host"}}
    await nodes.add_node("vf-good", answered("nmi"), logs_at="vf-good")
    await nodes.add_node("vf-imds", answered("imds"))
    await nodes.add_node("vf-other", answered("nmi"), logs_at="vf-good")
    await nodes.add_node("vf-down", ready="Unknown")
    await nodes.add_node("vf-pull", container_status(back_off))
    await nodes.add_node("vf-windows", system="windows", nmi=False)
    answer = await verify(tmp_path, namespace)
    await nodes.add_node("vf-bare", answered("nothing"), nmi=False)
    command = ("podidctl", "verify", f"--namespace={namespace}", "--node=vf-good", "--node=vf-bare")
    table = await run(tmp_path, *command, cloudconfig=False)
    assert table.code == 3
    assert "NMI of this node answered" in table.out
    assert "vf-bare: no NMI runs on this node" in table.out
    missing = await verify(tmp_path, namespace, "--node=vf-missing")
    assert (missing.code, missing.err) == (1, "podidctl: the cluster has no node vf-missing; see kubectl get nodes\n")
    assert verdicts(answer) == {
        "vf-down": ("unknown", "unknown"),
        "vf-good": ("ok", "nmi"),
        "vf-imds": ("problem", "imds"),
        "vf-other": ("problem", "nmi of another node"),
        "vf-pull": ("unknown", "unknown"),
    }
    assert answer.code == 3
    assert answer.document["namespace"] == namespace
    assert answer.document["notDeleted"] == []
    by_node = {node["node"]: node for node in answer.document["nodes"]}
    assert by_node["vf-good"]["nmi"] == "default/nmi-vf-good"
    assert "no such host" in by_node["vf-pull"]["says"]
    assert "no network" in by_node["vf-down"]["says"]
    assert "vf-good" in by_node["vf-other"]["says"]
    assert await nodes.left() == []
    assert {pod["spec"]["nodeName"] for pod in nodes.canaries} == {*by_node, "vf-bare"} - {"vf-down"}
    assert {pod["spec"]["activeDeadlineSeconds"] for pod in nodes.canaries} == {90}


READS = {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list"]}
CANARIES = {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "delete"]}


async def test_missing_permissions_and_a_refused_canary_are_named(
    nodes: Kubelets, namespace: str, tmp_path: Path
) -> None:
    async def verify_as(name: str, *rules: dict[str, Any]) -> CommandResult:
        (tmp_path / name).mkdir()
        config = await asyncio.to_thread(create_account, nodes.plane, f"{name}-{namespace}", rules)
        await asyncio.to_thread((tmp_path / name / "kubeconfig").write_text, config)
        return await verify(tmp_path / name, namespace)

    await nodes.add_node("vf-one", answered("nmi"), logs_at="vf-one")
    reader, creator = await verify_as("reader", READS), await verify_as("creator", CANARIES)
    assert (reader.code, creator.code) == (1, 1)
    assert "grant create pods, delete pods" in reader.err
    assert "not allowed to read the cluster: grant get and list on the named resources" in creator.err
    assert nodes.canaries == []
    without_logs = await verify_as("without-logs", READS, CANARIES)
    assert without_logs.code == 1, without_logs.out + without_logs.err
    assert verdicts(without_logs) == {"vf-one": ("unknown", "unproven")}
    assert "pods/log" in without_logs.document["nodes"][0]["next"]

    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    await nodes.call("POST", quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    status = {"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}}  # as the quota controller writes it
    await nodes.call("PATCH", f"{quotas}/none/status", status, MERGE)
    refused = await verify(tmp_path, namespace)
    (node,) = refused.document["nodes"]
    assert (refused.code, node["level"]) == (1, "unknown")
    assert "exceeded quota" in node["says"]
    assert "-n" in node["next"]
