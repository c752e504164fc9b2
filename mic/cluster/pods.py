"""Index of the pods that may have identities (`assignments.may_have_identities`). No I/O."""

from collections import defaultdict
from collections.abc import Iterable

from mic.decisions.assignments import Key, may_have_identities
from podidentity.resources import ScheduledPod


class PodIndex:
    """Pods by name, by node, and by label value and namespace."""

    def __init__(self) -> None:
        self._pods: dict[Key, ScheduledPod] = {}
        self._by_node: defaultdict[str, set[Key]] = defaultdict(set)
        self._by_selector: defaultdict[str, dict[str, dict[Key, None]]] = defaultdict(dict)
        """The keys of the pods, by the value of their label and then by namespace."""

    def __len__(self) -> int:
        return len(self._pods)

    def get(self, key: Key) -> ScheduledPod | None:
        return self._pods.get(key)

    def on_node(self, node: str) -> Iterable[Key]:
        return self._by_node.get(node, ())

    def selected(self, selector: str, namespace: str) -> list[Key]:
        """Return the pods with this label value in *namespace*, or in every namespace if that is empty."""
        by_namespace = self._by_selector.get(selector)
        if by_namespace is None:
            return []
        if namespace:
            return list(by_namespace.get(namespace, ()))
        return [key for pods in by_namespace.values() for key in pods]

    def replace(self, key: Key, new: ScheduledPod | None) -> tuple[ScheduledPod | None, ScheduledPod | None]:
        """Replace the pod with *new*, or remove it if None. Return its entries before and after."""
        if new is None or not may_have_identities(new):
            before = self._pods.pop(key, None)
            if before is not None:
                self._remove(key, before)
            return before, None
        before = self._pods.get(key)
        self._pods[key] = new
        if before is not None:
            if same_assignments(before, new):
                return before, new
            self._remove(key, before)
        self._by_node[new.spec.node_name].add(key)
        by_namespace = self._by_selector[new.binding_label]
        selected = by_namespace.get(key[0])
        if selected is None:
            selected = by_namespace[key[0]] = {}
        selected[key] = None
        return before, new

    def _remove(self, key: Key, pod: ScheduledPod) -> None:
        """Remove *pod* from the indexes by node and by label value."""
        on_node = self._by_node[pod.spec.node_name]
        on_node.discard(key)
        if not on_node:
            del self._by_node[pod.spec.node_name]
        by_namespace = self._by_selector[pod.binding_label]
        del by_namespace[key[0]][key]
        if not by_namespace[key[0]]:
            del by_namespace[key[0]]
        if not by_namespace:
            del self._by_selector[pod.binding_label]


def same_assignments(first: ScheduledPod, second: ScheduledPod) -> bool:
    """Return whether two states of a pod, both in the index, have the same assignments."""
    return (first.metadata.uid, first.spec.node_name, first.binding_label) == (
        second.metadata.uid,
        second.spec.node_name,
        second.binding_label,
    )
