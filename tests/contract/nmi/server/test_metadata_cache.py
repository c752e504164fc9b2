"""Instance metadata from the cache: what is cached, for how long, for whom, and the bounds of the memory.

Excluded: the call to IMDS (test_passthrough.py).
"""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from typing_extensions import override

from _native.index import METADATA_RESPONSES_MAX
from nmi.refusal import Reason, Refusal
from nmi.server.metadata_cache import (
    BYTES_MAX,
    ENTRIES_MAX,
    ENTRY_BYTES_MAX,
    RETRY_SECONDS,
    STALE_SECONDS,
    MetadataCache,
)
from nmi.server.request import Request, Stream
from nmi.server.responses import PlainResponse, StreamedResponse
from nmi.server.target import Destination, ProxiedPaths, resolve
from nmi.tokens.fair_queue import Charged
from tests.support.nmi.server.fakes import FakeProxy, Pieces, pod_entry, request_bytes
from tests.support.nmi.server.running import Client, Running, serving
from tests.support.virtual_time import settle
from tests.support.waiting import until

SECONDS = 10.0
INSTANCE = "/metadata/instance?api-version=2021-02-01"
UNAVAILABLE = Refusal(Reason.UPSTREAM_UNAVAILABLE, "No.")
METADATA_HEADER = (("metadata", "true"),)


def answer(body: bytes = b'{"compute":{}}', status: int = 200) -> PlainResponse:
    headers = (("Server", "IMDS"), ("Date", "now"), ("X-Ms-Request-Id", "r"), ("Etag", "e"))
    return PlainResponse(status, body, headers=headers)


class Imds(FakeProxy):
    """A proxy that returns the configured response when the test releases it, or a stream of a length."""

    def __init__(self) -> None:
        super().__init__(response=answer())
        self.pods: list[tuple[str, ...]] = []
        """Those that each call was charged to when it began."""
        self.released = asyncio.Event()
        self.released.set()
        self.cancelled = self.stream_length = 0

    @override
    async def forward(
        self, charged: Charged, request: Request, destination: Destination, stream: Stream
    ) -> PlainResponse | StreamedResponse | Refusal:
        self.pods.append((charged,) if isinstance(charged, str) else tuple(charged.pod_keys))
        plain = await super().forward(charged, request, destination, stream)
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if not self.stream_length:
            return plain
        head = StreamedResponse(200, self.stream_length, "application/json", ())
        stream.begin(head)
        stream.send(b"a" * self.stream_length)
        return head


