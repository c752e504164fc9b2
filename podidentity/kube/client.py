"""Typed requests to the API server: objects of the kinds of `podidentity.resources`, decoded with msgspec."""

import builtins
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from podidentity.kube.access import ClusterAccess
from podidentity.kube.decoding import (
    Malformed,
    NoteIgnored,
    RawPage,
    TooLong,
    decode_meta,
    decode_object,
    split_list,
)
from podidentity.kube.errors import malformed
from podidentity.kube.ignored_fields import IgnoredFields
from podidentity.kube.lists import PAGE_SIZE, list_pages
from podidentity.kube.paths import object_path
from podidentity.kube.sessions import OpenSession, aiohttp_session
from podidentity.kube.skipped import SkippedObjects
from podidentity.kube.transport import CONNECTIONS_MAX, Transport
from podidentity.object_limits import oversized
from podidentity.resources import Kind, Resource

R = TypeVar("R", bound=Resource)

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"


class Client(Transport):
    """One API server with one connection pool, as `Transport`, whose lists skip unreadable objects."""

    def __init__(
        self,
        access: ClusterAccess,
        *,
        user_agent: str,
        timeout_seconds: float = 30.0,
        connections: int = CONNECTIONS_MAX,
        reuse_connections: bool = True,
        open_session: OpenSession = aiohttp_session,
        old_field_names: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            access,
            user_agent=user_agent,
            timeout_seconds=timeout_seconds,
            connections=connections,
            reuse_connections=reuse_connections,
            open_session=open_session,
            clock=clock,
        )
        self.skipped = SkippedObjects(clock)
        """Objects that lists and informers of this client skip."""
        self.ignored_fields = IgnoredFields(clock)
        """Fields that informers of this client ignore because of their old names."""
        self.old_field_names = old_field_names
        """Whether fields under their names from before v1.6.0 count in the objects that this client reads."""

    async def get(self, kind: Kind[R], namespace: str, name: str) -> R:
        """Return the object as stored now."""
        return self._decode(kind, await self.request("GET", object_path(kind, namespace, name)))

    async def list(
        self,
        kind: Kind[R],
        namespace: str = "",
        *,
        field_selector: str = "",
        label_selector: str = "",
        note: NoteIgnored | None = None,
    ) -> builtins.list[R]:
        """Return all objects (of one namespace, if given) of one snapshot, read in pages.

        An object that cannot be read or is over a limit is skipped and reported to `skipped`. *note* as of
        `decode_object`; it may be called again for an object if the list begins again.
        """
        items: builtins.list[R] = []
        async for page in self.pages(kind, namespace, field_selector=field_selector, label_selector=label_selector):
            if page.first:
                items = []
            for skipped in page.skipped:
                self.skipped.report(kind, skipped.meta, skipped.error)
            for raw in page.items:
                try:
                    item = decode_object(kind, raw, old_field_names=self.old_field_names, note=note)
                    if reason := oversized(item):
                        raise TooLong(reason)  # noqa: TRY301 - the same error as of the decoding
                    items.append(item)
                except Exception as error:  # noqa: BLE001 - one object must not hide the others
                    self.skipped.report(kind, decode_meta(raw), error)
            del page  # two pages must not be in memory together
        return items

    def pages(
        self,
        kind: Kind[R],
        namespace: str = "",
        *,
        field_selector: str = "",
        label_selector: str = "",
        page_size: int = PAGE_SIZE,
        read: Callable[[bytes], RawPage] = split_list,
    ) -> AsyncGenerator[RawPage, None]:
        """Yield the pages of one list, with undecoded objects unless *read* decodes them; see `list_pages`."""
        return list_pages(
            self,
            kind,
            namespace,
            field_selector=field_selector,
            label_selector=label_selector,
            page_size=page_size,
            read=read,
        )

    async def create(self, kind: Kind[R], namespace: str, document: Mapping[str, Any]) -> R:
        """Create an object and return it as stored. *document* may omit kind and apiVersion."""
        return self._decode(
            kind, await self.request("POST", object_path(kind, namespace), body=_encode(kind, document))
        )

    async def replace(self, kind: Kind[R], namespace: str, name: str, document: Mapping[str, Any]) -> R:
        """Replace an object (PUT). With metadata.resourceVersion in *document* it raises Conflict if the stored one
        differs.
        """
        return self._decode(
            kind, await self.request("PUT", object_path(kind, namespace, name), body=_encode(kind, document))
        )

    async def patch_json(
        self, kind: Kind[R], namespace: str, name: str, operations: Sequence[Mapping[str, Any]], subresource: str = ""
    ) -> R:
        """Apply an RFC 6902 patch. Raises Invalid if a `test` operation fails or a removed path is missing."""
        path = object_path(kind, namespace, name, subresource)
        body = msgspec.json.encode(operations)
        return self._decode(kind, await self.request("PATCH", path, body=body, content_type=JSON_PATCH))

    async def patch_merge(self, kind: Kind[R], namespace: str, name: str, document: Mapping[str, Any]) -> R:
        """Apply an RFC 7386 patch: null removes, maps merge, lists are replaced."""
        body = msgspec.json.encode(document)
        return self._decode(
            kind,
            await self.request("PATCH", object_path(kind, namespace, name), body=body, content_type=MERGE_PATCH),
        )

    async def delete(self, kind: Kind[R], namespace: str, name: str, *, uid: str | None = None) -> None:
        """Request deletion; an object with finalizers is deleted after they are removed. With *uid*, raises Conflict
        for another object of that name.
        """
        options = {"preconditions": {"uid": uid}} if uid is not None else {}
        body = msgspec.json.encode({"kind": "DeleteOptions", "apiVersion": "v1", **options})
        await self.request("DELETE", object_path(kind, namespace, name), body=body)

    def _decode(self, kind: Kind[R], data: bytes) -> R:
        try:
            return decode_object(kind, data, old_field_names=self.old_field_names)
        except Malformed as error:
            raise malformed(kind.plural, error) from error


def _encode(kind: Kind[R], document: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"apiVersion": kind.api_version, "kind": kind.name, **document})
