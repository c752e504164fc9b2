"""Documents as HTTP responses: objects, lists, tables and errors, with their content types.

A table has the columns that `kubectl get` prints, computed by the server. The columns of a custom kind are JSONPaths of
its definition. Supported are dotted names (a backslash escapes a dot in a name), `['name']`, `[0]` and
`[?(@.name=="value")]`. This module computes the cells of the built-in kinds.
"""

import datetime
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from podidentity_sandbox.kubeapi.history import Item
from podidentity_sandbox.kubeapi.kinds import Column, ResourceType
from podidentity_sandbox.kubeapi.listing import Page
from podidentity_sandbox.kubeapi.requests import Representation
from podidentity_sandbox.kubeapi.statuses import Document, StatusError

JSON: Final = "application/json"
_encode = msgspec.json.Encoder().encode
Cells = Callable[[Document, datetime.datetime], list[Any]]

_STEP: Final = re.compile(
    r"""\.?(?P<name>(?:[A-Za-z0-9_\-$/]|\\\.)+)"""
    r"""|\[(?P<index>\d+)\]"""
    r"""|\['(?P<quoted>[^']*)'\]"""
    r"""|\[\?\(@\.(?P<filter>[\w.]+)\s*==\s*["'](?P<value>[^"']*)["']\)\]"""
)
_NAME: Final = Column("Name", "string", "", format="name", description="Name must be unique within a namespace.")


def document(body: Document, status: int = 200) -> web.Response:
    return web.Response(body=_encode(body), status=status, content_type=JSON)


def refusal(error: StatusError) -> web.Response:
    response = document(error.document(), error.code)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def one(
    resource: ResourceType, item: Item, form: Representation, now: datetime.datetime, *, status: int = 200
) -> web.Response:
    """Return one object in the requested form, as in a response or a watch event."""
    return web.Response(body=one_bytes(resource, item, form, now), status=status, content_type=JSON)


def one_bytes(resource: ResourceType, item: Item, form: Representation, now: datetime.datetime) -> bytes:
    """Return one object in the requested form, as in a response or a watch event."""
    if item.document.get("kind") == "Status" or not form.table:
        return item.json
    metadata = {"resourceVersion": item.document["metadata"].get("resourceVersion", "")}
    named = "name" in item.document["metadata"]
    return _encode(_table(resource, metadata, [item] if named else [], form.include, now))


def many(resource: ResourceType, page: Page, form: Representation, now: datetime.datetime) -> web.Response:
    """Return one page of a list in the requested form."""
    metadata: Document = {"resourceVersion": str(page.revision)}
    if page.continue_token:
        metadata["continue"] = page.continue_token
    if page.remaining is not None:
        metadata["remainingItemCount"] = page.remaining
    if form.table:
        return document(_table(resource, metadata, page.items, form.include, now))
    kind = resource.list_kind or f"{resource.kind}List"
    head = _encode({"kind": kind, "apiVersion": resource.api_version, "metadata": metadata})
    items = b",".join(item.json if resource.custom else item.bare for item in page.items)
    return web.Response(body=head[:-1] + b',"items":[' + items + b"]}", content_type=JSON)


def _table(
    resource: ResourceType, metadata: Document, items: Sequence[Item], include: str, now: datetime.datetime
) -> Document:
    listed: Sequence[Column] = resource.columns or _BUILT_IN.get(resource.name, (_AGE_ONLY, _age_cells))[0]
    definitions = [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in (_NAME, *listed)
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": [row(resource, item, now, include) for item in items],
    }


def row(resource: ResourceType, item: Item, now: datetime.datetime, include: str) -> Document:
    """Return one row; *include* is the includeObject of the query: None, Metadata (the default) or Object."""
    document = item.document
    if resource.columns:
        cells = [_cell(column, document, now) for column in resource.columns]
    else:
        cells = _BUILT_IN.get(resource.name, (_AGE_ONLY, _age_cells))[1](document, now)
    made: Document = {"cells": [document["metadata"].get("name", ""), *cells]}
    if include == "Object":
        made["object"] = document
    elif include != "None":
        kind = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
        made["object"] = {**kind, "metadata": document["metadata"]}
    return made


def _find(document: Any, path: str) -> list[Any]:
    """Return every value at a JSONPath."""
    values = [document]
    for match in _STEP.finditer(path.strip("{}")):
        name, index, wanted = match["name"] or match["quoted"], match["index"], match["filter"]
        name = name and name.replace("\\.", ".")
        following: list[Any] = []
        for value in values:
            if wanted and isinstance(value, list):
                following += [item for item in value if match["value"] in map(str, _find(item, f".{wanted}"))]
            elif index and isinstance(value, list) and int(index) < len(value):
                following.append(value[int(index)])
            elif name and isinstance(value, dict) and value.get(name) is not None:
                following.append(value[name])
        values = following
    return values


def _cell(column: Column, document: Document, now: datetime.datetime) -> Any:
    values = _find(document, column.path)
    if not values:
        return None
    value = values[0]
    match column.type:
        case "date":
            return _age(value, now)
        case "integer":
            return value if isinstance(value, int) else None
        case "string":
            return json.dumps(value, separators=(",", ":")) if isinstance(value, bool | dict | list) else str(value)
        case _:
            return value


