"""The store's interface for the other emulators in this process: kinds by name, documents that the caller owns.

The methods return the results, and raise the errors (StatusError), that the kubelet and the scheduler get over HTTP.
All calls must be made on the event loop's thread, and none of them waits.
"""

from collections.abc import Callable
from typing import Any

from podidentity_sandbox.kubeapi.history import Change
from podidentity_sandbox.kubeapi.kinds import ResourceType
from podidentity_sandbox.kubeapi.listing import selector
from podidentity_sandbox.kubeapi.patching import merge
from podidentity_sandbox.kubeapi.statuses import Document, no_such_resource
from podidentity_sandbox.kubeapi.verbs import DeleteOptions, Verbs


class Store:
    """Kinds are named "pods" or, outside the core group, "azureidentities.aadpodidentity.k8s.io"."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs

    @property
    def revision(self) -> int:
        """The revision of the latest write."""
        return self._verbs.history.revision

    def get(self, kind: str, name: str, namespace: str = "") -> Document:
        """Return a copy of the object. Raise StatusError 404."""
        return _copy(self._verbs.get(self._kind(kind), (namespace, name)).document)

    def find(self, kind: str, name: str, namespace: str = "") -> Document | None:
        """Return a copy of the object, or None."""
        item = self._verbs.history.get(self._kind(kind).name, (namespace, name))
        return None if item is None else _copy(item.document)

    def list(
        self, kind: str, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> list[Document]:
        """Return copies of the selected objects of one or all namespaces, ordered by namespace and name."""
        resource = self._kind(kind)
        selects = selector(label_selector, field_selector, resource)
        return [
            _copy(item.document)
            for key, item in self._verbs.history.items(resource.name)
            if namespace in {"", key[0]} and (selects is None or selects(item.document))
        ]

    def create(self, kind: str, document: Document, namespace: str = "") -> Document:
        """Create an object, in the namespace that *document* names if none is given."""
        resource = self._kind(kind)
        document = {"kind": resource.kind, "apiVersion": resource.api_version} | _copy(document)
        metadata: Any = document.get("metadata") or {}
        where = namespace or metadata.get("namespace", "") if resource.namespaced else ""
        return _copy(self._verbs.create(resource, where, document).document)

    def replace(self, kind: str, document: Document, *, subresource: str = "") -> Document:
        """Replace the object that the metadata of *document* names."""
        resource = self._kind(kind)
        key = (document["metadata"].get("namespace", ""), document["metadata"]["name"])
        item = self._verbs.update(resource, key, lambda _: _copy(document), subresource=subresource, conditional=True)
        return _copy(item.document)

    def patch(self, kind: str, name: str, patch: Document, namespace: str = "", *, subresource: str = "") -> Document:
        """Merge *patch* (RFC 7386) into the object or, with subresource "status", into its status."""
        resource = self._kind(kind)
        item = self._verbs.update(
            resource, (namespace, name), lambda old: dict(merge(old, patch)), subresource=subresource
        )
        return _copy(item.document)

    def delete(
        self, kind: str, name: str, namespace: str = "", *, grace_seconds: int | None = None, uid: str = ""
    ) -> bool:
        """Begin or complete a deletion; return whether it is complete. A kubelet uses *grace_seconds* 0."""
        options = DeleteOptions(uid=uid, grace_seconds=grace_seconds)
        return self._verbs.delete(self._kind(kind), (namespace, name), options)[1]

    def subscribe(self, kind: str, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call *callback* at each change of *kind*; return a function that ends it.

        It is called inside the write and must not write itself: record the work and do it from the event loop
        (`loop.call_soon`, an `asyncio.Event`, a queue). The change's documents are shared: never change them.
        """
        return self._verbs.history.subscribe(self._kind(kind).name, callback)

    def _kind(self, name: str) -> ResourceType:
        resource = self._verbs.registry.find(name)
        if resource is None:
            raise no_such_resource()
        return resource


def _copy(document: Document) -> Document:
    return {name: _copy_value(value) for name, value in document.items()}


def _copy_value(value: Any) -> Any:
    """Return a copy of a JSON value, several times faster than copy.deepcopy."""
    if isinstance(value, dict):
        return {name: _copy_value(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_copy_value(item) for item in value]
    return value
