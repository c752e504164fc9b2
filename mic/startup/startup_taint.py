"""Takes the start-up taint off a node when that node's NMI is Ready, so that no pod of ours runs there before.

Whoever makes nodes puts the taint on them; it is never put back. NMI's pods are looked for in MIC's own namespace
alone: who may make pods elsewhere must not be able to open a node.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import msgspec

from mic.reconciliation.work_queue import PassResult, WorkQueue
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Conflict, Forbidden, Invalid, NotFound
from podidentity.kube.informer import Informer
from podidentity.resources import Kind, Resource, Wire

log = logging.getLogger(__name__)


class Taints(Wire, frozen=True):
    """Of a node's spec: its taints as they came, since a patch tests them as a whole."""

    taints: list[dict[str, Any]] = msgspec.field(default_factory=list)


class TaintedNode(Resource, frozen=True):
    spec: Taints = Taints()


class Condition(Wire, frozen=True):
    type: str = ""
    status: str = ""


class Readiness(Wire, frozen=True):
    conditions: list[Condition] = msgspec.field(default_factory=list)


class Placement(Wire, frozen=True):
    node_name: str = ""


class NmiPod(Resource, frozen=True):
    spec: Placement = Placement()
    status: Readiness = Readiness()

    @property
    def ready(self) -> bool:
        """Whether it answers: Ready, and not on its way out."""
        if self.metadata.deletion_timestamp is not None:
            return False
        return any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)


TAINTED_NODES: Final = Kind("Node", "nodes", TaintedNode, namespaced=False)
NMI_PODS: Final = Kind("Pod", "pods", NmiPod)


def without(taints: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The taints but those of this key, whatever their value and effect."""
    return [each for each in taints if each.get("key") != key]


class StartupTaint:
    """Two watches of its own and the removals that follow from them. Only the leader runs it."""

    def __init__(
        self,
        client: Client,
        key: str,
        *,
        namespace: str,
        selector: str,
        on_fault: Callable[[], None] = lambda: None,
    ) -> None:
        """*key* is the taint's; NMI's pods are those in *namespace* that the label *selector* finds. *on_fault* is
        called when the work on one node has raised an exception."""
        self._client = client
        self._key = key
        self._queue = WorkQueue(on_fault=on_fault)
        self._ready = _Ready(self._queue)
        self._forbidden = False
        self.nodes = Informer(client, TAINTED_NODES, _Tainted(key, self._queue))
        self.pods = Informer(client, NMI_PODS, self._ready, namespace=namespace, label_selector=selector)

    async def run(self) -> NoReturn:
        """Take taints off, until cancelled. Both informers are to be run beside it."""
        await self.nodes.synced()
        await self.pods.synced()
        await self._queue.run(self._turn)

    async def _turn(self, name: str) -> PassResult:
        node = self.nodes.store.get(("", name))
        if node is None or not self._ready.on(name):
            return PassResult()
        left = without(node.spec.taints, self._key)
        return PassResult(failed=len(left) < len(node.spec.taints) and not await self._leave(node, left))

    async def _leave(self, node: TaintedNode, taints: list[dict[str, Any]]) -> bool:
        """Leave only *taints* on the node, unless it is not as the watch told; whether there is nothing more to do."""
        name = node.metadata.name
        operations: list[Mapping[str, Any]] = [
            {"op": "test", "path": "/metadata/uid", "value": node.metadata.uid},
            {"op": "test", "path": "/spec/taints", "value": node.spec.taints},
            {"op": "replace", "path": "/spec/taints", "value": taints},
        ]
        try:
            await self._client.patch_json(TAINTED_NODES, "", name, operations)
        except NotFound:
            return True
        except (Conflict, Invalid) as error:
            log.info("the node is not as the watch told; looking at it again", extra={"node": name, "error": error})
            return False
        except Forbidden as error:
            self._say_forbidden(error)
            return False
        except ApiError as error:
            log.warning("the start-up taint could not be taken off; trying again", extra={"node": name, "error": error})
            return False
        self._forbidden = False
        log.info("NMI is ready on the node; its start-up taint has been taken off", extra={"node": name})
        return True

    def _say_forbidden(self, error: ApiError) -> None:
        """Once, for all nodes: it is one right that is missing."""
        if not self._forbidden:
            log.error(
                "not allowed to take start-up taints off; grant MIC's ClusterRole `patch` on nodes",
                extra={"error": error},
            )
        self._forbidden = True


class _Tainted:
    """Nodes: those with the taint get a turn."""

    def __init__(self, key: str, queue: WorkQueue) -> None:
        self._key = key
        self._queue = queue

    def upserted(self, _old: TaintedNode | None, new: TaintedNode) -> None:
        if len(without(new.spec.taints, self._key)) < len(new.spec.taints):
            self._queue.add(new.metadata.name)

    def deleted(self, old: TaintedNode) -> None:
        pass


class _Ready:
    """NMI's pods: how many of each node are Ready, two for a moment while one takes over from the other."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue
        self._nodes: Counter[str] = Counter()

    def on(self, node: str) -> bool:
        return node in self._nodes

    def upserted(self, old: NmiPod | None, new: NmiPod) -> None:
        if old is not None:
            self.deleted(old)
        if new.ready:
            self._nodes[new.spec.node_name] += 1
            self._queue.add(new.spec.node_name)

    def deleted(self, old: NmiPod) -> None:
        if old.ready:
            self._nodes[old.spec.node_name] -= 1
            if not self._nodes[old.spec.node_name]:
                del self._nodes[old.spec.node_name]
