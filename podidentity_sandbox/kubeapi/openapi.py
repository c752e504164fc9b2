"""The part of OpenAPI v3 that kubectl reads: PATCH with fieldValidation, and the schemas of the custom kinds. Pure.

Before an `apply`, kubectl reads here whether the server validates fields. Without this document kubectl would validate
them itself, and need a schema of every kind.
"""

from collections.abc import Sequence
from typing import Any, Final

from podidentity_sandbox.kubeapi.kinds import Registry, ResourceType

Document = dict[str, Any]

_GVK: Final = "x-kubernetes-group-version-kind"


def at(registry: Registry, parts: Sequence[str]) -> Document | None:
    """Return the document at the path of *parts*, or None if there is none."""
    match parts:
        case ["openapi", "v3"]:
            return root(registry)
        case ["openapi", "v3", "api", version]:
            return group_version(registry, "", version)
        case ["openapi", "v3", "apis", group, version]:
            return group_version(registry, group, version)
        case _:
            return None


def root(registry: Registry) -> Document:
    """Return the document at /openapi/v3: where each group and version is described."""
    paths = ["api/v1"] + [f"apis/{name}/{version}" for name, vs in registry.groups().items() for version in vs]
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}


def group_version(registry: Registry, group: str, version: str) -> Document | None:
    """Return the document at /openapi/v3/apis/GROUP/VERSION (or api/v1), or None if it is not served."""
    kinds = [kind for kind in registry.all() if (kind.group, kind.version) == (group, version)]
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
        schemas[schema_name(kind)] = _schema(kind)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.37.2+sandbox"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def schema_name(kind: ResourceType) -> str:
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
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema_name(kind)}"}}},
            }
        },
        "x-kubernetes-action": action,
        _GVK: _gvk(kind),
    }


def _schema(kind: ResourceType) -> Document:
    described = dict(kind.schema) if kind.schema else {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return described | {_GVK: [_gvk(kind)]}


def _gvk(kind: ResourceType) -> Document:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}
