"""MIC's view of the cluster, filled by a test."""

from typing import Any

from mic.cluster.view import ClusterView
from mic.decisions.assignments import Key
from podidentity.resources import AzureIdentity, Node, Pod
from tests.support.objects import ClusterObject


class FilledView:
    """A ClusterView, and the objects that a test adds to it as watches would."""

    def __init__(self, **options: Any) -> None:
        """*options* as of ClusterView."""
        self.dirty: list[str] = []
        self._options = {"on_dirty": self.dirty.append, **options}
        self._objects: dict[tuple[str, Key], ClusterObject] = {}
        self.view = ClusterView(**self._options)

    def add(self, *objects: ClusterObject) -> None:
        """Deliver the objects, which are new or replace those of their names."""
        for resource in objects:
            old = self._objects.get((type(resource).__name__, resource.key))
            self._objects[type(resource).__name__, resource.key] = resource
            self._changes_of(resource).upserted(old, resource)

    def remove(self, *objects: ClusterObject) -> None:
        """Delete the objects of these names."""
        for resource in objects:
            self._changes_of(resource).deleted(self._objects.pop((type(resource).__name__, resource.key)))

    def stored(self) -> list[ClusterObject]:
        """Return the objects as they were added last."""
        return [*self._objects.values()]

    def _changes_of(self, resource: ClusterObject) -> Any:
        match resource:
            case Pod():
                return self.view.pods
            case Node():
                return self.view.nodes
            case AzureIdentity():
                return self.view.identities
            case _:
                return self.view.bindings
