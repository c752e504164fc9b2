"""Lists of objects, read in pages: in smaller ones if the objects are large, and in parts if a page is indivisible."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Final, TypeVar

import msgspec

from podidentity.kube import response_limits
from podidentity.kube.decoding import SHALLOW_MAX, Malformed, RawPage, Skipped, TooDeep, TooLarge
from podidentity.kube.errors import Gone, NoResponse, malformed
from podidentity.kube.paths import object_path, selectors
from podidentity.kube.scanning import DEPTH_READABLE, ScanError, ScannedObject, Scanner
from podidentity.kube.transport import Transport, read_body
from podidentity.resources import Kind, Resource

R = TypeVar("R", bound=Resource)

PAGE_SIZE: Final = 500
SHRINK: Final = 4
"""Divisor of the page size after a page that is too large, unless fewer objects fitted."""
_UID: Final = b'"uid":"'
"""Every object has it once, but so do owners and embedded objects, so the count is an estimate."""


class _PageTooLarge(Exception):  # noqa: N818 - named for what happened
    """A page has more than BODY_MAX bytes, of which about *objects* objects were read."""

    def __init__(self, objects: int) -> None:
        super().__init__()
        self.objects = objects


async def list_pages(
    transport: Transport,
    kind: Kind[R],
    namespace: str,
    *,
    field_selector: str,
    label_selector: str,
    page_size: int,
    read: Callable[[bytes], RawPage],
) -> AsyncGenerator[RawPage, None]:
    """Yield the pages of one list. A page with `first` set invalidates all earlier pages. *read* reads one response.

    With an expired continue token (Gone) the server offers a token of a later snapshot. It is not used: earlier
    objects would be of the older snapshot, and a watch from the later one would miss their changes in between.
    Instead the list starts again, the second time without pages.
    """
    chosen, path = selectors(field_selector, label_selector), object_path(kind, namespace)
    limit, token, first, failed = page_size, "", True, False
    while True:
        params = {**chosen, "limit": str(limit)} if limit else dict(chosen)
        if token:
            params["continue"] = token
        following = ""
        try:
            async with aclosing(_parts(transport, path, params, read, divisible=limit > 1)) as parts:
                async for part in parts:
                    size, following = part.size, part.continue_token
                    yield msgspec.structs.replace(part, first=first)
                    first = False
                    del part  # two parts must not be in memory together
        except _PageTooLarge as error:
            # Fewer than fitted, because the next objects may be larger.
            limit = max(1, min(limit // SHRINK, error.objects * 3 // 4))
            continue
        except Gone:
            if not token:
                raise
            limit, token, first, failed = (0 if failed else page_size), "", True, True
            continue
        except Malformed as error:
            raise malformed(kind.plural, error) from error
        token = following
        if not token:
            return
        # The large objects may be on earlier pages only.
        if limit < page_size and 0 < size * SHRINK <= response_limits.BODY_MAX:
            limit = min(page_size, limit * 2)


async def _parts(
    transport: Transport, path: str, params: Mapping[str, str], read: Callable[[bytes], RawPage], *, divisible: bool
) -> AsyncGenerator[RawPage, None]:
    """Yield one response of a list: as one page, or as several if it is long or deeply nested.

    Only the last of several has the list's version and token. Raises _PageTooLarge for a long one if it is *divisible*,
    and Malformed for anything but a list.
    """
    response = await transport.open_response(path, params)
    try:
        whole, data = await transport.in_time(read_body(response, response_limits.BODY_MAX))
        if whole:
            response.close()
            with suppress(TooDeep):  # then the scanner reads it
                yield read(data)
                return
        elif divisible:
            raise _PageTooLarge(data.count(_UID, 0, response_limits.BODY_MAX))
        scanner = Scanner(object_max=response_limits.OBJECT_MAX)
        items: list[msgspec.Raw] = []
        skipped: list[Skipped] = []
        held = 0
        while data:
            for piece in response_limits.split_pieces(data):
                for scanned in _scan(scanner, piece):
                    if (problem := _problem(scanned)) is not None:
                        skipped.append(Skipped(scanned.meta, problem))
                    else:
                        items.append(msgspec.Raw(scanned.data))
                        held += len(scanned.data)
                if held > response_limits.PART_BYTES:
                    yield RawPage(items, "", "", skipped=skipped)
                    items, skipped, held = [], [], 0
                await asyncio.sleep(0)
            data = b"" if whole else await transport.in_time(response.readany())
        if not scanner.finished:
            raise NoResponse(f"{transport.access.server} closed the connection in the middle of a list")
        fields = scanner.fields
        yield RawPage(items, fields.get("resourceVersion", ""), fields.get("continue", ""), skipped=skipped)
    finally:
        response.close()


def _scan(scanner: Scanner, piece: bytes) -> list[ScannedObject]:
    try:
        return scanner.feed(piece)
    except ScanError as error:
        raise Malformed(f"not a list: {error}") from error


def _problem(scanned: ScannedObject) -> Malformed | None:
    """Return why a scanned object is skipped, or None."""
    if scanned.size > response_limits.OBJECT_MAX:
        return TooLarge(f"it has {scanned.size} bytes of JSON, and the limit is {response_limits.OBJECT_MAX}")
    if scanned.depth > DEPTH_READABLE and scanned.size > SHALLOW_MAX:
        return TooDeep(
            f"it is nested {scanned.depth} levels deep and has {scanned.size} bytes; remove the nested fields"
        )
    return None
