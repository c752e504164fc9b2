"""Documents as HTTP responses: objects, lists, tables and errors. Only this module sets content types."""

import datetime
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from podidentity_sandbox.kubeapi import tables
from podidentity_sandbox.kubeapi.history import Item
from podidentity_sandbox.kubeapi.kinds import ResourceType
from podidentity_sandbox.kubeapi.listing import Page
from podidentity_sandbox.kubeapi.statuses import StatusError

Document = dict[str, Any]

JSON: Final = "application/json"
_encode = msgspec.json.Encoder().encode


def document(body: Document, status: int = 200) -> web.Response:
    return web.Response(body=_encode(body), status=status, content_type=JSON)


def text(body: str, status: int = 200) -> web.Response:
    return web.Response(text=body, status=status)


def refusal(error: StatusError) -> web.Response:
    response = document(error.document(), error.code)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def one(
    resource: ResourceType, item: Item, form: str, include: str, now: datetime.datetime, *, status: int = 200
) -> web.Response:
    """Return one object in the requested form, as in a response or a watch event."""
    return web.Response(body=one_bytes(resource, item, form, include, now), status=status, content_type=JSON)


def one_bytes(resource: ResourceType, item: Item, form: str, include: str, now: datetime.datetime) -> bytes:
    """Return one object in the requested form, as in a response or a watch event."""
    if item.document.get("kind") == "Status" or form != "Table":
        return item.json
    metadata = {"resourceVersion": item.document["metadata"].get("resourceVersion", "")}
    named = "name" in item.document["metadata"]
    return _encode(_table(resource, metadata, [item] if named else [], include, now))


def many(resource: ResourceType, page: Page, form: str, include: str, now: datetime.datetime) -> web.Response:
    """Return one page of a list in the requested form."""
    metadata: Document = {"resourceVersion": str(page.revision)}
    if page.continue_token:
        metadata["continue"] = page.continue_token
    if page.remaining is not None:
        metadata["remainingItemCount"] = page.remaining
    if form == "Table":
        return document(_table(resource, metadata, page.items, include, now))
    kind = resource.list_kind or f"{resource.kind}List"
    head = _encode({"kind": kind, "apiVersion": resource.api_version, "metadata": metadata})
    items = b",".join(item.json if resource.custom else item.bare for item in page.items)
    return web.Response(body=head[:-1] + b',"items":[' + items + b"]}", content_type=JSON)


def _table(
    resource: ResourceType, metadata: Document, items: Sequence[Item], include: str, now: datetime.datetime
) -> Document:
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": tables.columns(resource),
        "rows": [tables.row(resource, item, now, include) for item in items],
    }
