"""AzureIdentities that an action leads to, directly or through pods, Secrets and service accounts. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from podidctl.access.schema import Action

Names: TypeAlias = frozenset[str]


class ByName:
    """Identities by the name of a namespaced object (`namespace/name`), with their unions by namespace."""

    def __init__(self, identities: Mapping[str, Names] | None = None) -> None:
        self.of_object: Mapping[str, Names] = identities or {}
        self._objects: defaultdict[str, dict[str, Names]] = defaultdict(dict)
        for name, its in self.of_object.items():
            namespace, _, bare = name.partition("/")
            self._objects[namespace][bare] = its
        self._by_namespace = {name: _union(several.values()) for name, several in self._objects.items()}
        self._all = _union(self._by_namespace.values())

    def within(self, namespace: str, names: Names = frozenset()) -> Names:
        """Return the identities of the objects in *namespace* (all if empty) with one of *names* (all if empty)."""
        if not names:
            return self._by_namespace.get(namespace, frozenset()) if namespace else self._all
        several = [self._objects.get(namespace, {})] if namespace else self._objects.values()
        # The intersection takes the time of the smaller set: a rule can have thousands of names.
        return _union(objects[name] for objects in several for name in objects.keys() & names)


def _union(several: Iterable[Names]) -> Names:
    return frozenset().union(*several)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """AzureIdentities that each action leads to. Names of namespaced things are `namespace/name`."""

    identities: Names = frozenset()
    offered: Callable[[str], Names] = lambda _namespace: frozenset()
    """Identities that bindings give to pods of a namespace with any label; of every namespace if it is empty."""
    of_pods: ByName = field(default_factory=ByName)
    """By pod: its grants, and with access to its host those of the host."""
    of_nodes: Mapping[str, Names] = field(default_factory=dict)
    """By node: those of its pods."""
    of_accounts: ByName = field(default_factory=ByName)
    """By service account: identities of type 3, those within reach of NMI's and MIC's own accounts, and those that the
    account's permissions lead to."""
    of_secrets: ByName = field(default_factory=ByName)
    """By Secret."""
    only: Names | None = None
    """Identities that count; None for all. Permissions that lead to none of them are left out."""

    def of(self, action: Action, namespace: str, names: Names, *, on_nodes: bool = False) -> Names:
        """Return the identities that *action* leads to in *namespace* (all if empty) on *names* (all if empty), which
        with *on_nodes* are the names of nodes.
        """
        found = self._of_nodes(names) if on_nodes else self._all_of(action, namespace, names)
        return found if self.only is None else found & self.only

    def _of_nodes(self, names: Names) -> Names:
        return _union(self.of_nodes[each] for each in self.of_nodes.keys() & names)

    def _all_of(self, action: Action, namespace: str, names: Names) -> Names:
        match action:
            case Action.PODS | Action.WORKLOADS:
                # The author of a pod chooses its label, its service account and the Secrets that it mounts.
                found = self.offered(namespace) | self.of_accounts.within(namespace) | self.of_secrets.within(namespace)
            case Action.LABELS:
                # A change of the image, or of the address in the status, uses the pod's own identities.
                found = self.offered(namespace) | self.of_pods.within(namespace, names)
            case Action.EXEC:
                found = self.of_pods.within(namespace, names)
            case Action.TOKENS:
                found = self.of_accounts.within(namespace, names)
            case Action.IMPERSONATE if namespace:
                # Of all that can be impersonated only service accounts are namespaced.
                found = self.of_accounts.within(namespace, names)
            case Action.SECRETS:
                found = self.of_secrets.within(namespace, names)
            case Action.BINDINGS:
                found = _within(self.identities, namespace)
            case Action.ROLES if namespace:
                found = _within(self.identities, namespace) | self.offered(namespace)
                found |= self.of_pods.within(namespace) | self.of_accounts.within(namespace)
                found |= self.of_secrets.within(namespace)
            case _:
                found = self.identities
        return found


def _within(names: Names, namespace: str) -> Names:
    return names if not namespace else frozenset(each for each in names if each.startswith(f"{namespace}/"))
