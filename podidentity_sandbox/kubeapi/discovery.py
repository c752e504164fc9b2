"""Discovery: the version, the groups, and the kinds of each group, separately or aggregated. Pure."""

from collections.abc import Sequence
from typing import Any, Final

from podidentity_sandbox.kubeapi.kinds import VERBS, Registry, ResourceType

Document = dict[str, Any]

AGGREGATED: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""The media type of `aggregated`, with which kubectl requests it."""
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
    match parts:
        case ["version"]:
            return VERSION
        case ["api"]:
            return api_versions(address)
        case ["apis"]:
            return group_list(registry)
        case ["api", version]:
            return resource_list(registry, "", version)
        case ["apis", name, version]:
            return resource_list(registry, name, version)
        case _:
            return group(registry, parts[1]) if len(parts) == 2 and parts[0] == "apis" else None


def api_versions(address: str) -> Document:
    """Return the document at /api."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group_list(registry: Registry) -> Document:
    """Return the document at /apis."""
    groups = [_group(name, versions) for name, versions in registry.groups().items()]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(registry: Registry, name: str) -> Document | None:
    """Return the document at /apis/GROUP, or None if it is not served."""
    versions = registry.groups().get(name)
    return None if versions is None else {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, versions)


def resource_list(registry: Registry, group: str, version: str) -> Document | None:
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


def singular(kind: ResourceType) -> str:
    return kind.singular or kind.kind.lower()


def _in(registry: Registry, group: str, version: str) -> list[ResourceType]:
    return [kind for kind in registry.all() if (kind.group, kind.version) == (group, version)]


def _group(name: str, versions: list[str]) -> Document:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _entries(kind: ResourceType) -> list[Document]:
    main: Document = {
        "name": kind.plural,
        "singularName": singular(kind),
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(VERBS),
    }
    if kind.short_names:
        main["shortNames"] = list(kind.short_names)
    if kind.categories:
        main["categories"] = list(kind.categories)
    entries = [main]
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


def _aggregated_entry(kind: ResourceType) -> Document:
    entry: Document = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": singular(kind),
        "verbs": list(VERBS),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    if kind.subresources:
        entry["subresources"] = [_aggregated_subresource(kind, name) for name in kind.subresources]
    return entry


def _aggregated_subresource(kind: ResourceType, name: str) -> Document:
    body, version, verbs = _SUBRESOURCES[name]
    group, _, of_version = version.rpartition("/")
    response = {"group": group or kind.group, "version": of_version or kind.version, "kind": body or kind.kind}
    return {"subresource": name, "responseKind": response, "verbs": list(verbs)}