class Cache:
    """A cache with a clock that the test sets."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.imds = Imds()
        self.now = 1000.0
        self.cache = MetadataCache(self.imds, seconds, now_ns=lambda: int(self.now * 1e9))

    async def get(
        self,
        target: str = INSTANCE,
        *,
        pod: str = "shop/cart",
        method: str = "GET",
        fields: tuple[tuple[str, str], ...] = METADATA_HEADER,
        body: bytes = b"",
    ) -> PlainResponse | StreamedResponse | Refusal:
        request = Request(method, target, fields, http_1_0=False, keep_alive=True, body=body)
        destination = resolve(target, ProxiedPaths(everything=True))
        return await self.cache.forward(pod, request, destination, Pieces())

    async def plain(self, target: str = INSTANCE) -> PlainResponse:
        response = await self.get(target)
        assert isinstance(response, PlainResponse)
        return response

    async def calls_for(self, target: str = INSTANCE, pod: str = "shop/cart") -> int:
        """Request a document. Return the number of calls to IMDS for it."""
        calls = self.calls
        await self.get(target, pod=pod)
        return self.calls - calls

    @property
    def calls(self) -> int:
        return len(self.imds.forwarded)


@pytest.fixture
def cache() -> Cache:
    """An empty cache."""
    return Cache()


async def test_one_call_serves_all_pods_for_ten_seconds(cache: Cache) -> None:
    first = await cache.get(pod="shop/cart")
    cache.now += SECONDS - 0.01
    others = (("metadata", "TRUE"), ("accept", "x"), ("user-agent", "y"))
    assert await cache.get(pod="shop/till", fields=others) == first
    assert cache.calls == 1
    cache.now += 0.02
    assert await cache.calls_for() == 1


async def test_imds_receives_only_the_normal_form_and_the_metadata_header(cache: Cache) -> None:
    await cache.get("//METADATA/./instance;x?b=1&a=%41", fields=(*METADATA_HEADER, ("x-ms-client-request-id", "i")))
    response = await cache.plain("/metadata/instance?b=1&a=A")
    ((_, request, destination),) = cache.imds.forwarded
    assert (request.fields, destination.path) == (METADATA_HEADER, "/metadata/instance")
    assert cache.imds.pods == [("shop/cart",)]
    assert response.headers == (("Server", "IMDS"), ("Etag", "e")), "no field of the request that fetched it"


@pytest.mark.parametrize(
    "other", ["/metadata/instance/compute?api-version=2021-02-01", INSTANCE + "&format=text", "/metadata/instance?a=b"]
)
async def test_another_path_or_query_is_another_document(cache: Cache, other: str) -> None:
    await cache.get()
    assert await cache.calls_for(other) == 1


@pytest.mark.parametrize(
    "target",
    [
        "/metadata/scheduledevents?api-version=2020-07-01",
        "/metadata/attested/document?api-version=2020-09-01",
        "/metadata/versions",
        "/metadata/loadbalancer",
    ],
)
async def test_other_paths_are_never_cached(cache: Cache, target: str) -> None:
    for _ in range(2):
        assert (await cache.plain(target)).text is None
    assert cache.calls == 2


async def test_requests_that_imds_may_answer_differently_are_forwarded(cache: Cache) -> None:
    await cache.get()
    await cache.get(fields=())
    await cache.get(fields=(("metadata", "false"),))
    await cache.get(method="HEAD")
    await cache.get(body=b"x")
    assert [len(request.fields) for _, request, _ in cache.imds.forwarded] == [1, 0, 1, 1, 1]


@pytest.mark.parametrize("response", [answer(status=400), answer(status=404), answer(status=429), UNAVAILABLE])
async def test_only_a_200_is_cached(cache: Cache, response: PlainResponse | Refusal) -> None:
    cache.imds.response = response
    assert [await cache.get() for _ in range(2)] == [response, response]
    assert cache.calls == 2


async def test_zero_seconds_switch_the_cache_off() -> None:
    cache = Cache(0)
    assert [await cache.calls_for() for _ in range(2)] == [1, 1]


async def test_concurrent_requests_share_one_call(cache: Cache) -> None:
    cache.imds.released.clear()
    waiting = [asyncio.create_task(cache.get(pod=f"shop/{number}")) for number in range(50)]
    await settle(2)
    cache.imds.released.set()
    assert len({id(text) for text in await asyncio.gather(*waiting)}) == 1
    assert cache.imds.pods == [tuple(f"shop/{number}" for number in range(50))]
    assert cache.cache.state()["flights"] == 0


async def test_a_call_ends_with_its_last_waiter(cache: Cache) -> None:
    cache.imds.released.clear()
    first, second = asyncio.create_task(cache.get()), asyncio.create_task(cache.get())
    await settle(2)
    first.cancel()
    await asyncio.sleep(0)
    assert cache.imds.cancelled == 0, "the other one still waits"
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await until(lambda: (cache.imds.cancelled, cache.cache.state()["flights"]) == (1, 0))


@pytest.mark.parametrize("failure", [UNAVAILABLE, answer(status=503), answer(status=429)])
async def test_a_failure_of_imds_is_bridged_for_a_minute(cache: Cache, failure: PlainResponse | Refusal) -> None:
    first = await cache.get()
    cache.imds.response = failure
    cache.now += SECONDS
    assert await cache.get() == first
    cache.now += RETRY_SECONDS - 0.01
    assert await cache.get() == first
    assert cache.calls == 2, "IMDS is not asked for each request while it fails"
    cache.now += 0.02
    assert await cache.get() == first
    assert cache.calls == 3
    cache.now += STALE_SECONDS
    assert await cache.get() == failure
    assert cache.cache.state()["entries"] == 0


async def test_an_answer_that_is_no_longer_there_ends_the_cached_one(cache: Cache) -> None:
    first = await cache.plain()
    cache.imds.response = answer(status=404)
    cache.now += SECONDS
    assert await cache.get() == cache.imds.response
    assert first.text is not None
    assert first.text.fresh_until_ns == 0


async def test_the_number_of_entries_and_their_bytes_are_bounded(cache: Cache) -> None:
    for number in range(ENTRIES_MAX + 10):
        await cache.get(f"/metadata/instance?a={number}")
    assert cache.cache.state() == {"entries": ENTRIES_MAX, "bytes": ENTRIES_MAX * 14, "flights": 0}
    cache.imds.response = answer(b"x" * ENTRY_BYTES_MAX)
    kept = [await cache.plain(f"/metadata/instance?b={number}") for number in range(ENTRIES_MAX)]
    assert BYTES_MAX - ENTRY_BYTES_MAX < cache.cache.state()["bytes"] <= BYTES_MAX
    assert (
        sum(entry.text is not None and entry.text.fresh_until_ns > 0 for entry in kept) == BYTES_MAX // ENTRY_BYTES_MAX
    )


async def fill(cache: Cache, count: int = 2 * ENTRIES_MAX) -> None:
    """Let a pod of another namespace read ever new documents."""
    for number in range(count):
        await cache.get(f"/metadata/instance?fill={number}", pod="evil/a")


async def test_a_namespace_that_reads_ever_new_documents_removes_only_its_own_from_the_cache(cache: Cache) -> None:
    await cache.get(pod="shop/cart")
    await fill(cache)
    assert await cache.calls_for() == 0
    assert await cache.calls_for("/metadata/instance?fill=0", pod="evil/a") == 1, "its own first document is gone"


async def test_a_namespace_with_large_documents_removes_only_its_own_from_the_cache(cache: Cache) -> None:
    await cache.get(pod="shop/cart")
    cache.imds.response = answer(b"x" * ENTRY_BYTES_MAX)
    await fill(cache)
    assert await cache.calls_for() == 0
    assert cache.cache.state()["bytes"] <= BYTES_MAX


@pytest.mark.parametrize("joins", [True, False], ids=["while-it-is-read", "later"])
async def test_a_document_that_a_greedy_namespace_read_first_belongs_to_the_other_that_uses_it(
    cache: Cache, *, joins: bool
) -> None:
    await fill(cache, 2)
    first, second = [cache.get(pod=pod) for pod in ("evil/a", "shop/cart")]
    if joins:
        await asyncio.gather(first, second)
    else:
        await first
        await second
    await fill(cache)
    assert await cache.calls_for() == 0


@pytest.mark.parametrize("pause", [0.0, SECONDS], ids=["cached", "read-again"])
@pytest.mark.parametrize("before", [0, 2])
async def test_a_greedy_namespace_that_uses_another_ones_document_does_not_remove_it(
    cache: Cache, before: int, pause: float
) -> None:
    for target in ("/metadata/instance?shop=1", INSTANCE):
        await cache.get(target, pod="shop/cart")
    await fill(cache, before)
    cache.now += pause
    await cache.get(pod="evil/a")
    await fill(cache)
    assert await cache.calls_for() == 0


async def test_documents_that_the_fast_lane_serves_stay_in_the_cache(cache: Cache) -> None:
    cache.now = 0.0  # the fast lane's uses have the time of the machine
    first = await cache.plain()
    assert first.usage is not None
    for number in range(2 * ENTRIES_MAX):
        first.usage.touch()
        await cache.get(f"/metadata/instance?a={number}")
    assert await cache.calls_for() == 0


async def test_an_answer_beyond_the_limit_is_returned_and_not_kept(cache: Cache) -> None:
    cache.imds.response = answer(b"x" * (ENTRY_BYTES_MAX + 1))
    assert await cache.get() == cache.imds.response
    cache.imds.stream_length = 100_000
    assert (await cache.plain()).body == b"a" * 100_000
    assert cache.cache.state()["entries"] == 0


@pytest.fixture
def imds() -> Imds:
    """The proxy behind the cache of *running*."""
    return Imds()


@pytest.fixture
def served(imds: Imds) -> MetadataCache:
    """The cache of *running*."""
    return MetadataCache(imds, SECONDS, now_ns=time.monotonic_ns)


@pytest.fixture
async def running(served: MetadataCache) -> AsyncIterator[Running]:
    """A server with a cache."""
    async with serving(proxy=served) as started:
        yield started


async def test_the_fast_lane_sends_a_cached_answer_and_counts_it_for_the_pod(
    running: Running, client: Client, imds: Imds, served: MetadataCache
) -> None:
    replies = [await client.ask(request_bytes(INSTANCE)) for _ in range(4)]
    assert len({(reply.status, reply.body, tuple(reply.headers.items())) for reply in replies}) == 1
    assert (replies[0].status, replies[0].body, len(imds.forwarded), running.fast) == (200, b'{"compute":{}}', 1, 3)
    (entry,) = served._entries.view.values()
    assert entry.usage.take() == 3
    (series,) = running.measures.histogram.all_series()
    assert (series.labels, sum(series.counts())) == (("/metadata/instance", "200", "shop", ""), 4)


async def test_a_new_version_reaches_the_fast_lane_of_every_pod(
    running: Running, client: Client, imds: Imds, served: MetadataCache
) -> None:
    await client.ask(request_bytes(INSTANCE))
    (entry,) = served._entries.view.values()
    entry.text.set(b"", b"", 1)  # ten seconds later
    imds.response = answer(b"new")
    assert [(await client.ask(request_bytes(INSTANCE))).body for _ in range(2)] == [b"new", b"new"]
    assert (len(imds.forwarded), running.fast) == (2, 1)


@pytest.mark.parametrize(
    "data",
    [
        request_bytes(INSTANCE, headers=()),
        request_bytes(INSTANCE, headers=("Metadata: false",)),
        request_bytes(INSTANCE, headers=("Metadata: true", "X-Forwarded-For: 10.0.0.1")),
        request_bytes(f"{INSTANCE}&x=y"),
        request_bytes(INSTANCE, method="PUT"),
    ],
    ids=["no header", "other value", "forwarded", "other query", "other method"],
)
async def test_the_fast_lane_sends_it_for_the_same_request_only(running: Running, client: Client, data: bytes) -> None:
    await client.ask(request_bytes(INSTANCE))
    await client.ask(data)
    assert running.fast == 0


async def test_a_change_of_the_pod_or_of_the_owner_ends_the_fast_answer(running: Running, client: Client) -> None:
    for change in (running.entry.bump, lambda: running.index.put("127.0.0.1", pod_entry("other").record)):
        await client.ask(request_bytes(INSTANCE))
        before = running.fast
        change()
        await client.ask(request_bytes(INSTANCE))
        assert running.fast == before
    assert {labels[2] for labels in running.labels()} == {"shop", "other"}


async def test_a_pod_holds_a_bounded_number_of_targets(running: Running, client: Client) -> None:
    targets = [f"{INSTANCE}&a={number}" for number in range(METADATA_RESPONSES_MAX + 3)]
    for target in [*targets, f"{INSTANCE}&a={'b' * 2048}"]:
        await client.ask(request_bytes(target))
    now, record = time.monotonic_ns(), running.entry.record
    assert [target for target in targets if record.metadata(target.encode(), now) is not None] == targets[3:]
