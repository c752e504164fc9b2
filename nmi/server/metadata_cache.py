"""The cache of instance metadata: IMDS's 200 responses to GETs below /metadata/instance, for a few seconds.

IMDS allows five requests a second for a whole VM, and pods poll it. The documents describe the machine, so every pod
gets the same response. The key is the normal form of path and query, of which the request to IMDS consists, apart from
`Metadata: true`. Concurrent requests for one key share one call (*flight*), which is charged to the waiting pod that is
first in the governor's order, and which ends with its last waiter.

If IMDS fails, a response is served for STALE_SECONDS more, and the next request to IMDS is sent after RETRY_SECONDS.
Requests that IMDS could answer in another way (another method, a body, no `Metadata: true`) are forwarded, and so is
every other path: scheduled events and attested data are never cached.

`SharedText` contains a cached response for the fast lane. All pods share it, so a new version takes effect for all of
them, and memory is bounded by ENTRIES_MAX and BYTES_MAX. Beyond them, the namespace whose pods use most of it loses the
entry that it used least recently.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from _native.ready_responses import SharedText, Usage
from nmi.refusal import Refusal
from nmi.server.passthrough import Forwarder, forwarded_target
from nmi.server.request import Request, Stream
from nmi.server.responses import PlainResponse, StreamedResponse, head_of
from nmi.server.target import CanonicalPath, Destination
from nmi.tokens.fair_queue import Charged, Waiters
from nmi.tokens.namespace_table import NamespaceTable

ENTRIES_MAX: Final = 64
BYTES_MAX: Final = 1024 * 1024
"""The bodies of all entries. The whole document has about 20 kB; programs read a few parts of it."""
ENTRY_BYTES_MIN: Final = BYTES_MAX // ENTRIES_MAX
"""A smaller entry counts as this many bytes, so that one limit bounds the bytes and the number."""
ENTRY_BYTES_MAX: Final = 60 * 1024
"""A larger body is not kept: a ready response has at most 64 KiB."""
STALE_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 1.0
_KEPT_FIELDS: Final = ("Server", "Etag", "Last-Modified")
"""The others belong to one request."""


class _Entry:
    """One cached response. Times are nanoseconds of time.monotonic_ns()."""

    __slots__ = ("fetched_ns", "response", "text", "usage", "used_ns")

    def __init__(self, response: PlainResponse, text: SharedText, usage: Usage, fetched_ns: int) -> None:
        self.response = response
        self.text = text
        self.usage = usage
        """Counts the fast lane's responses, for all pods."""
        self.fetched_ns = self.used_ns = fetched_ns

    @property
    def last_used_ns(self) -> int:
        return max(self.used_ns, self.usage.last_ns)


class _Flight:
    """One call that requests with the same key share."""

    __slots__ = ("task", "waiters")

    def __init__(self, waiters: Waiters, task: "asyncio.Task[PlainResponse | Refusal]") -> None:
        self.waiters = waiters
        self.task = task


class _Collected:
    """Implements `nmi.server.request.Stream`: collects a long response, whose size the proxy limits."""

    def __init__(self) -> None:
        self.body = bytearray()

    def begin(self, response: StreamedResponse) -> None:
        """Ignore the head: the proxy returns it."""

    def send(self, piece: bytes) -> None:
        self.body += piece


