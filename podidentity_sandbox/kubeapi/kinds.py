"""The kinds: the built-in ones, and those of CustomResourceDefinitions with their validation and status. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from podidentity_sandbox.kubeapi.statuses import Cause, Document, invalid

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
APPROVED: Final = "api-approved.kubernetes.io"
_PROTECTED: Final = ("k8s.io", "kubernetes.io")


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


def check_definition(definition: Document) -> None:
    """Raise StatusError 422 for frequent mistakes that the real server rejects."""
    spec = definition.get("spec") or {}
    names = spec.get("names") or {}
    group = str(spec.get("group") or "")
    wanted_name = f"{names.get('plural', '')}.{group}"
    versions = spec.get("versions") or []
    causes: list[Cause] = [
        ("FieldValueRequired", "Required value", f"spec.{field}")
        for field, value in (
            ("group", group),
            ("scope", spec.get("scope")),
            ("names.plural", names.get("plural")),
            ("names.kind", names.get("kind")),
            ("versions", versions),
        )
        if not value
    ]
    name = str(definition["metadata"].get("name", ""))
    if not causes and name != wanted_name:
        message = f'Invalid value: "{name}": must be spec.names.plural+"."+spec.group'
        causes.append(("FieldValueInvalid", message, "metadata.name"))
    if sum(bool(version.get("storage")) for version in versions) != 1 and versions:
        message = "Invalid value: must have exactly one version marked as storage version"
        causes.append(("FieldValueInvalid", message, "spec.versions"))
    causes += [
        ("FieldValueRequired", "Required value: schemas are required", f"spec.versions[{at}].schema.openAPIV3Schema")
        for at, version in enumerate(versions)
        if not (version.get("schema") or {}).get("openAPIV3Schema")
    ]
    protected = any(group == suffix or group.endswith(f".{suffix}") for suffix in _PROTECTED)
    if protected and not (definition["metadata"].get("annotations") or {}).get(APPROVED):
        message = (
            f'Required value: protected groups must have approval annotation "{APPROVED}", '
            "see https://github.com/kubernetes/enhancements/pull/1111"
        )
        causes.append(("FieldValueRequired", message, f"metadata.annotations[{APPROVED}]"))
    if causes:
        raise invalid("CustomResourceDefinition", "apiextensions.k8s.io", name, causes)


def complete_definition(definition: Document) -> None:
    """Set the optional fields, without a change to objects that *definition* may share."""
    spec = definition["spec"]
    names = {"singular": spec["names"]["kind"].lower(), "listKind": f"{spec['names']['kind']}List"}
    names |= {name: value for name, value in spec["names"].items() if value}
    definition["spec"] = {"conversion": {"strategy": "None"}} | spec | {"names": names}


def accept_definition(definition: Document, now: str) -> None:
    """Give a complete definition the status of one whose names were accepted at once."""
    spec = definition["spec"]
    conditions = [
        _condition("NamesAccepted", "NoConflicts", "no conflicts found", now),
        _condition("Established", "InitialNamesAccepted", "the initial names have been accepted", now),
    ]
    definition["status"] = {
        "conditions": conditions,
        "acceptedNames": spec["names"],
        "storedVersions": [version["name"] for version in spec["versions"] if version.get("storage")],
    }


def defined_kinds(definition: Document) -> list[ResourceType]:
    """Return the kinds that *definition* (complete) defines, one for each version served."""
    spec = definition["spec"]
    names = spec["names"]
    kinds: list[ResourceType] = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        subresources = version.get("subresources") or {}
        kinds.append(
            ResourceType(
                names["kind"],
                names["plural"],
                spec["group"],
                version["name"],
                namespaced=spec["scope"] == "Namespaced",
                singular=names["singular"],
                list_kind=names["listKind"],
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                subresources=("status",) if "status" in subresources else (),
                fields={
                    field["jsonPath"].lstrip("."): field["jsonPath"].lstrip(".")
                    for field in version.get("selectableFields") or ()
                },
                custom=True,
                unconditional_update=False,
                generation=True,
                columns=_columns(version),
                schema=version["schema"]["openAPIV3Schema"],
            )
        )
    return kinds


def _columns(version: Document) -> tuple[Column, ...]:
    listed = version.get("additionalPrinterColumns")
    if not listed:
        return (Column("Age", "date", ".metadata.creationTimestamp"),)
    return tuple(
        Column(
            column["name"],
            column["type"],
            column["jsonPath"],
            int(column.get("priority", 0)),
            column.get("description")
            or f"Custom resource definition column (in JSONPath format): {column['jsonPath']}",
            column.get("format", ""),
        )
        for column in listed
    )


def _condition(kind: str, reason: str, message: str, now: str) -> Document:
    return {"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message}
