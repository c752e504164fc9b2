"""Groups of AzureIdentityBindings that give one identity to one selector: a pod needs the identity once. No I/O."""

from bisect import bisect_left, insort
from collections.abc import Collection

from mic.decisions.assignments import Key
from podidentity.resources import AzureIdentityBinding


class BindingGroup:
    """The bindings that name one identity and have one selector, by name. Never empty while it is in an index."""

    __slots__ = ("identity", "members", "names", "selector")

    def __init__(self, identity: Key, selector: str) -> None:
        self.identity = identity
        self.selector = selector
        self.members: dict[str, AzureIdentityBinding] = {}
        self.names: list[str] = []
        """Sorted."""

    @property
    def first(self) -> AzureIdentityBinding:
        """The first binding by name."""
        return self.members[self.names[0]]

    def put(self, binding: AzureIdentityBinding) -> None:
        """Add *binding*, or replace its earlier version."""
        name = binding.metadata.name
        if name not in self.members:
            insort(self.names, name)
        self.members[name] = binding

    def remove(self, name: str) -> None:
        """Remove the binding with this name, if it is in the group."""
        if self.members.pop(name, None) is not None:
            del self.names[bisect_left(self.names, name)]

    def through(self, embedded: Collection[Key]) -> AzureIdentityBinding:
        """Return the binding that gives the identity to a pod: one of *embedded*, else the first by name."""
        if len(self.names) == 1:
            return self.first
        embedded_names = [
            name for namespace, name in embedded if namespace == self.identity[0] and name in self.members
        ]
        # The least name, so that the order of events and a restart do not change the choice.
        return self.members[min(embedded_names)] if embedded_names else self.first


def group_key(binding: AzureIdentityBinding) -> tuple[Key, str]:
    """Return the identity and the selector of the binding's group."""
    return (binding.metadata.namespace, binding.spec.azure_identity), binding.spec.selector
