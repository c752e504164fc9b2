"""A mirror of one kind's objects, kept equal to the API server by list and watch.

The list comes in pages, the watch with bookmarks; after any interruption the watch goes on from the last resource
version, and only where the server has forgotten that (410, as HTTP status or as ERROR event) everything is listed
again and compared, so that a handler hears of differences only. A watch that has been silent for longer than
bookmarks allow is taken for half-open and replaced.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Final, Generic, NoReturn, Protocol, TypeVar

import msgspec

from podidentity.kube.backoff import Backoff
from podidentity.kube.client import PAGE_SIZE, Client, object_path, selectors
from podidentity.kube.decoding import Malformed, WatchEvent, decode_event, decode_meta, decode_object
from podidentity.kube.errors import (
    ApiError,
    Forbidden,
    Gone,
    NotFound,
    ServerError,
    Throttled,
    Unauthorized,
    Unreachable,
)
from podidentity.resources import Kind, Resource
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

P = TypeVar("P")
T = TypeVar("T", bound=Resource)
T_contra = TypeVar("T_contra", bound=Resource, contravariant=True)

SILENCE_SECONDS: Final = 90.0
"""The server sends a bookmark about once a minute; half a minute late means that nobody is there any more."""
WATCH_SECONDS: Final = 240
"""The server ends a watch after this long, plus up to a quarter, so that the watches of many nodes do not move as one
from a server that restarts."""
HEALTHY_SECONDS: Final = 1.0
"""A watch that ended sooner, even cleanly, counts as a failure: its successor waits."""
RETRY_AFTER_MAX: Final = 60.0
FIRST_LIST_SECONDS: Final = 4.0
"""The longest pause before the first list is complete. A program that starts during an outage must be active within 5 s
of its end; with pauses of 2 s on average, 1,000 nodes of three watches send at most 1,500 lists a second that fail."""
SLICE_SECONDS: Final = 0.002
"""How long a burst of objects is worked on before the loop may do something else."""


class HandlerFailed(Exception):  # noqa: N818 - named for what happened
    """A handler raised, so what it keeps may differ from the store; the cause is chained."""


class Handler(Protocol[T_contra]):
    """Whoever wants to know. Called synchronously, from the informer's task, with the store already changed.

    What a handler raises ends `Informer.run` as HandlerFailed: an index that has missed a change would go on serving
    what was revoked, so the program restarts instead, which its owner sees and says.
    """

    def upserted(self, old: T_contra | None, new: T_contra) -> None:
        """*new* exists; *old* is what was known under its name until now, if it is the same object (uid)."""

    def deleted(self, old: T_contra) -> None:
        """*old*, as it was last known, exists no longer, or does not match the selectors any longer."""


class Informer(Generic[T]):
    """One kind, one handler. `run()` is the task that does it all; it ends by cancellation or a handler's exception."""

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
        silence_seconds: float = SILENCE_SECONDS,
        log_limit: LogLimit | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        """*log_limit* bounds the lines about failures before the first list is complete; one a minute by default."""
        self._client = client
        self._kind = kind
        self._handler = handler
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
        self._store: dict[tuple[str, str], T] = {}
        self._resource_version = ""
        self._synced = asyncio.Event()
        self._last_sign = -math.inf
        self._stuck_at = ""
        self.store: Mapping[tuple[str, str], T] = MappingProxyType(self._store)
        """Every object by (namespace, name); a live view."""
        self.restarts = 0
        """Lists and watches that failed or broke off; the server's own regular ends do not count."""
        self.lists = 0
        """Complete lists so far: one at the start, one after each 410."""
        self.problem: str | None = "not listed yet"
        """Why the first list is not complete, in one line with the next action; None once it is."""

    async def synced(self) -> None:
        """Wait until the first list is complete and its handler calls are made."""
        await self._synced.wait()

    def list_again(self) -> None:
        """Begin the first list again immediately unless it is complete; for when the API server has returned."""
        if self._first is not None and not self._synced.is_set():
            self._first.reschedule(asyncio.get_running_loop().time())

    def staleness_seconds(self) -> float:
        """Age of the last sign of life (list, event or bookmark); infinite before the first."""
        return self._clock() - self._last_sign

    async def run(self) -> NoReturn:
        """Keep the store equal to the server, through every failure, until cancelled."""
        while not self._synced.is_set():
            try:
                async with asyncio.timeout(None) as self._first:
                    await self._list_and_watch()
            except TimeoutError:
                log.debug("the first list begins again", extra={"resource": self._kind.plural})
            finally:
                self._first = None
        while True:
            await self._list_and_watch()

    async def _list_and_watch(self) -> None:
        """One list where one is needed, one watch, and the pause after it."""
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
        """Note the server's regular end of a watch and return the seconds to wait."""
        if lived < HEALTHY_SECONDS:
            return self._backoff.next()
        self._backoff.reset()
        return 0.0

    def _failed(self, error: ApiError, lived: float) -> float:
        """Note the failure and return the seconds to wait."""
        self.restarts += 1
        if lived >= HEALTHY_SECONDS and not isinstance(error, Unauthorized | Forbidden | NotFound):
            self._backoff.reset()
        most = RETRY_AFTER_MAX if isinstance(error, Throttled) or self._synced.is_set() else FIRST_LIST_SECONDS
        pause = max(self._backoff.next(), min(error.retry_after or 0.0, most))
        level = logging.ERROR
        match error:
            case Gone():
                self._resource_version = ""
                level, what = logging.INFO, "the watch's history is gone from the API server; listing again"
            case Unauthorized():
                what = "the API server does not accept our credentials; check the service account's token"
            case Forbidden():
                what = "not allowed to list or watch; grant this right in our ClusterRole"
            case NotFound():
                what = "the API server does not know this kind; install its CustomResourceDefinition"
            case _:
                level = logging.WARNING
                what = "the watch broke off; going on from where it was once the API server answers"
        if not self._synced.is_set():
            self.problem = f"{what} ({error})"
        if self._synced.is_set() or self._log_limit.allows():
            told = {"resource": self._kind.plural, "status": error.status, "error": error, "seconds": round(pause, 3)}
            log.log(level, what, extra=told)
        return pause

    async def _relist(self) -> None:
        """Read everything, then make store and handler agree with it: first what is gone, then what is new.

        In this order an address that went from one pod to another never seems to belong to both.
        """
        found: dict[tuple[str, str], T] = {}
        version = ""
        pages = self._client.pages(
            self._kind,
            self._namespace,
            field_selector=self._field_selector,
            label_selector=self._label_selector,
            page_size=self._page_size,
        )
        async with aclosing(pages):
            async for page in pages:
                if page.first:
                    found.clear()
                version = page.resource_version
                self._last_sign = self._clock()
                async for raw in self._paced(page.items):
                    try:
                        item = self._listed(raw)
                    except Malformed as error:
                        meta = decode_meta(raw)
                        self._unreadable((meta.namespace, meta.name), error)
                    else:
                        found[item.key] = item
        if not version:
            raise ServerError(502, "Malformed", f"the list of {self._kind.plural} has no resourceVersion")
        async for old in self._paced([old for key, old in self._store.items() if key not in found]):
            self._remove(old.key)
        async for new in self._paced(found.values()):
            self._put(new)
        self._resource_version = version
        self.lists += 1
        if not self._synced.is_set():
            self.problem = None
            self._backoff = Backoff(self._random)
            self._synced.set()

    def _listed(self, raw: msgspec.Raw) -> T:
        """An object of a list: the very one of the store where that is the same, so that a list anew takes no memory
        for a second copy of everything, and little time. Raises Malformed."""
        if self._store:
            meta = decode_meta(raw)
            known = self._store.get((meta.namespace, meta.name))
            if (
                known is not None
                and meta.resource_version
                and (known.metadata.uid, known.metadata.resource_version)
                == (
                    meta.uid,
                    meta.resource_version,
                )
            ):
                return known
        return decode_object(self._kind, raw)

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
            self._last_sign = self._clock()
            breather = self._clock() + SLICE_SECONDS
            try:
                async with asyncio.timeout(self._silence_seconds) as silence:
                    async for line in lines:
                        silence.reschedule(loop.time() + self._silence_seconds)
                        self._last_sign = self._clock()
                        if line.strip():
                            self._take(line)
                        # Lines that have arrived together are read without a pause: make one.
                        if self._clock() >= breather:
                            await asyncio.sleep(0)
                            breather = self._clock() + SLICE_SECONDS
            except TimeoutError as error:
                raise Unreachable(f"the watch has been silent for {self._silence_seconds:g} s") from error

    def _take(self, line: bytes) -> None:
        try:
            event = decode_event(self._kind, line)
        except Malformed as error:
            # What it wanted to tell is unknown: only a new list can.
            self._resource_version = ""
            raise ServerError(502, "Malformed", str(error)) from error
        if event.error is not None:
            # Usually the server's trouble of a moment; but a place in history that was compacted away can show like
            # this too ("etcd event received with PrevKv=nil"), and then only a new list leads on.
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
            self._remove(event.key)
        elif event.object is None:
            # Its last readable state may grant what the new one took away.
            self._unreadable(event.key, "its content does not fit the kind")
            self._remove(event.key)
        else:
            self._put(event.object)

    def _put(self, new: T) -> None:
        old = self._store.get(new.key)
        if old is not None:
            if old.metadata.uid != new.metadata.uid:
                self._remove(old.key)
                old = None
            elif old.metadata.resource_version == new.metadata.resource_version:
                return
        self._store[new.key] = new
        try:
            self._handler.upserted(old, new)
        except Exception as error:
            raise self._handler_failed(new.key) from error

    def _remove(self, key: tuple[str, str]) -> None:
        old = self._store.pop(key, None)
        if old is None:
            return
        try:
            self._handler.deleted(old)
        except Exception as error:
            raise self._handler_failed(key) from error

    def _handler_failed(self, key: tuple[str, str]) -> HandlerFailed:
        return HandlerFailed(f"a change of {self._kind.plural} {'/'.join(key)} could not be taken in")

    def _unreadable(self, key: tuple[str, str], error: object) -> None:
        log.warning(
            "an object cannot be read and counts as absent; correct or delete it",
            extra={"resource": f"{self._kind.plural} {'/'.join(key)}", "error": error},
        )

    async def _paced(self, items: Iterable[P]) -> AsyncIterator[P]:
        """*items*, with a breath for the loop after each slice of work on them."""
        until = self._clock() + SLICE_SECONDS
        for item in items:
            if self._clock() >= until:
                await asyncio.sleep(0)
                until = self._clock() + SLICE_SECONDS
            yield item
