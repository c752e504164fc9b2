"""The sandbox's scheduler: it binds a pod to the node with the fewest pods, among those that its nodeSelector permits.

It uses HTTP like the real scheduler, so it works with the emulator and with a real API server. It does not support
resources, taints and affinities, and ignores a pod that names another scheduler.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final, NoReturn

import msgspec

from podidentity.kube.client import MERGE_PATCH, Client
from podidentity.kube.errors import ApiError, Conflict, NotFound
from podidentity.kube.informer import Informer
from podidentity.resources import NODES
from podidentity_sandbox.pod_projection import DEFAULT_SCHEDULER, NODE_PODS, NodePod

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 0.5


class Scheduler:
    """Scheduler for *nodes*; `run` is its task."""

    def __init__(self, client: Client, nodes: Sequence[str]) -> None:
        self._client = client
        self._bound: Counter[str] = Counter(dict.fromkeys(nodes, 0))
        self._waiting: asyncio.Queue[NodePod] = asyncio.Queue()
        self._informer = Informer(client, NODE_PODS, self, field_selector="spec.nodeName=")

    def upserted(self, old: NodePod | None, new: NodePod) -> None:
        """Queue a pod without a node."""
        if old is None and new.spec.scheduler_name == DEFAULT_SCHEDULER and new.metadata.deletion_timestamp is None:
            self._waiting.put_nowait(new)

    def deleted(self, old: NodePod) -> None:
        """Do nothing: the pod has a node now, or is deleted."""

    async def run(self) -> NoReturn:
        """Bind pods until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run(), name="watch pods without a node")
            while True:
                await self._bind(await self._waiting.get())

    async def _bind(self, pod: NodePod) -> None:
        """Bind the pod, or report that no node has its labels. Try again later if it has no node then."""
        current = self._informer.store.get(pod.key)
        if current is None or current.metadata.uid != pod.metadata.uid:
            return  # deleted, or bound by another scheduler
        try:
            listed = await self._client.list(NODES)
            labels = {node.metadata.name: (node.metadata.labels or {}).items() for node in listed}
            wanted = pod.spec.node_selector.items()
            nodes = [name for name in self._bound if name in labels and wanted <= labels[name]]
            if nodes:
                node = min(nodes, key=lambda name: self._bound[name])
                target = {"apiVersion": "v1", "kind": "Node", "name": node}
                metadata = {"name": pod.metadata.name}
                body = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
                await self._client.request("POST", NODE_PODS.path(*pod.key, "binding"), body=msgspec.json.encode(body))
                self._bound[node] += 1
                return
            if not current.status.conditions:
                await self._report_unschedulable(pod)
        except (NotFound, Conflict):
            return
        except ApiError as error:
            log.warning(
                "cannot bind a pod, retrying; see the API server's error",
                extra={"pod": "/".join(pod.key), "error": error},
            )
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._waiting.put_nowait, pod)

    async def _report_unschedulable(self, pod: NodePod) -> None:
        """Write the condition of the real scheduler. Raise ApiError."""
        count = len(self._bound)
        message = f"0/{count} nodes are available: {count} node(s) didn't match Pod's node affinity/selector."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        body = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}
        path = NODE_PODS.path(*pod.key, "status")
        await self._client.request("PATCH", path, body=msgspec.json.encode(body), content_type=MERGE_PATCH)
