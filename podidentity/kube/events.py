"""Event recorder: Kubernetes Events, which `kubectl describe` shows. Sent in the background; no caller waits for them.

Repeats increase the count of one Event. Memory and rate are bounded, and excess Events are dropped and counted, because
the log has the same information. Warnings are sent first and have a separate queue, so normal Events never displace
them.
"""

import asyncio
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal, NoReturn, TypeVar

import msgspec

from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, NotFound
from podidentity.resources import Kind, Resource
from podidentity.telemetry.token_bucket import TokenBucket

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Resource)

EVENTS: Final = Kind("Event", "events", Resource)

MESSAGE_MAX: Final = 1024
"""The API server's own limit, in bytes of UTF-8."""
PENDING_MAX: Final = 512
"""Maximum queue length per Event type."""
REMEMBERED_MAX: Final = 2048
"""Events whose repeats are counted; each takes about 1 kB."""
RATE_PER_SECOND: Final = 5.0
BURST: Final = 50.0
OBJECT_BURST: Final = 25.0
OBJECT_RATE_PER_SECOND: Final = 1 / 300
"""Rate per object after a burst of 25 Events: one in five minutes, as in client-go."""
CALL_SECONDS: Final = 10.0

TERMINATING: Final = "because it is being terminated"
"""Part of the API server's message if the namespace of a new object is being deleted; the status is 403."""

EventType = Literal["Normal", "Warning"]
EventKey = tuple[str, str, str, str, EventType, str, str]
"""Kind, namespace, name and uid of the object; type, reason, message."""


class _Pending(msgspec.Struct):
    regarding: dict[str, str]
    first: datetime
    last: datetime
    count: int = 1


class _SentEvent(msgspec.Struct):
    name: str
    count: int = 0


class EventRecorder:
    """Recorder of one component's Kubernetes Events. `record` never blocks; the `run` task sends the Events."""

    def __init__(
        self,
        client: Client,
        component: str,
        host: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._component = component
        self._host = host
        self._clock = clock
        self._now = now
        self._warnings: OrderedDict[EventKey, _Pending] = OrderedDict()
        self._normal: OrderedDict[EventKey, _Pending] = OrderedDict()
        self._sent: OrderedDict[EventKey, _SentEvent] = OrderedDict()
        self._objects: OrderedDict[tuple[str, ...], TokenBucket] = OrderedDict()
        self._bucket = TokenBucket(RATE_PER_SECOND, BURST, clock)
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        # Unique also against an earlier process that started in the same microsecond on another host.
        self._names = (f"{time.time_ns():x}{number:04x}" for number in itertools.count())
        self.dropped = 0
        """Events that were not sent: queue full, rate per object exceeded, or refused by the API server."""

    def record(self, regarding: Resource, kind: Kind[R], type: EventType, reason: str, message: str) -> None:  # noqa: A002 - the API's field name
        """Queue an Event about *regarding*, an object of *kind*. *reason* is one CamelCase word. Never blocks."""
        meta = regarding.metadata
        message = _cut(message)
        key = (kind.name, meta.namespace, meta.name, meta.uid, type, reason, message)
        pending = self._warnings if type == "Warning" else self._normal
        waiting = pending.get(key)
        if waiting is not None:
            waiting.count += 1
            waiting.last = self._now()
            return
        # In this order: an Event for which the queue has no place takes nothing from its object's rate.
        if len(pending) >= PENDING_MAX or not self._allowed((kind.name, meta.namespace, meta.name, type)):
            self.dropped += 1
            return
        about = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "namespace": meta.namespace,
            "name": meta.name,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        }
        stamp = self._now()
        pending[key] = _Pending({name: value for name, value in about.items() if value}, stamp, stamp)
        self._idle.clear()
        self._news.set()

    async def flushed(self) -> None:
        """Wait until all queued Events are sent or dropped; `run` must be running."""
        await self._idle.wait()

    async def run(self) -> NoReturn:
        """Send queued Events within the rate limit, warnings first. Failures are counted and logged, never raised."""
        while True:
            await self._news.wait()
            while self._warnings or self._normal:
                # Before the choice: a warning that arrives in this time is next.
                await self._bucket.wait()
                key, pending = (self._warnings or self._normal).popitem(last=False)
                try:
                    await self._send(key, pending)
                except ApiError as error:
                    self.dropped += 1
                    if isinstance(error, NotFound) or TERMINATING in error.message:
                        continue  # the namespace of the object is deleted, and its Events with it
                    log.warning(
                        "an Event could not be written; grant create and patch of events in the ClusterRole",
                        extra={"resource": f"{key[0]} {key[1]}/{key[2]}", "reason": key[5], "error": error},
                    )
            self._news.clear()
            self._idle.set()

    async def _send(self, key: EventKey, pending: _Pending) -> None:
        namespace = key[1] or "default"  # namespace of Events about cluster-scoped objects
        sent = self._sent.get(key)
        if sent is not None:
            self._sent.move_to_end(key)
            count = sent.count + pending.count
            try:
                await self._client.patch_merge(
                    EVENTS, namespace, sent.name, {"count": count, "lastTimestamp": _stamp(pending.last)}
                )
            except NotFound:  # Events expire after an hour
                del self._sent[key]
            else:
                sent.count = count
                return
        # A name has at most 253 characters.
        fresh = _SentEvent(f"{key[2][:200]}.{next(self._names)}", pending.count)
        await self._client.create(EVENTS, namespace, self._document(key, pending, namespace, fresh.name))
        self._sent[key] = fresh
        while len(self._sent) > REMEMBERED_MAX:
            self._sent.popitem(last=False)

    def _document(self, key: EventKey, pending: _Pending, namespace: str, name: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": pending.regarding,
            "type": key[4],
            "reason": key[5],
            "message": key[6],
            "count": pending.count,
            "firstTimestamp": _stamp(pending.first),
            "lastTimestamp": _stamp(pending.last),
            "source": {"component": self._component, "host": self._host},
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }

    def _allowed(self, about: tuple[str, ...]) -> bool:
        bucket = self._objects.get(about)
        if bucket is None:
            bucket = self._objects[about] = TokenBucket(OBJECT_RATE_PER_SECOND, OBJECT_BURST, self._clock)
            while len(self._objects) > REMEMBERED_MAX:
                self._objects.popitem(last=False)
        self._objects.move_to_end(about)
        return bucket.take()


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cut(message: str) -> str:
    encoded = message.encode(errors="replace")
    if len(encoded) <= MESSAGE_MAX:
        return message
    # The ellipsis has three bytes.
    return encoded[: MESSAGE_MAX - 3].decode(errors="ignore") + "…"
