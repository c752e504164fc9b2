"""Discovery: the version, the groups, and the kinds of each group, separately or aggregated, and OpenAPI v3. Pure.

Of OpenAPI it has the part that kubectl reads: PATCH with fieldValidation, and the schemas of the custom kinds. Before
an `apply`, kubectl reads there whether the server validates fields. Without these documents kubectl would validate them
itself, and need a schema of every kind.
"""

from collections.abc import Sequence
from typing import Final

from podidentity_sandbox.kubeapi.kinds import VERBS, Registry, ResourceType
from podidentity_sandbox.kubeapi.statuses import Document

AGGREGATED: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""The media type of `aggregated`, with which kubectl requests it."""
OPENAPI_V2: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""The media type with which kubectl requests OpenAPI v2 for a `kind: List`. An empty document has no schemas, so that
kubectl leaves validation to the server."""
VERSION: Final[Document] = {
    "major": "1",
    "minor": "37",
    "gitVersion": "v1.37.2+sandbox",
    "gitCommit": "",
    "gitTreeState": "",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}
_GVK: Final = "x-kubernetes-group-version-kind"
_SUBRESOURCES: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "log": ("Pod", "", ("get",)),
    "proxy": ("PodProxyOptions", "", ("get",)),
    "binding": ("Binding", "", ("create",)),
    "token": ("TokenRequest", "authentication.k8s.io/v1", ("create",)),
    "status": ("", "", ("get", "patch", "update")),
}
"""Subresource to the kind of its body (empty: the kind itself), the version of that if it is another's, and verbs."""


def at(registry: Registry, parts: Sequence[str], address: str) -> Document | None:
    """Return the document at the path of *parts*, or None. *address* is the host and port of this server."""
    document: Document | None = None
    match parts:
        case ["version"]:
            document = VERSION
        case ["api"]:
            addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
            document = {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}
        case ["apis"]:
            groups = [_group(name, versions) for name, versions in registry.groups().items()]
            document = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["apis", name] if name in registry.groups():
            document = {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, registry.groups()[name])
        case ["api", version]:
            document = _resource_list(registry, "", version)
        case ["apis", name, version]:
            document = _resource_list(registry, name, version)
        case ["openapi", "v3"]:
            paths = ["api/v1"] + [f"apis/{name}/{version}" for name, vs in registry.groups().items() for version in vs]
            document = {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}
        case ["openapi", "v3", "api", version]:
            document = _openapi(registry, "", version)
        case ["openapi", "v3", "apis", name, version]:
            document = _openapi(registry, name, version)
    return document


def _resource_list(registry: Registry, group: str, version: str) -> Document | None:
    """Return the document at /api/v1 and /apis/GROUP/VERSION, or None if it is not served."""
    kinds = _in(registry, group, version)
    if not kinds:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": [entry for kind in kinds for entry in _entries(kind)],
    }


def aggregated(registry: Registry, *, core: bool) -> Document:
    """Return all kinds in one document, which kubectl requests first at /api (*core*) and at /apis."""
    groups = {"": ["v1"]} if core else registry.groups()
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": name} if name else {},
                "versions": [
                    {
                        "version": version,
                        "freshness": "Current",
                        "resources": [_aggregated_entry(kind) for kind in _in(registry, name, version)],
                    }
                    for version in versions
                ],
            }
            for name, versions in groups.items()
        ],
    }


def _in(registry: Registry, group: str, version: str) -> list[ResourceType]:
    return [kind for kind in registry.all() if (kind.group, kind.version) == (group, version)]


def _group(name: str, versions: list[str]) -> Document:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _entries(kind: ResourceType) -> list[Document]:
    main: Document = {
        "name": kind.plural,
        "singularName": kind.singular or kind.kind.lower(),
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(VERBS),
    }
    entries = [main | _other_names(kind)]
    for name in kind.subresources:
        body, version, verbs = _SUBRESOURCES[name]
        entry: Document = {
            "name": f"{kind.plural}/{name}",
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": body or kind.kind,
            "verbs": list(verbs),
        }
        if version:
            entry["group"], entry["version"] = version.split("/")
        entries.append(entry)
    return entries


def _other_names(kind: ResourceType) -> Document:
    names = {"shortNames": list(kind.short_names), "categories": list(kind.categories)}
    return {field: values for field, values in names.items() if values}


def _aggregated_entry(kind: ResourceType) -> Document:
    entry: Document = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular or kind.kind.lower(),
        "verbs": list(VERBS),
    }
    entry |= _other_names(kind)
    if kind.subresources:
        entry["subresources"] = [_aggregated_subresource(kind, name) for name in kind.subresources]
    return entry


def _aggregated_subresource(kind: ResourceType, name: str) -> Document:
    body, version, verbs = _SUBRESOURCES[name]
    group, _, of_version = version.rpartition("/")
    response = {"group": group or kind.group, "version": of_version or kind.version, "kind": body or kind.kind}
    return {"subresource": name, "responseKind": response, "verbs": list(verbs)}


def _openapi(registry: Registry, group: str, version: str) -> Document | None:
    """Return the document at /openapi/v3/apis/GROUP/VERSION (or api/v1), or None if it is not served."""
    kinds = _in(registry, group, version)
    if not kinds:
        return None
    paths: Document = {}
    schemas: Document = {}
    for kind in kinds:
        prefix = f"/apis/{group}/{version}" if group else f"/api/{version}"
        scope = "/namespaces/{namespace}" if kind.namespaced else ""
        collection = f"{prefix}{scope}/{kind.plural}"
        paths[collection] = {"get": _operation(kind, "list"), "post": _operation(kind, "post", "fieldValidation")}
        paths[f"{collection}/{{name}}"] = {
            "get": _operation(kind, "get"),
            "put": _operation(kind, "put", "fieldValidation"),
            "patch": _operation(kind, "patch", "fieldValidation", "fieldManager", "force"),
            "delete": _operation(kind, "delete"),
        }
        schema = kind.schema or {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        schemas[_schema_name(kind)] = {**schema, _GVK: [_gvk(kind)]}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _schema_name(kind: ResourceType) -> str:
    """Return the kind's name among the schemas: reversed group, version, kind."""
    reverse = ".".join(reversed(kind.group.split("."))) if kind.group else "io.k8s.api.core"
    return f"{reverse}.{kind.version}.{kind.kind}"


def _operation(kind: ResourceType, action: str, *query: str) -> Document:
    dry_run = ("dryRun",) if action in {"post", "put", "patch", "delete"} else ()
    return {
        "operationId": f"{action}{kind.kind}",
        "parameters": [
            {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
            for name in (*dry_run, *query)
        ],
        "responses": {
            "200": {
                "description": "OK",
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_schema_name(kind)}"}}},
            }
        },
        "x-kubernetes-action": action,
        _GVK: _gvk(kind),
    }


def _gvk(kind: ResourceType) -> Document:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}