class MetadataCache:
    """Implements `Forwarder` in front of *proxy*, which the caller owns."""

    def __init__(self, proxy: Forwarder[Charged], seconds: float, *, now_ns: Callable[[], int]) -> None:
        """Keep responses for *seconds*; 0 switches the cache off."""
        self._proxy = proxy
        self._ns = int(seconds * 1e9)
        self._now_ns = now_ns
        self._entries: NamespaceTable[str, _Entry] = NamespaceTable(
            BYTES_MAX, last_used=lambda entry: entry.last_used_ns
        )
        self._flights: dict[str, _Flight] = {}

    async def forward(
        self, charged: str, request: Request, destination: Destination, stream: Stream
    ) -> PlainResponse | StreamedResponse | Refusal:
        """Return the cached response, or IMDS's response; see `Forwarder`."""
        # The normal form, so that spellings of one path share their entry and cannot fill the cache.
        key = forwarded_target(destination) if self._ns and is_cacheable(request, destination) else None
        if key is None or isinstance(key, Refusal):
            return await self._proxy.forward(charged, request, destination, stream)
        entry, now_ns = self._entries.view.get(key), self._now_ns()
        if entry is not None and now_ns < entry.text.fresh_until_ns:
            entry.used_ns = now_ns
            self._entries.use(key, _namespace(charged))
            return entry.response
        return await self._shared(key, charged, destination)

    async def _shared(self, key: str, charged: str, destination: Destination) -> PlainResponse | Refusal:
        """Wait for the flight of *key*; start it if there is none, and cancel it if this was its last waiter."""
        flight = self._flights.get(key)
        if flight is None:
            waiters = Waiters()
            task = asyncio.get_running_loop().create_task(self._fetch(key, waiters, destination), name="instance data")
            # The task runs only after this method has joined the waiters, so that a pod is charged for its call.
            flight = self._flights[key] = _Flight(waiters, task)
        flight.waiters.join(charged)
        try:
            # A client that disconnects must not cancel the call of the others.
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters.leave(charged)
            if not flight.waiters:
                if self._flights.get(key) is flight:
                    del self._flights[key]
                flight.task.cancel()

    async def _fetch(self, key: str, waiters: Waiters, destination: Destination) -> PlainResponse | Refusal:
        stream = _Collected()
        response = await self._proxy.forward(waiters, _REQUEST, destination, stream)
        if isinstance(response, StreamedResponse):
            response = PlainResponse(response.status, bytes(stream.body), response.content_type, response.headers)
        now_ns = self._now_ns()
        if isinstance(response, Refusal) or response.status == 429 or response.status >= 500:
            return self._stale(key, now_ns) or response
        if response.status != 200 or len(response.body) > ENTRY_BYTES_MAX:
            self._drop(key)
            return response
        return self._keep(key, response, now_ns, [_namespace(pod_key) for pod_key in waiters.pod_keys])

    def _keep(self, key: str, response: PlainResponse, now_ns: int, namespaces: Sequence[str]) -> PlainResponse:
        """Store *response* for *namespaces*, at least one, which wait for it."""
        former = self._entries.view.get(key)
        # The pod records that have the text get the new version.
        text, usage = (SharedText(), Usage()) if former is None else (former.text, former.usage)
        headers = tuple((name, value) for name, value in response.headers if name in _KEPT_FIELDS)
        entry = _Entry(replace(response, headers=headers, text=text, usage=usage), text, usage, now_ns)
        self._entries.put(key, entry, namespaces[0], max(len(response.body), ENTRY_BYTES_MIN))
        for namespace in namespaces[1:]:
            self._entries.use(key, namespace)
        text.set(head_of(entry.response), response.body, now_ns + self._ns)
        while (surplus := self._entries.surplus()) is not None:
            self._drop(surplus)
        return entry.response

    def _stale(self, key: str, now_ns: int) -> PlainResponse | None:
        """Return the last response after a failure of IMDS, and serve it for RETRY_SECONDS without another call."""
        entry = self._entries.view.get(key)
        if entry is None or now_ns >= entry.fetched_ns + self._ns + int(STALE_SECONDS * 1e9):
            self._drop(key)
            return None
        entry.text.set(head_of(entry.response), entry.response.body, now_ns + int(RETRY_SECONDS * 1e9))
        return entry.response

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key)
        if entry is not None:
            entry.text.clear()

    def state(self) -> dict[str, int]:
        """Return the sizes for /debug/state."""
        size = sum(len(entry.response.body) for entry in self._entries.view.values())
        return {"entries": len(self._entries), "bytes": size, "flights": len(self._flights)}


def _namespace(pod_key: str) -> str:
    """Return the namespace of a pod, or the account of clients that are no known pods."""
    return pod_key.partition("/")[0]


def is_cacheable(request: Request, destination: Destination) -> bool:
    """Return whether IMDS's response to *request* depends on its path and query only."""
    return (
        destination.canonical_path is CanonicalPath.INSTANCE
        and request.method == "GET"
        and not request.body
        and [value.lower() for value in request.values("metadata")] == ["true"]
    )


_REQUEST: Final = Request("GET", "", (("metadata", "true"),), http_1_0=False, keep_alive=True)
