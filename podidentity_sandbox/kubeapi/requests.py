"""The path, query and headers of a request as values. Pure except for reading the body."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import yaml
from aiohttp import web

from podidentity_sandbox.kubeapi import protobuf
from podidentity_sandbox.kubeapi.kinds import Registry, ResourceType
from podidentity_sandbox.kubeapi.statuses import (
    Document,
    bad_request,
    no_such_resource,
    not_acceptable,
    not_found,
    too_large,
    unsupported_media_type,
)

BODY_MAX: Final = 3 * 1024 * 1024
"""Bytes; the real server's own limit."""
DEPTH_MAX: Final = 200
"""Levels of nesting in a body: the project's objects have fewer than twenty, Python's recursion limit is higher."""
_ACCEPTED: Final = ("application/json", "application/yaml", protobuf.MEDIA_TYPE)


@dataclass(frozen=True, slots=True)
class Target:
    """One collection (no name) or one object, or a subresource of it. Namespace empty: all of them, or none exist."""

    resource: ResourceType
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    path: str = ""
    """The path behind the subresource `proxy`."""


def target(registry: Registry, path: str) -> Target | None:
    """Return the target of *path*; None outside of every served group and version. Raise StatusError 404 inside one."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    if group and version not in registry.groups().get(group, ()):
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and not (not group and rest[2] in {"status", "finalize"}):
        namespace, rest = rest[1], rest[2:]
    resource = registry.at(group, version, rest[0])
    path = "/".join(rest[3:]) if rest[2:3] == ["proxy"] else ""
    rest = rest[:3] if path else rest
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise no_such_resource()
    name, subresource = [*rest[1:], "", ""][:2]
    if subresource and resource.custom and subresource not in resource.subresources:
        raise not_found(resource.plural, resource.group, name)
    if (name and resource.namespaced and not namespace) or (subresource and subresource not in resource.subresources):
        raise no_such_resource()
    return Target(resource, namespace, name, subresource, path)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """The query of a list or a watch."""

    watch: bool
    resource_version: str
    match: str
    label_selector: str
    field_selector: str
    limit: int
    continue_token: str
    bookmarks: bool
    initial_events: bool
    timeout_seconds: int


def list_options(query: Mapping[str, str]) -> ListOptions:
    """Raise StatusError 400 where a number is none."""
    return ListOptions(
        watch=flag(query, "watch"),
        resource_version=query.get("resourceVersion", ""),
        match=query.get("resourceVersionMatch", ""),
        label_selector=query.get("labelSelector", ""),
        field_selector=query.get("fieldSelector", ""),
        limit=number(query, "limit"),
        continue_token=query.get("continue", ""),
        bookmarks=flag(query, "allowWatchBookmarks"),
        initial_events=flag(query, "sendInitialEvents"),
        timeout_seconds=number(query, "timeoutSeconds"),
    )


def flag(query: Mapping[str, str], name: str) -> bool:
    """Return whether a yes-or-no of the query is yes; without a value it is."""
    return name in query and query[name].lower() not in {"false", "0"}


def revision(text: str, *, code_of_watch: bool = False) -> int:
    """Return a resourceVersion as a number; empty is 0. Raise StatusError 400, or 500 like the real watch."""
    if not text:
        return 0
    if text.isascii() and text.isdigit():
        return int(text)
    problem = f'resourceVersion: Invalid value: "{text[:64]}": strconv.ParseUint: parsing "{text[:64]}": invalid syntax'
    if code_of_watch:
        error = bad_request(problem)
        error.code, error.reason = 500, ""
        raise error
    raise bad_request(f"invalid resource version: {problem}")


@dataclass(frozen=True, slots=True)
class Representation:
    """The form in which a client wants objects: as they are, or as rows of a table."""

    table: bool = False
    include: str = "Metadata"
    """The includeObject of the query: None, Metadata or Object."""


def representation(request: web.BaseRequest) -> Representation:
    """Return the form for the first supported media type in the Accept header. Raise StatusError 406 without one."""
    header = request.headers.get("Accept", "") or "*/*"
    for part in header.split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        if kind not in {"application/json", "*/*", "application/*"}:
            continue
        form = given.get("as", "")
        if form in {"", "Table"}:
            return Representation(form == "Table", request.query.get("includeObject", "Metadata"))
    raise not_acceptable(_ACCEPTED)


async def body(request: web.BaseRequest) -> bytes:
    """Return all of the body. Raise StatusError 413."""
    data = bytearray()
    async for chunk in request.content.iter_any():
        data += chunk
        if len(data) > BODY_MAX:
            raise too_large(BODY_MAX)
    return bytes(data)


async def document(request: web.BaseRequest, expected: str) -> Document:
    """Return the body as a document; *expected* names the kind in messages. Raise StatusError 400, 413 or 415."""
    if request.content_type not in {*_ACCEPTED, "application/octet-stream"}:
        raise unsupported_media_type(_ACCEPTED)
    return as_document(await body(request), request.content_type, expected)


def as_document(data: bytes, media_type: str, expected: str) -> Document:
    """Return *data* as a document. Raise StatusError 400."""
    decoded = decode(data, media_type, expected)
    if not isinstance(decoded, dict):
        raise bad_request(f"the object provided is unrecognized (must be of type {expected}): not an object")
    return decoded


def decode(data: bytes, media_type: str, expected: str) -> Any:
    """Decode JSON or YAML. Raise StatusError 400."""
    try:
        if media_type == protobuf.MEDIA_TYPE:
            return protobuf.decode(data)
        decoded = _plain(yaml.safe_load(data)) if media_type.endswith("yaml") else msgspec.json.decode(data)
    except (msgspec.DecodeError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(
            f"the object provided is unrecognized (must be of type {expected}): couldn't get version/kind; "
            f"json parse error: {str(error)[:200]}"
        ) from error
    if _is_deeper_than(DEPTH_MAX, decoded):
        raise bad_request(f"the object provided is nested deeper than {DEPTH_MAX} levels")
    return decoded


def _is_deeper_than(limit: int, value: Any) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _plain(value: Any) -> Any:
    """Return the value with YAML's dates as text, as in JSON."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime.date):
        return value.isoformat().replace("+00:00", "Z")
    return value


def number(query: Mapping[str, str], name: str) -> int:
    """Return a whole number of the query; 0 if it is not there. Raise StatusError 400."""
    text = query.get(name, "")
    if not text:
        return 0
    try:
        return int(text)
    except ValueError as error:
        raise bad_request(f'strconv.ParseInt: parsing "{text[:64]}": invalid syntax') from error