def _age(stamp: Any, now: datetime.datetime) -> str:
    """Return an age in its two largest units, as kubectl prints it."""
    try:
        seconds = int((now - datetime.datetime.fromisoformat(str(stamp))).total_seconds())
    except (ValueError, TypeError):
        return "<unknown>"
    if seconds < 0:
        return "0s" if seconds > -2 else "<invalid>"
    days, hours, minutes = seconds // 86400, seconds // 3600, seconds // 60
    for limit, whole, rest in (
        (120, f"{seconds}s", ""),
        (600, f"{minutes}m", f"{seconds % 60}s"),
        (3 * 3600, f"{minutes}m", ""),
        (8 * 3600, f"{hours}h", f"{minutes % 60}m"),
        (48 * 3600, f"{hours}h", ""),
        (8 * 86400, f"{days}d", f"{hours % 24}h"),
    ):
        if seconds < limit:
            return whole if rest.startswith("0") else whole + rest
    return f"{days}d"


def _created(document: Document, now: datetime.datetime) -> str:
    return _age(document["metadata"].get("creationTimestamp"), now)


def _age_cells(document: Document, now: datetime.datetime) -> list[Any]:
    return [_created(document, now)]


def _pod_cells(pod: Document, now: datetime.datetime) -> list[Any]:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    statuses = status.get("containerStatuses") or []
    ready = sum(bool(container.get("ready")) for container in statuses)
    shown = status.get("reason") or status.get("phase") or "Unknown"
    for container in reversed(statuses):
        state = container.get("state") or {}
        shown = (state.get("waiting") or {}).get("reason") or (state.get("terminated") or {}).get("reason") or shown
    if pod["metadata"].get("deletionTimestamp"):
        shown = "Terminating"
    restarts = sum(container.get("restartCount", 0) for container in statuses)
    return [
        f"{ready}/{len(spec.get('containers') or ())}",
        shown,
        str(restarts),
        _created(pod, now),
        status.get("podIP") or "<none>",
        spec.get("nodeName") or "<none>",
        status.get("nominatedNodeName") or "<none>",
        "<none>",
    ]


def _node_cells(node: Document, now: datetime.datetime) -> list[Any]:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    ready = [c.get("status") == "True" for c in status.get("conditions") or () if c.get("type") == "Ready"]
    words = ["Ready" if ready[0] else "NotReady"] if ready else ["Unknown"]
    if spec.get("unschedulable"):
        words.append("SchedulingDisabled")
    prefix = "node-role.kubernetes.io/"
    roles = sorted(
        label.removeprefix(prefix) for label in node["metadata"].get("labels") or () if label.startswith(prefix)
    )
    addresses = {address.get("type"): address.get("address") for address in status.get("addresses") or ()}
    info = status.get("nodeInfo") or {}
    return [
        ",".join(words),
        ",".join(roles) or "<none>",
        _created(node, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP") or "<none>",
        addresses.get("ExternalIP") or "<none>",
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _event_cells(event: Document, now: datetime.datetime) -> list[Any]:
    about = event.get("involvedObject") or {}
    seen = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")
    return [
        _age(seen, now),
        event.get("type", ""),
        event.get("reason", ""),
        f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        str(event.get("message", "")).strip(),
        (event.get("source") or {}).get("component", "") or event.get("reportingComponent", ""),
        event.get("count", 1),
        event["metadata"].get("name", ""),
    ]


def _endpoints_cells(endpoints: Document, now: datetime.datetime) -> list[Any]:
    addresses = [
        f"{address.get('ip', '')}:{port.get('port', '')}"
        for subset in endpoints.get("subsets") or ()
        for address in subset.get("addresses") or ()
        for port in subset.get("ports") or ()
    ]
    return [",".join(addresses[:3]) or "<none>", _created(endpoints, now)]


def _columns(text: str) -> tuple[Column, ...]:
    """Return columns from "Name Type" words; those after a bar are shown with `-o wide` only."""
    narrow, _, wide = text.partition("|")
    return tuple(
        Column(word.replace("_", " "), "integer" if word in {"Data", "Count"} else "string", "", priority)
        for priority, words in enumerate((narrow, wide))
        for word in words.split()
    )


_AGE_ONLY: Final = _columns("Age")
_BUILT_IN: Final[dict[str, tuple[tuple[Column, ...], Cells]]] = {
    "pods": (_columns("Ready Status Restarts Age | IP Node Nominated_Node Readiness_Gates"), _pod_cells),
    "nodes": (
        _columns("Status Roles Age Version | Internal-IP External-IP OS-Image Kernel-Version Container-Runtime"),
        _node_cells,
    ),
    "namespaces": (
        _columns("Status Age"),
        lambda document, now: [(document.get("status") or {}).get("phase", ""), _created(document, now)],
    ),
    "events": (_columns("Last_Seen Type Reason Object Message | Source Count Name"), _event_cells),
    "configmaps": (
        _columns("Data Age"),
        lambda document, now: [
            len(document.get("data") or ()) + len(document.get("binaryData") or ()),
            _created(document, now),
        ],
    ),
    "secrets": (
        _columns("Type Data Age"),
        lambda document, now: [document.get("type", ""), len(document.get("data") or ()), _created(document, now)],
    ),
    "endpoints": (_columns("Endpoints Age"), _endpoints_cells),
    "leases.coordination.k8s.io": (
        _columns("Holder Age"),
        lambda document, now: [(document.get("spec") or {}).get("holderIdentity", ""), _created(document, now)],
    ),
    "customresourcedefinitions.apiextensions.k8s.io": (
        _columns("Created_At"),
        lambda document, _: [document["metadata"].get("creationTimestamp", "")],
    ),
}
