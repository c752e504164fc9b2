"""The sandbox's scheduler: it binds a pod without a node to the node with the fewest pods.

It uses HTTP like the real scheduler, so it works with the emulator and with a real API server. It does not support
resources, taints and affinities, and ignores a pod that names another scheduler.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final, NoReturn

import msgspec

from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Conflict, NotFound
from podidentity.kube.informer import Informer
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
        node = min(self._bound, key=lambda name: self._bound[name])
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod.metadata.name}, "target": target}
        path = NODE_PODS.path(pod.metadata.namespace, pod.metadata.name, "binding")
        try:
            await self._client.request("POST", path, body=msgspec.json.encode(body))
            self._bound[node] += 1
        except (NotFound, Conflict):
            return  # deleted, or bound by another scheduler
        except ApiError as error:
            log.warning(
                "cannot bind a pod, retrying; see the API server's error",
                extra={"pod": "/".join(pod.key), "node": node, "error": error},
            )
            await asyncio.sleep(RETRY_SECONDS)
            self._waiting.put_nowait(pod)
