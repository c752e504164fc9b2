"""Informer: a local copy of one kind's objects, kept current by list and watch.

The list is read in pages and the watch uses bookmarks. After an interruption the watch continues from the last resource
version. Only if the server has dropped that version from its history (410, as HTTP status or ERROR event), everything
is listed again and compared, so that the handler receives only differences. A watch that is silent for longer than the
bookmark interval counts as half-open and is replaced.

One object never stops an informer. An object that cannot be decoded, is over a limit, or makes the handler raise counts
as absent and is reported to the client's `skipped`. If the handler fails to remove an object, the informer counts as
silent until a later list succeeds in removing it.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Final, Generic, NoReturn, TypeVar

import msgspec

from podidentity.kube import response_limits
from podidentity.kube.backoff import Backoff
from podidentity.kube.client import Client
from podidentity.kube.decoding import (
    LongLine,
    Malformed,
    RawPage,
    TooDeep,
    TooLarge,
    WatchEvent,
    decode_event,
    decode_list,
    decode_meta,
    decode_object,
    split_list,
)
from podidentity.kube.errors import (
    MALFORMED,
    ApiError,
    Forbidden,
    Gone,
    NoResponse,
    NotFound,
    ServerError,
    TooManyRequests,
    Unauthorized,
)
from podidentity.kube.lists import PAGE_SIZE
from podidentity.kube.object_store import Handler, ObjectStore
from podidentity.kube.paths import object_path, selectors
from podidentity.kube.watch_lines import identify
from podidentity.object_limits import reduced
from podidentity.paced import SLICE_SECONDS, paced
from podidentity.resources import BareMeta, Kind, Resource
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Resource)

SILENCE_SECONDS: Final = 90.0
"""The server sends a bookmark about once a minute; half a minute of delay means a half-open connection."""
WATCH_SECONDS: Final = 240
"""Requested duration of a watch, plus up to a quarter, so that the watches of many nodes do not move together after a
server's restart.
"""
HEALTHY_SECONDS: Final = 1.0
"""A watch that ended sooner, even cleanly, counts as a failure, and the next one waits."""
RETRY_AFTER_MAX: Final = 60.0
FIRST_LIST_SECONDS: Final = 4.0
"""Maximum pause before the first list is complete. A program that starts during an outage must be active within 5 s of
its end. With pauses of 2 s on average, 1,000 nodes with three watches send at most 1,500 failing lists a second.
"""


class Informer(Generic[T]):
    """Informer of one kind with one handler. The task `run()` does all work and ends only by cancellation."""

    def __init__(
        self,
        client: Client,
        kind: Kind[T],
        handler: Handler[T],
        *,
        field_selector: str = "",
        label_selector: str = "",
        namespace: str = "",
        page_size: int = PAGE_SIZE,
        keep: Callable[[T], T] = reduced,
        hold: bool = False,
        on_doubt: Callable[[], None] = lambda: None,
        silence_seconds: float = SILENCE_SECONDS,
        log_limit: LogLimit | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        """*keep* returns the part of an object that is stored and passed to the handler. *hold*: no object is passed to
        the handler before `release`.

        *on_doubt* is called when the handler's state becomes unreliable (`staleness_seconds` is infinite from then on).

        *log_limit* limits the lines about failures before the first list is complete; default: one a minute.
        """
        self._client = client
        self._kind = kind
        self._field_selector = field_selector
        self._label_selector = label_selector
        self._namespace = namespace
        self._page_size = page_size
        self._silence_seconds = silence_seconds
        self._clock = clock
        self._random = random
        self._backoff = Backoff(random, most_seconds=FIRST_LIST_SECONDS)
        self._log_limit = log_limit or LogLimit(clock=clock)
        self._first: asyncio.Timeout | None = None
        self.objects = ObjectStore(
            handler, keep=keep, skip=self._skip, on_doubt=on_doubt, clock=clock, random=random, hold=hold
        )
        self.store: Mapping[tuple[str, str], T] = self.objects.view
        """All objects by (namespace, name); a live view."""
        self._resource_version = ""
        self._synced = asyncio.Event()
        self._last_message_at = -math.inf
        self._stuck_at = ""
        self.restarts = 0
        """Number of failed or interrupted lists and watches, without regular ends by the server."""
        self.lists = 0
        """Number of complete lists: one at the start, one after each 410."""
        self.problem: str | None = "not listed yet"
        """Why the first list is not complete, in one line with the next action; None after it is."""

    async def synced(self) -> None:
        """Wait until the first list is complete and its handler calls are made."""
        await self._synced.wait()

    async def release(self) -> None:
        """Pass all objects to the handler that `hold` kept from it, and from now on each change."""
        await paced(self.objects.release(), self._clock)

    def list_again(self) -> None:
        """Start the first list again immediately unless it is complete; called when the API server has recovered."""
        if self._first is not None and not self._synced.is_set():
            self._first.reschedule(asyncio.get_running_loop().time())

    def staleness_seconds(self) -> float:
        """Return the age of the last message (list, event or bookmark); infinite before the first, and while the
        handler has an object that it failed to remove.
        """
        return math.inf if self.objects.doubtful else self._clock() - self._last_message_at

    async def run(self) -> NoReturn:
        """Keep the store equal to the server until cancelled. Retries after every failure."""
        while not self._synced.is_set():
            try:
                async with asyncio.timeout(None) as self._first:
                    await self._list_and_watch()
            except TimeoutError:
                log.debug("the first list starts again", extra={"resource": self._kind.plural})
            finally:
                self._first = None
        while True:
            await self._list_and_watch()

    async def _list_and_watch(self) -> None:
        """List if needed, watch once, and pause."""
        started = self._clock()
        try:
            if not self._resource_version:
                await self._relist()
            await self._watch()
        except ApiError as error:
            pause = self._failed(error, self._clock() - started)
        else:
            pause = self._ended(self._clock() - started)
        if pause > 0:
            await asyncio.sleep(pause)

    def _ended(self, lived: float) -> float:
        """Record the server's regular end of a watch and return the seconds to wait."""
        if lived < HEALTHY_SECONDS:
            return self._backoff.next()
        self._backoff.reset()
        return 0.0

    def _failed(self, error: ApiError, lived: float) -> float:
        """Record the failure and return the seconds to wait."""
        self.restarts += 1
        if lived >= HEALTHY_SECONDS and not isinstance(error, Unauthorized | Forbidden | NotFound):
            self._backoff.reset()
        most = RETRY_AFTER_MAX if isinstance(error, TooManyRequests) or self._synced.is_set() else FIRST_LIST_SECONDS
        pause = max(self._backoff.next(), min(error.retry_after or 0.0, most))
        level = logging.ERROR
        match error:
            case Gone():
                self._resource_version = ""
                level, message = logging.INFO, "the API server has dropped the watch's history; listing again"
            case Unauthorized():
                message = "the API server rejects the credentials; check the service account's token"
            case Forbidden():
                message = "not allowed to list or watch; grant this permission in the ClusterRole"
            case NotFound():
                message = "the API server does not serve this kind; install its CustomResourceDefinition"
            case _:
                level = logging.WARNING
                message = "the watch was interrupted; it resumes when the API server responds"
        if not self._synced.is_set():
            self.problem = f"{message} ({error})"
        if self._synced.is_set() or self._log_limit.allows():
            fields = {"resource": self._kind.plural, "status": error.status, "error": error, "seconds": round(pause, 3)}
            log.log(level, message, extra=fields)
        return pause

    async def _relist(self) -> None:
        """Read everything, then update store and handler: deletions first, then additions.

        In this order an address that moved from one pod to another never belongs to both.
        """
        objects: dict[tuple[str, str], T] = {}
        version, old = "", self._client.old_field_names
        pages = self._client.pages(
            self._kind,
            self._namespace,
            field_selector=self._field_selector,
            label_selector=self._label_selector,
            page_size=self._page_size,
            # Most objects of a repeated list are unchanged and need not be decoded.
            read=split_list if self.store else partial(decode_list, self._kind, old_field_names=old),
        )
        async with aclosing(pages):
            async for page in pages:
                if page.first:
                    objects.clear()
                version = page.resource_version
                self._last_message_at = self._clock()
                await self._read_page(page, objects)
                del page  # frees its memory before the next page is read
        if not version:
            raise ServerError(502, MALFORMED, f"the list of {self._kind.plural} has no resourceVersion")
        self.objects.begin_list()
        absent = [key for key in self.store if key not in objects]
        await paced(map(self.objects.remove, absent), self._clock)
        await paced(self.objects.put_all(objects), self._clock)
        self._resource_version = version
        self.objects.end_list()
        self.lists += 1
        if not self._synced.is_set():
            self.problem = None
            self._backoff = Backoff(self._random)
            self._synced.set()

    async def _read_page(self, page: RawPage, objects: dict[tuple[str, str], T]) -> None:
        for skipped in page.skipped:
            self._skip(skipped.meta, skipped.error)

        def keep(item: T) -> None:
            try:
                kept = self.objects.within_limits(item)
            except Exception as error:  # noqa: BLE001 - any exception concerns only this object
                self._skip(item.metadata, error)
            else:
                objects[kept.key] = kept

        def read(raw: msgspec.Raw) -> None:
            try:
                item = self._listed(raw)
            except Exception as error:  # noqa: BLE001 - as above
                self._skip(decode_meta(raw), error)
            else:
                objects[item.key] = item

        await paced(map(keep, page.objects), self._clock)
        await paced(map(read, page.items), self._clock)

    def _listed(self, raw: msgspec.Raw) -> T:
        """Return an object of a list. An unchanged object is taken from the store, so that a repeated list needs no
        memory for a second copy and little time. Raises Malformed.
        """
        if self.store:
            meta = decode_meta(raw)
            stored = self.store.get((meta.namespace, meta.name))
            same = (meta.uid, meta.resource_version)
            if (
                stored is not None
                and meta.resource_version
                and (stored.metadata.uid, stored.metadata.resource_version) == same
            ):
                return stored
        return self.objects.within_limits(
            decode_object(self._kind, raw, old_field_names=self._client.old_field_names, note=self._note_ignored)
        )

    async def _watch(self) -> None:
        """Follow the changes until the server ends the stream. Raises ApiError for every other end."""
        params = {
            **selectors(self._field_selector, self._label_selector),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._resource_version,
            "timeoutSeconds": str(int(WATCH_SECONDS * (1 + self._random() / 4))),
        }
        loop = asyncio.get_running_loop()
        path = object_path(self._kind, self._namespace)
        async with self._client.stream(path, params) as lines:
            self._last_message_at = self._clock()
            pause_at = self._clock() + SLICE_SECONDS
            try:
                async with asyncio.timeout(self._silence_limit()) as silence:
                    async for line in lines:
                        self._last_message_at = self._clock()
                        await self._take(line)
                        if self._clock() >= self.objects.list_due_at:
                            break
                        silence.reschedule(loop.time() + self._silence_limit())
                        # Lines that arrived together are read without a pause: yield to the event loop.
                        if self._clock() >= pause_at:
                            await asyncio.sleep(0)
                            pause_at = self._clock() + SLICE_SECONDS
            except TimeoutError as error:
                if self._clock() < self.objects.list_due_at:
                    raise NoResponse(f"the watch has been silent for {self._silence_seconds:g} s") from error
        if self._clock() >= self.objects.list_due_at:
            self._resource_version = ""
            self.objects.postpone_list()

    def _silence_limit(self) -> float:
        """Return how long the watch may be silent before it counts as half-open or a list is due."""
        return max(0.0, min(self._silence_seconds, self.objects.list_due_at - self._clock()))

    async def _take(self, line: bytes | LongLine) -> None:
        if isinstance(line, bytes):
            if not line.strip():
                return
            try:
                old = self._client.old_field_names
                self._take_event(decode_event(self._kind, line, old_field_names=old, note=self._note_ignored))
            except TooDeep as error:
                self._take_unread(await identify(line), error)
            except Malformed as error:
                self._list_again(error)
        else:
            self._take_unread(
                line, TooLarge(f"it has {line.size} bytes of JSON, and the limit is {response_limits.OBJECT_MAX}")
            )

    def _take_unread(self, line: LongLine, error: Malformed) -> None:
        """Skip an event of which only the names are known; its object counts as absent."""
        meta = line.meta
        if line.type not in {"ADDED", "MODIFIED", "DELETED"} or not (meta.name and meta.resource_version):
            self._list_again(error)
        self._skip(meta, error)
        self.objects.remove((meta.namespace, meta.name))
        self._resource_version = meta.resource_version  # a new watch does not deliver this event again

    def _list_again(self, error: Malformed) -> NoReturn:
        """Schedule a new list, because the content of an event is unknown. Raises ServerError."""
        self._resource_version = ""
        raise ServerError(502, MALFORMED, str(error)) from error

    def _take_event(self, event: WatchEvent[T]) -> None:
        if event.error is not None:
            # Usually a temporary fault of the server. A compacted position in the history can look the same ("etcd
            # event received with PrevKv=nil"), and then only a new list helps.
            if self._stuck_at == self._resource_version:
                self._resource_version = ""
            self._stuck_at = self._resource_version
            raise event.error
        self._apply(event)
        if event.resource_version:
            self._resource_version = event.resource_version

    def _apply(self, event: WatchEvent[T]) -> None:
        if event.type == "BOOKMARK":
            return
        if event.type == "DELETED":
            self.objects.remove(event.key)
            return
        if event.object is None:
            # Its last readable state may grant access that the new one revokes.
            self._skip(event.meta, event.problem or Malformed("its content does not match the kind's schema"))
            self.objects.remove(event.key)
            return
        try:
            item = self.objects.within_limits(event.object)
        except Exception as error:  # noqa: BLE001 - any exception concerns only this object
            self._skip(event.meta, error)
            self.objects.remove(event.key)
        else:
            self.objects.put(item)

    def _skip(self, meta: BareMeta, error: Exception) -> None:
        self._client.skipped.report(self._kind, meta, error)

    def _note_ignored(self, meta: BareMeta, fields: tuple[str, ...]) -> None:
        self._client.ignored_fields.report(self._kind, meta, fields)
