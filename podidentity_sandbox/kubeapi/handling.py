"""Handling of requests at /api/v1 and /apis that name a kind: from a request to its verb and its response."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from podidentity_sandbox.kubeapi import listing, patching, requests, responses
from podidentity_sandbox.kubeapi.accounts import ServiceAccountTokens
from podidentity_sandbox.kubeapi.history import Item
from podidentity_sandbox.kubeapi.patching import json_patch, merge, strategic_merge
from podidentity_sandbox.kubeapi.requests import Representation, Target
from podidentity_sandbox.kubeapi.statuses import (
    Document,
    StatusError,
    bad_request,
    method_not_allowed,
    success,
    unsupported_media_type,
)
from podidentity_sandbox.kubeapi.verbs import DeleteOptions, Verbs
from podidentity_sandbox.kubeapi.watching import Watch, WatchEvent

TIMEOUT_SECONDS: Final = (1800, 3600)
"""How long a watch lasts that names no timeout: chosen between these, as the real server does, so that they spread."""


ReadLog = Callable[[Document, str, bool, int | None], AsyncIterator[bytes]]
"""Returns a pod's log in pieces: of the container, whether it follows or ends, and the last lines (None: all)."""

ReadPage = Callable[[Document, int, str], Awaitable[tuple[int, str, bytes]]]
"""Returns status, content type and body of the page at a path of a pod's port. Raises OSError if it is unreachable."""

Method = Callable[[web.BaseRequest, Target], Awaitable[web.StreamResponse]]


