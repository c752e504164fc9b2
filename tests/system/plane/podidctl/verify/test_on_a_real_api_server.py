"""`podidctl verify` on the real API server: admission, permissions, logs, clean-up. Processes are its canaries."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from aiohttp import web
from typing_extensions import override

from podidctl.verify import verification
from podidctl.verify.objects import CANARY_SELECTOR, CONTAINER
from podidctl.verify.verification import Options
from podidentity.kube.access import from_kubeconfig
from podidentity.kube.client import Client
from podidentity.resources import NODES, PODS
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.imds import Imds
from podidentity_sandbox.serving import HttpService
from podidentity_sandbox.tokens import TokenMint
from tests.support.checkout import ROOT
from tests.support.mic.preview.run_programs import Answer, run
from tests.support.nmi.server.fakes import pod_entry
from tests.support.podidctl.verify.programs import Nmi, in_place_of, run_canary, running_nmi
from tests.support.testplane.accounts import create_account
from tests.support.testplane.up import Plane
from tests.support.waiting import until, until_sync

pytestmark = pytest.mark.plane

MERGE: Final = "application/merge-patch+json"
_LOGS: Final = re.compile(r"/containerLogs/(?P<namespace>[^/]+)/(?P<pod>[^/]+)/(?P<container>[^/]+)")

Behaviour = int | Nmi | Mapping[str, Any] | None
"""What happens to a canary on a node: its requests reach a port or an NMI, it gets this status, or nothing happens."""


class Kubelets(HttpService):
    """The kubelets of several nodes."""

    def __init__(self, plane: Plane, folder: Path) -> None:
        super().__init__()
        self.plane = plane
        self.folder = folder
        self.behaviours: dict[str, Behaviour] = {}
        self.logs: dict[tuple[str, str], Nmi | None] = {}
        """NMI's pods, by namespace and name, and the program of each; None for one that logs nothing."""
        self.canaries: list[dict[str, Any]] = []
        """All canary pods so far, as created."""
        self._one_address = asyncio.Lock()

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = _LOGS.fullmatch(request.path)
        assert asked is not None, request.path
        assert asked["container"] == "nmi"
        nmi = self.logs[asked["namespace"], asked["pod"]]
        return web.Response(text=nmi.log if nmi is not None else "")

    async def call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        return await asyncio.to_thread(self.plane.api, method, path, body, content_type)

    async def add_node(
        self, name: str, behaviour: Behaviour = None, *, ready: str = "True", system: str = "linux"
    ) -> None:
        self.behaviours[name] = behaviour
        await self.call("POST", NODES.path(), {"metadata": {"name": name, "labels": {"kubernetes.io/os": system}}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "conditions": [{"type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": "no network"}],
        }
        await self.call("PATCH", NODES.path("", name, "status"), {"status": status}, MERGE)

    async def add_nmi(self, node: str, nmi: Nmi | None = None) -> str:
        """Create the pod of *nmi* on *node*. Return its name."""
        name = f"nmi-{node}"
        spec = {
            "nodeName": node,
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "nmi", "image": "registry.example/nmi:1"}],
        }
        labels = {"app.kubernetes.io/component": "nmi"}
        await self.call("POST", PODS.path("default"), {"metadata": {"name": name, "labels": labels}, "spec": spec})
        status = {"status": {"phase": "Running"}}
        await self.call("PATCH", PODS.path("default", name, "status"), status, MERGE)
        self.logs["default", name] = nmi
        return f"default/{name}"

    async def run(self) -> None:
        known: set[str] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                listed = await self.call("GET", f"{PODS.path()}?labelSelector={quote(CANARY_SELECTOR)}")
                for pod in listed["items"]:
                    if pod["metadata"]["uid"] not in known and pod["spec"]["nodeName"] in self.behaviours:
                        known.add(pod["metadata"]["uid"])
                        self.canaries.append(pod)
                        tasks.create_task(self._run_pod(pod))
                await asyncio.sleep(0.05)

    async def _run_pod(self, pod: dict[str, Any]) -> None:
        behaviour = self.behaviours[pod["spec"]["nodeName"]]
        if isinstance(behaviour, Mapping):
            await self._publish(pod, dict(behaviour))
        elif behaviour is not None:
            await self._run_program(pod, behaviour)

    async def _run_program(self, pod: dict[str, Any], behaviour: int | Nmi) -> None:
        folder = self.folder / pod["metadata"]["name"]
        await asyncio.to_thread(folder.mkdir)
        container = pod["spec"]["containers"][0]
        text = in_place_of(folder / "result", text=container["command"][3])
        async with self._one_address:  # all pods have the address 127.0.0.1
            if isinstance(behaviour, Nmi):
                entry = pod_entry(pod["metadata"]["namespace"], pod["metadata"]["name"])
                behaviour.index.put("127.0.0.1", entry.record)
            port = behaviour.port if isinstance(behaviour, Nmi) else behaviour
            code, _, _ = await run_canary(folder, port, container["args"][2], text=text)
        message = await asyncio.to_thread((folder / "result").read_text)
        state = {"terminated": {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "message": message}}
        await self._publish(pod, container_status(state, phase="Failed" if code else "Succeeded"))

    async def _publish(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        path = PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"], "status")
        await self.call("PATCH", path, {"status": status}, MERGE)


def container_status(state: dict[str, Any], phase: str = "Pending") -> dict[str, Any]:
    """Return the status of a canary pod whose container has *state*."""
    one = {"name": CONTAINER, "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    return {"phase": phase, "containerStatuses": [one]}


@asynccontextmanager
async def kubelets(plane: Plane, folder: Path) -> AsyncIterator[Kubelets]:
    """Run the kubelets. Afterwards delete their nodes, and the pods of NMI."""
    running = Kubelets(plane, folder)
    await running.start(ssl_context=await asyncio.to_thread(Authority("kubelets").server_context))
    task = asyncio.create_task(running.run(), name="kubelets")
    try:
        yield running
    finally:
        task.cancel()
        await asyncio.wait({task})
        for namespace, name in running.logs:
            await running.call("DELETE", PODS.path(namespace, name), {"gracePeriodSeconds": 0})
        for node in running.behaviours:
            await running.call("DELETE", NODES.path("", node))
        await running.stop()


READS = {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list"]}
CANARIES = {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "delete"]}


@pytest.fixture
def namespace(plane: Plane) -> Iterator[str]:
    """A namespace that enforces the restricted Pod Security level."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.api("POST", "/api/v1/namespaces", {"metadata": {"generateName": "verify-", "labels": labels}})
    (name,) = (
        each["metadata"]["name"]
        for each in plane.api("GET", "/api/v1/namespaces")["items"]
        if each["metadata"]["name"].startswith("verify-") and each["status"]["phase"] == "Active"
    )
    until_sync(lambda: plane.api("GET", f"/api/v1/namespaces/{name}/serviceaccounts")["items"])
    yield name
    plane.api("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
async def nodes(plane: Plane, namespace: str, tmp_path: Path) -> AsyncIterator[Kubelets]:
    async with kubelets(plane, tmp_path) as running:
        (tmp_path / "kubeconfig").symlink_to(plane.kubeconfig)
        yield running


async def verify(folder: Path, namespace: str, *flags: str) -> Answer:
    command = ("podidctl", "verify", "-o", "json", f"--namespace={namespace}", *flags)
    return await run(folder, *command, cloudconfig=False)


def verdicts(answer: Answer) -> dict[str, tuple[str, str]]:
    return {each["node"]: (each["level"], each["answeredBy"]) for each in answer.document["nodes"]}


async def canaries(nodes: Kubelets) -> list[str]:
    listed = await nodes.call("GET", f"{PODS.path()}?labelSelector={CANARY_SELECTOR.replace('=', '%3D')}")
    return [each["metadata"]["name"] for each in listed["items"]]


async def test_each_node_gets_its_verdict(nodes: Kubelets, namespace: str, tmp_path: Path) -> None:
    imds = Imds(await asyncio.to_thread(TokenMint))
    await imds.start_on_loopback(lambda: pytest.fail("a token was requested"))
    async with running_nmi() as nmi:
        back_off = {"waiting": {"reason": "ImagePullBackOff", "message": "no such host"}}
        await nodes.add_node("vf-good", nmi)
        await nodes.add_node("vf-imds", imds.port)
        await nodes.add_node("vf-nothing", 9)
        await nodes.add_node("vf-other", nmi)
        await nodes.add_node("vf-down", ready="Unknown")
        await nodes.add_node("vf-pull", container_status(back_off))
        await nodes.add_node("vf-windows", system="windows")
        pod = await nodes.add_nmi("vf-good", nmi)
        for each in ("vf-imds", "vf-nothing", "vf-other", "vf-down", "vf-pull"):
            await nodes.add_nmi(each)
        answer = await verify(tmp_path, namespace)
        command = ("podidctl", "verify", f"--namespace={namespace}", "--node=vf-good", "--node=vf-bare")
        await nodes.add_node("vf-bare", 9)
        table = await run(tmp_path, *command, cloudconfig=False)
    await imds.stop()
    assert table.code == 3
    assert "NMI of this node answered" in table.out
    assert "vf-bare: no NMI runs on this node" in table.out
    missing = await verify(tmp_path, namespace, "--node=vf-missing")
    assert (missing.code, missing.err) == (1, "podidctl: the cluster has no node vf-missing; see kubectl get nodes\n")
    assert verdicts(answer) == {
        "vf-down": ("unknown", "unknown"),
        "vf-good": ("ok", "nmi"),
        "vf-imds": ("problem", "imds"),
        "vf-nothing": ("problem", "nothing"),
        "vf-other": ("problem", "nmi of another node"),
        "vf-pull": ("unknown", "unknown"),
    }
    assert answer.code == 3
    assert answer.document["namespace"] == namespace
    assert answer.document["notDeleted"] == []
    by_node = {each["node"]: each for each in answer.document["nodes"]}
    assert by_node["vf-good"]["nmi"] == pod
    assert "no such host" in by_node["vf-pull"]["says"]
    assert "no network" in by_node["vf-down"]["says"]
    assert "vf-good" in by_node["vf-other"]["says"]
    assert await canaries(nodes) == []
    assert {each["spec"]["nodeName"] for each in nodes.canaries} == {*by_node, "vf-bare"} - {"vf-down"}


async def test_missing_permissions_and_a_refused_canary_are_named(
    nodes: Kubelets, namespace: str, tmp_path: Path
) -> None:
    async def verify_as(name: str, *rules: dict[str, Any]) -> Answer:
        (tmp_path / name).mkdir()
        config = await asyncio.to_thread(create_account, nodes.plane, f"{name}-{namespace}", rules)
        await asyncio.to_thread((tmp_path / name / "kubeconfig").write_text, config)
        return await verify(tmp_path / name, namespace)

    async with running_nmi() as nmi:
        await nodes.add_node("vf-one", nmi)
        await nodes.add_nmi("vf-one", nmi)
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
    (found,) = refused.document["nodes"]
    assert (refused.code, found["level"]) == (1, "unknown")
    assert "exceeded quota" in found["says"]
    assert "-n" in found["next"]


async def command_with_a_pod(nodes: Kubelets, namespace: str) -> Process:
    """Start `podidctl verify`, and return its process when its first pod has started."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "podidctl", "verify", f"--namespace={namespace}"),
        *("--kubeconfig", nodes.plane.kubeconfig),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        stderr=asyncio.subprocess.PIPE,
    )
    await until(lambda: nodes.canaries)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_command_deletes_its_pods(
    nodes: Kubelets, namespace: str, tmp_path: Path, number: signal.Signals
) -> None:
    await nodes.add_node("vf-one")
    await nodes.add_nmi("vf-one")
    process = await command_with_a_pod(nodes, namespace)
    async with asyncio.timeout(60):
        process.send_signal(number)
        _, errors = await process.communicate()
    assert process.returncode == 130, errors
    assert b"Traceback" not in errors
    assert await canaries(nodes) == []


async def test_a_pod_of_a_killed_command_is_deleted_by_the_next_one(
    nodes: Kubelets, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await nodes.add_node("vf-one")
    await nodes.add_nmi("vf-one")
    process = await command_with_a_pod(nodes, namespace)
    async with asyncio.timeout(60):
        process.kill()
        await process.wait()
    (left,) = await canaries(nodes)
    (pod,) = nodes.canaries
    assert pod["spec"]["activeDeadlineSeconds"] == 90
    assert pod["metadata"]["labels"] == dict(each.split("=") for each in CANARY_SELECTOR.split(","))
    nodes.behaviours["vf-one"] = container_status({"waiting": {"reason": "InvalidImageName"}})
    answer = await verify(tmp_path, namespace)
    assert answer.code == 1
    assert await canaries(nodes) == [left]  # another command may still wait for it
    monkeypatch.setattr(verification, "LEFTOVER_SECONDS", -3600)  # as an hour later
    async with Client(await from_kubeconfig(nodes.plane.kubeconfig), user_agent="test") as client:
        await verification.verify(client, Options(namespace=namespace))
    assert await canaries(nodes) == []
