"""Removal of the start-up taint from a node when its NMI is Ready, so that no pod with an identity runs there earlier.

The creator of a node sets the taint; MIC never sets it again. MIC looks for NMI's pods only in its own namespace, so
that permission to create pods elsewhere does not suffice to open a node.
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
    """Taints in a node's spec, unparsed, because a patch tests them as a whole."""

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
        """Return whether it is Ready and not terminating."""
        if self.metadata.deletion_timestamp is not None:
            return False
        return any(condition.type == "Ready" and condition.status == "True" for condition in self.status.conditions)


TAINTED_NODES: Final = Kind("Node", "nodes", TaintedNode, namespaced=False)
NMI_PODS: Final = Kind("Pod", "pods", NmiPod)


def without(taints: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Return the taints except those with this key, regardless of value and effect."""
    return [taint for taint in taints if taint.get("key") != key]


class StartupTaint:
    """Two watches and the removals that follow from them. Only the leader runs it."""

    def __init__(
        self,
        client: Client,
        key: str,
        *,
        namespace: str,
        selector: str,
        on_fault: Callable[[], None] = lambda: None,
    ) -> None:
        """*key* is the key of the taint. NMI's pods are those in *namespace* that match the label *selector*.

        *on_fault* is called after the work on a node raised an exception.
        """
        self._client = client
        self._key = key
        self._queue = WorkQueue(on_fault=on_fault)
        self._ready = _Ready(self._queue)
        self._forbidden = False
        self.nodes = Informer(client, TAINTED_NODES, _Tainted(key, self._queue))
        self.pods = Informer(client, NMI_PODS, self._ready, namespace=namespace, label_selector=selector)

    async def run(self) -> NoReturn:
        """Remove taints until cancelled. The caller also runs both informers."""
        await self.nodes.synced()
        await self.pods.synced()
        await self._queue.run(self._reconcile)

    async def _reconcile(self, name: str) -> PassResult:
        node = self.nodes.store.get(("", name))
        # Both watches queue the node, so it may lack the taint or a Ready NMI.
        if node is None or not self._ready.on(name):
            return PassResult()
        remaining = without(node.spec.taints, self._key)
        return PassResult(failed=len(remaining) < len(node.spec.taints) and not await self._set_taints(node, remaining))

    async def _set_taints(self, node: TaintedNode, taints: list[dict[str, Any]]) -> bool:
        """Replace the node's taints by *taints* unless the node has changed. Return whether nothing is left to do."""
        name = node.metadata.name
        # The tests fail for another node of this name, and for taints that another client has changed.
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
            log.info(
                "the node has changed since the watch event; reading it again", extra={"node": name, "error": error}
            )
            return False
        except Forbidden as error:
            self._log_forbidden(error)
            return False
        except ApiError as error:
            log.warning("cannot remove the start-up taint; trying again", extra={"node": name, "error": error})
            return False
        self._forbidden = False
        log.info("NMI is ready on the node; start-up taint removed", extra={"node": name})
        return True

    def _log_forbidden(self, error: ApiError) -> None:
        """Log once for all nodes, because one permission is missing."""
        if not self._forbidden:
            log.error(
                "not allowed to remove start-up taints; grant MIC's ClusterRole `patch` on nodes",
                extra={"error": error},
            )
        self._forbidden = True


class _Tainted:
    """Handler that queues nodes with the taint."""

    def __init__(self, key: str, queue: WorkQueue) -> None:
        self._key = key
        self._queue = queue

    def upserted(self, _old: TaintedNode | None, new: TaintedNode) -> None:
        if len(without(new.spec.taints, self._key)) < len(new.spec.taints):
            self._queue.add(new.metadata.name)

    def deleted(self, old: TaintedNode) -> None:
        pass  # a queued pass finds no such node


class _Ready:
    """NMI's pods that are Ready, counted per node: two for a short time during a replacement."""

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
