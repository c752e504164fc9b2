"""Watches: the changes of a collection as they happen, filtered for each client.

Each watch has its own queue. A write fills it, and the connection's task empties it. The
edge cases follow the real server: an ADDED event when an object begins to match the selector, a DELETED event when it
no longer matches, a bookmark one second before the timeout, and an ERROR event with code 410 (in a response with status
200) when the history no longer contains the requested version.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from podidentity_sandbox.kubeapi.history import Change, History, Item, TooOldError
from podidentity_sandbox.kubeapi.listing import selector
from podidentity_sandbox.kubeapi.requests import ListOptions, Target, revision
from podidentity_sandbox.kubeapi.statuses import bad_request, expired

INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
BOOKMARK_SECONDS: Final = 60.0
"""The time between the bookmarks of a quiet watch."""
LAST_BOOKMARK_SECONDS: Final = 1.0
"""How long before the end of its time a watch sends a last bookmark."""
BACKLOG_MAX: Final = 20_000
"""Events after the initial ones that a client may be behind before its watch is ended, as the real server ends slow
watchers."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch: the sent object is made from the item in the requested representation."""

    type: str
    item: Item


class Watch:
    """One client's watch. Iterate `events`; `close` ends it from outside."""

    def __init__(
        self,
        history: History,
        target: Target,
        options: ListOptions,
        *,
        timeout_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.target = target
        self._history = history
        self._options = options
        self._selects = selector(options.label_selector, options.field_selector, target.resource)
        self._clock = clock
        self._ends = clock() + timeout_seconds
        self._queue: deque[WatchEvent] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self._begin()
        self._queue_max = len(self._queue) + BACKLOG_MAX
        # No write comes between the two: both run in one step of the loop.
        self._unsubscribe = history.subscribe(target.resource.name, self._follow)

    async def events(self) -> AsyncIterator[WatchEvent]:
        """Yield the events in order, until the time is over or the watch is closed."""
        next_bookmark = self._clock() + BOOKMARK_SECONDS
        last_bookmark = self._ends - LAST_BOOKMARK_SECONDS
        while True:
            while self._queue and not self._closed:
                yield self._queue.popleft()
            now = self._clock()
            if self._closed or now >= self._ends:
                return
            if self._options.bookmarks and now >= min(next_bookmark, last_bookmark):
                yield self._bookmark()
                next_bookmark = now + BOOKMARK_SECONDS
                if now >= last_bookmark:
                    last_bookmark = self._ends  # the end comes first, so that it is sent only once
                continue
            due = min(next_bookmark, last_bookmark, self._ends) if self._options.bookmarks else self._ends
            await self._sleep(due - now)

    def send_bookmark(self) -> None:
        """Send a bookmark now, if the client requested bookmarks."""
        if self._options.bookmarks:
            self._put(self._bookmark())

    def close(self) -> None:
        """End the stream: the response ends, and the events in the queue are dropped."""
        self._closed = True
        self._unsubscribe()
        self._queue.clear()
        self._wake.set()

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        if self._queue or self._closed:
            return
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()
        except TimeoutError:
            return

    def _begin(self) -> None:
        start = revision(self._options.resource_version, code_of_watch=True)
        kind = self.target.resource.name
        if self._options.initial_events and self._options.match != "NotOlderThan":
            raise bad_request("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        if start == 0 or self._options.initial_events:
            for key, item in self._history.items(kind):
                if self._is_in_scope(key[0]) and self._matches(item):
                    self._put(WatchEvent("ADDED", item))
            if self._options.initial_events and self._options.bookmarks:
                self._put(self._bookmark({INITIAL_EVENTS_END: "true"}))
            return
        try:
            changes = self._history.since(kind, start)
        except TooOldError as error:
            refusal = expired(f"too old resource version: {start} ({error.oldest})")
            self._put(WatchEvent("ERROR", Item(refusal.document(), 0)))
            self._ends = self._clock()
            return
        for change in changes:
            self._note(change)

    def _follow(self, change: Change) -> None:
        """Queue the event of a write, and end the watch of a client that is too far behind."""
        self._note(change)
        if len(self._queue) > self._queue_max:
            self.close()

    def _note(self, change: Change) -> None:
        start = self._options.resource_version
        if not self._is_in_scope(change.key[0]) or (start and change.revision <= int(start)):
            return
        was = change.before is not None and self._matches(change.before)
        now = change.type != "DELETED" and self._matches(change.item)
        if now:
            self._put(WatchEvent("MODIFIED" if was else "ADDED", change.item))
        elif was:
            self._put(WatchEvent("DELETED", self._left(change)))

    def _left(self, change: Change) -> Item:
        """Report an object that leaves the selection in its last selected state, at the change's revision."""
        if change.type == "DELETED" or change.before is None:
            return change.item
        document = change.before.document
        metadata = document["metadata"] | {"resourceVersion": str(change.revision)}
        return Item(document | {"metadata": metadata}, change.revision)

    def _put(self, event: WatchEvent) -> None:
        self._queue.append(event)
        self._wake.set()

    def _matches(self, item: Item) -> bool:
        return self._selects is None or self._selects(item.document)

    def _is_in_scope(self, namespace: str) -> bool:
        return self.target.namespace in {"", namespace}

    def _bookmark(self, annotations: dict[str, str] | None = None) -> WatchEvent:
        resource = self.target.resource
        metadata: dict[str, object] = {"resourceVersion": str(self._history.revision)}
        if not resource.custom:
            metadata["creationTimestamp"] = None
        if annotations is not None:
            metadata["annotations"] = annotations
        document = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        return WatchEvent("BOOKMARK", Item(document, self._history.revision))
