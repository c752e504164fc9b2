"""The built-in kinds and their properties. Pure.

`definitions` creates the kinds of CustomResourceDefinitions, with the same type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table that is read from the object by a JSONPath (the subset that `tables` knows)."""

    name: str
    type: str
    path: str
    priority: int = 0
    description: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ResourceType:
    """One served kind in one version. Compared by identity: the registry holds one instance per kind."""

    kind: str
    plural: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    singular: str = ""
    list_kind: str = ""
    short_names: Sequence[str] = ()
    categories: Sequence[str] = ()
    subresources: Sequence[str] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    """Field selectors beyond metadata.name and metadata.namespace: selector to dotted path in the object."""
    custom: bool = False
    """Served from a definition: no strategic merge patch, unknown fields pruned by schema, items carry their kind."""
    unconditional_update: bool = True
    """A PUT without resourceVersion overwrites."""
    create_on_update: bool = False
    """A PUT on a name that does not exist creates it."""
    generation: bool = False
    """metadata.generation counts changes of everything but metadata (and status where that is a subresource)."""
    columns: Sequence[Column] = ()
    schema: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Plural and group, as in messages and kubectl; the argument of the store's methods."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def has_status(self) -> bool:
        """Whether status is written through its own subresource only."""
        return "status" in self.subresources


_INVOLVED: Final = {
    f"involvedObject.{name}": f"involvedObject.{name}"
    for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
}

BUILT_IN: Final = (
    ResourceType(
        "Namespace",
        "namespaces",
        namespaced=False,
        short_names=("ns",),
        subresources=("status",),
        fields={"status.phase": "status.phase"},
    ),
    ResourceType(
        "Node",
        "nodes",
        namespaced=False,
        short_names=("no",),
        subresources=("status",),
        fields={"spec.unschedulable": "spec.unschedulable"},
    ),
    ResourceType(
        "Pod",
        "pods",
        short_names=("po",),
        categories=("all",),
        subresources=("status", "log", "binding", "proxy"),
        generation=True,
        fields={
            path: path
            for path in (
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.nominatedNodeName",
            )
        },
    ),
    ResourceType(
        "Event",
        "events",
        short_names=("ev",),
        create_on_update=True,
        fields=_INVOLVED
        | {
            "reason": "reason",
            "type": "type",
            "source": "source.component",
            "reportingComponent": "reportingComponent",
        },
    ),
    ResourceType("ConfigMap", "configmaps", short_names=("cm",)),
    ResourceType("Secret", "secrets", fields={"type": "type"}),
    ResourceType("ServiceAccount", "serviceaccounts", short_names=("sa",), subresources=("token",)),
    ResourceType("Endpoints", "endpoints", short_names=("ep",)),
    ResourceType("Lease", "leases", "coordination.k8s.io", unconditional_update=False, create_on_update=True),
    *(
        ResourceType(kind, f"{kind.lower()}s", "rbac.authorization.k8s.io", namespaced=not kind.startswith("Cluster"))
        for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    ),
    ResourceType(
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "apiextensions.k8s.io",
        namespaced=False,
        short_names=("crd", "crds"),
        categories=("api-extensions",),
        subresources=("status",),
        unconditional_update=False,
        generation=True,
    ),
)

DEFINITIONS: Final = "customresourcedefinitions.apiextensions.k8s.io"


class Registry:
    """The kinds that are served now, indexed by the ways in which requests name them."""

    def __init__(self) -> None:
        self._by_path: dict[tuple[str, str, str], ResourceType] = {}
        self._by_name: dict[str, ResourceType] = {}
        for resource in BUILT_IN:
            self.add(resource)

    def add(self, resource: ResourceType) -> None:
        """Serve *resource*, instead of an older one of the same name."""
        self._by_path[resource.group, resource.version, resource.plural] = resource
        self._by_name[resource.name] = resource

    def remove(self, name: str) -> None:
        """Serve *name* (plural.group) no more; nothing happens if it is not served."""
        resource = self._by_name.pop(name, None)
        if resource is not None:
            self._by_path = {path: kept for path, kept in self._by_path.items() if kept.name != name}

    def at(self, group: str, version: str, plural: str) -> ResourceType | None:
        return self._by_path.get((group, version, plural))

    def named(self, name: str) -> ResourceType:
        """Return the kind by plural, or plural.group outside the core group. Raise KeyError."""
        return self._by_name[name]

    def find(self, name: str) -> ResourceType | None:
        return self._by_name.get(name)

    def all(self) -> list[ResourceType]:
        return sorted(self._by_path.values(), key=lambda resource: (resource.group, resource.version, resource.plural))

    def groups(self) -> dict[str, list[str]]:
        """Return each group with its versions, without the core group."""
        groups: dict[str, list[str]] = {}
        for resource in self.all():
            if resource.group and resource.version not in groups.setdefault(resource.group, []):
                groups[resource.group].append(resource.version)
        return groups