class ResourceHandler:
    """Handler of requests on a kind. `watches` contains the open watches, so that the server can end them."""

    def __init__(
        self,
        verbs: Verbs,
        *,
        tokens: ServiceAccountTokens,
        flowing: asyncio.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verbs = verbs
        self._tokens = tokens
        self._flowing = flowing
        self._clock = clock
        self.read_log: ReadLog | None = None
        self.read_page: ReadPage | None = None
        self.watches: set[Watch] = set()
        self._watches_changed = asyncio.Event()
        self._methods: dict[tuple[str, bool, str], Method] = {
            ("GET", False, ""): self._list,
            ("GET", True, ""): self._get,
            ("GET", True, "status"): self._get,
            ("GET", True, "log"): self._log,
            ("GET", True, "proxy"): self._proxy,
            ("POST", False, ""): self._create,
            ("POST", True, "token"): self._token,
            ("POST", True, "binding"): self._bind,
            ("PUT", True, ""): self._replace,
            ("PUT", True, "status"): self._replace,
            ("PATCH", True, ""): self._patch,
            ("PATCH", True, "status"): self._patch,
            ("DELETE", True, ""): self._delete,
            ("DELETE", False, ""): self._delete_all,
        }

    async def response_to(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        """Return the response to a request on *target*. Raise StatusError."""
        method = self._methods.get((request.method, bool(target.name), target.subresource))
        if method is None:
            raise method_not_allowed()
        return await method(request, target)

    async def _get(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        if requests.flag(request.query, "watch"):
            return await self._list(request, target)
        item = self._verbs.get(target.resource, (target.namespace, target.name))
        return self._one(request, target, item)

    async def _list(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        options = requests.list_options(request.query)
        form = requests.representation(request)
        if options.watch:
            return await self._watch(request, target, options, form)
        page = listing.page(self._verbs.history, target, options)
        return responses.many(target.resource, page, form, self._verbs.now())

    async def _watch(
        self, request: web.BaseRequest, target: Target, options: requests.ListOptions, form: Representation
    ) -> web.StreamResponse:
        timeout = options.timeout_seconds or random.randint(*TIMEOUT_SECONDS)  # noqa: S311 - no secret
        watch = Watch(
            self._verbs.history,
            target,
            options,
            timeout_seconds=timeout,
            clock=self._clock,
        )
        self.watches.add(watch)
        self._notify_watches_changed()
        try:
            response = web.StreamResponse(headers={"Content-Type": responses.JSON})
            response.enable_chunked_encoding()
            await response.prepare(request)
            async for event in watch.events():
                await self._flowing.wait()
                await response.write(self._line(target, event, form))
            await self._flowing.wait()
            await response.write_eof()
        finally:
            watch.close()
            self.watches.discard(watch)
            self._notify_watches_changed()
        return response

    async def until(self, enough: Callable[[], bool]) -> None:
        """Return when *enough* is true of the watches in progress."""
        while not enough():
            await self._watches_changed.wait()

    def _notify_watches_changed(self) -> None:
        self._watches_changed.set()
        self._watches_changed = asyncio.Event()

    def _line(self, target: Target, event: WatchEvent, form: Representation) -> bytes:
        sent = responses.one_bytes(target.resource, event.item, form, self._verbs.now())
        return b'{"type":"%s","object":%s}\n' % (event.type.encode(), sent)

    async def _create(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        document = await requests.document(request, target.resource.kind)
        namespace = target.namespace
        if target.resource.namespaced and not namespace:
            raise method_not_allowed()
        item = self._verbs.create(target.resource, namespace, document, **_write_options(request))
        return self._one(request, target, item, 201)

    async def _replace(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        document = await requests.document(request, target.resource.kind)
        if target.resource.create_on_update and not self._exists(target):
            return self._created(request, target, document)
        return self._updated(request, target, lambda _: document, conditional=True)

    async def _patch(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        media_type = request.content_type
        accepted = [patching.JSON, patching.MERGE, patching.APPLY]
        if not target.resource.custom:
            accepted.insert(2, patching.STRATEGIC)
        if media_type not in accepted:
            raise unsupported_media_type(accepted)
        data = await requests.body(request)
        if media_type == patching.JSON:
            try:
                patch = requests.decode(data, media_type, target.resource.kind)
            except StatusError as error:
                raise bad_request("invalid JSON patch") from error
            return self._updated(request, target, lambda old: json_patch(old, patch))
        patch = requests.as_document(data, media_type, target.resource.kind)
        if media_type == patching.APPLY:
            return self._applied(request, target, patch)
        merged = strategic_merge if media_type == patching.STRATEGIC else merge
        return self._updated(request, target, lambda old: merged(old, patch))

    def _applied(self, request: web.BaseRequest, target: Target, patch: Document) -> web.StreamResponse:
        """Apply on the server side without field managers: merge the document and remove no field."""
        if not request.query.get("fieldManager"):
            raise bad_request('PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value')
        if not target.subresource and not self._exists(target):
            return self._created(request, target, patch)
        merged = merge if target.resource.custom else strategic_merge
        return self._updated(request, target, lambda old: merged(old, patch))

    def _exists(self, target: Target) -> bool:
        return self._verbs.history.get(target.resource.name, (target.namespace, target.name)) is not None

    def _created(self, request: web.BaseRequest, target: Target, document: Document) -> web.StreamResponse:
        item = self._verbs.create(target.resource, target.namespace, document, dry_run=_is_dry_run(request))
        return self._one(request, target, item, 201)

    def _updated(
        self, request: web.BaseRequest, target: Target, change: Callable[[Document], Any], *, conditional: bool = False
    ) -> web.StreamResponse:
        item = self._verbs.update(
            target.resource,
            (target.namespace, target.name),
            change,
            subresource=target.subresource,
            conditional=conditional,
            **_write_options(request),
        )
        return self._one(request, target, item)

    async def _delete(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        options = await _delete_options(request)
        resource, key = target.resource, (target.namespace, target.name)
        item, gone = self._verbs.delete(resource, key, options, dry_run=_is_dry_run(request))
        # Of these two kinds the real server returns the deleted object.
        if gone and resource.name not in {"pods", "serviceaccounts"}:
            uid = item.document["metadata"]["uid"]
            return responses.document(success(target.name, resource.plural, resource.group, uid))
        return self._one(request, target, item)

    async def _delete_all(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        if target.resource.namespaced and not target.namespace:
            raise method_not_allowed()
        options = await _delete_options(request)
        page = listing.page(self._verbs.history, target, requests.list_options(request.query))
        for item in page.items:
            metadata = item.document["metadata"]
            key = (metadata.get("namespace", ""), metadata["name"])
            self._verbs.delete(target.resource, key, options, dry_run=_is_dry_run(request))
        return responses.many(target.resource, page, Representation(), self._verbs.now())

    async def _bind(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        binding = await requests.document(request, "Binding")
        node = str((binding.get("target") or {}).get("name", ""))
        condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": self._verbs.timestamp()}

        def bound(pod: Document) -> Document:
            return dict(strategic_merge(pod, {"spec": {"nodeName": node}, "status": {"conditions": [condition]}}))

        self._verbs.update(target.resource, (target.namespace, target.name), bound, subresource="binding")
        return responses.document(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201
        )

    async def _token(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        token_request = await requests.document(request, "TokenRequest")
        return responses.document(await self._tokens.give(target.namespace, target.name, token_request), 201)

    async def _log(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        pod = self._verbs.get(target.resource, (target.namespace, target.name)).document
        query = request.query
        containers = [container["name"] for container in pod["spec"]["containers"]]
        container = query.get("container") or containers[0]
        if container not in containers:
            raise bad_request(f"container {container[:64]} is not valid for pod {target.name}")
        tail = query.get("tailLines", "")
        last_lines = int(tail) if tail.isdigit() else None
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        if self.read_log is not None:
            async for piece in self.read_log(pod, container, requests.flag(query, "follow"), last_lines):
                await response.write(piece)
        await response.write_eof()
        return response

    async def _proxy(self, _: web.BaseRequest, target: Target) -> web.StreamResponse:
        """Return a page of a pod's port. The name is `NAME` or `NAME:PORT`."""
        name, _colon, port = target.name.partition(":")
        pod = self._verbs.get(target.resource, (target.namespace, name)).document
        if self.read_page is None or not (port or "80").isdigit():
            raise bad_request(f"the port of pod {name[:253]} cannot be read")
        try:
            status, content_type, body = await self.read_page(pod, int(port or "80"), f"/{target.path}")
        except OSError as error:
            raise StatusError(503, "ServiceUnavailable", f"error trying to reach service: {error}") from error
        return web.Response(status=status, body=body, headers={"Content-Type": content_type})

    def _one(self, request: web.BaseRequest, target: Target, item: Item, status: int = 200) -> web.Response:
        return responses.one(target.resource, item, requests.representation(request), self._verbs.now(), status=status)


async def _delete_options(request: web.BaseRequest) -> DeleteOptions:
    data = await requests.body(request)
    options = requests.as_document(data, request.content_type, "DeleteOptions") if data else {}
    conditions = options.get("preconditions") or {}
    grace = options.get("gracePeriodSeconds")
    query = request.query.get("gracePeriodSeconds", "")
    if grace is None and query:
        grace = requests.number(request.query, "gracePeriodSeconds")
    return DeleteOptions(
        uid=str(conditions.get("uid") or ""),
        resource_version=str(conditions.get("resourceVersion") or ""),
        grace_seconds=grace,
    )


def _is_dry_run(request: web.BaseRequest) -> bool:
    return request.query.get("dryRun", "") == "All"


def _write_options(request: web.BaseRequest) -> dict[str, bool]:
    return {"dry_run": _is_dry_run(request), "strict": request.query.get("fieldValidation", "") == "Strict"}
