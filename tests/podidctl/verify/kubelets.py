"""Kubelets of a real API server's nodes: they run canary pods as processes of this machine, and serve NMI's logs."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web
from typing_extensions import override

from podidctl.verify.objects import CANARY_SELECTOR, CONTAINER
from podidentity.resources import NODES, PODS
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.serving import HttpService
from tests.nmi.server.fakes import pod_entry
from tests.podidctl.verify.programs import Nmi, in_place_of, run_canary
from tests.testplane.up import Plane

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
