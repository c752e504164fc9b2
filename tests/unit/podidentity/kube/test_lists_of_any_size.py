"""Lists of objects of any mix of sizes and depths are read in bounded memory; only objects over a limit are missing."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from podidentity.kube import decoding, response_limits
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.decoding import SHALLOW_MAX, decode_meta
from podidentity.kube.errors import ApiError
from podidentity.kube.scanning import Scanner
from podidentity.resources import PODS
from tests.support.depths import TOO_DEEP, brackets
from tests.support.examples import examples
from tests.support.podidentity.kube.scripted import Reply, Request, ScriptedServer, pod, status


class SizedServer(ScriptedServer):
    """A server that lists `objects`, documents or their bytes, in pages as the real one does."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: Sequence[dict[str, Any] | bytes] = ()
        self.metadata_first = True
        self.gone = 0
        """Number of continue tokens that are refused as expired."""
        self.limits: list[int] = []

    @override
    def _reply(self, request: Request) -> Reply | None:
        if request.method != "GET" or "watch" in request.params or "limit" not in request.params | {"limit": ""}:
            return super()._reply(request)
        limit = int(request.params.get("limit", "0"))
        start = int(request.params.get("continue", "0"))
        self.limits.append(limit)
        if start and self.gone:
            self.gone -= 1
            return status(410, "Expired")
        end = start + limit if limit else len(self.objects)
        bodies = [item if isinstance(item, bytes) else written(item) for item in self.objects[start:end]]
        metadata = {"resourceVersion": "7", **({"continue": str(end)} if end < len(self.objects) else {})}
        parts = [b'"metadata":' + json.dumps(metadata).encode(), b'"items":[' + b",".join(bodies) + b"]"]
        if not self.metadata_first:
            parts.reverse()
        return Reply(b'{"kind":"L",' + b",".join(parts) + b"}\n")


def written(document: dict[str, Any]) -> bytes:
    """As the API server writes it, without spaces."""
    return json.dumps(document, separators=(",", ":")).encode()


@pytest.fixture
async def sized(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SizedServer]:
    """With limits a thousandth of the real ones."""
    monkeypatch.setattr(response_limits, "BODY_MAX", 8000)
    monkeypatch.setattr(response_limits, "OBJECT_MAX", 8000)
    monkeypatch.setattr(response_limits, "PART_BYTES", 2000)
    monkeypatch.setattr(response_limits, "PIECE", 100)
    server = SizedServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(sized: SizedServer) -> AsyncIterator[Client]:
    access = ClusterAccess(sized.url)
    async with Client(access, user_agent="test/1", open_session=sized.network.open_session) as opened:
        yield opened


def padded(number: int, size: int) -> dict[str, Any]:
    return pod(f"p{number:03}", str(number), spec={"padding": "x" * size})


def nested(name: str, size: int, depth: int = TOO_DEEP) -> bytes:
    """A pod with brackets of that *depth*, again and again, up to *size*."""
    content = brackets(size, depth)
    return json.dumps(pod(name, "1", spec={"x": 0})).encode().replace(b'"x": 0', b'"x": [' + content + b"]")


async def names(client: Client, **options: Any) -> list[str]:
    listed: list[str] = []
    async for page in client.pages(PODS, **options):
        if page.first:
            listed.clear()
        assert (
            sum(len(memoryview(raw)) for raw in page.items) <= response_limits.OBJECT_MAX + response_limits.PART_BYTES
        )
        listed += [decode_meta(raw).name for raw in page.items]
    return listed


async def test_an_oversized_page_is_requested_again_in_smaller_ones(sized: SizedServer, client: Client) -> None:
    sized.objects = [padded(number, 3000) for number in range(20)]
    assert await names(client) == [f"p{number:03}" for number in range(20)]
    assert sized.limits[:2] == [500, 2]
    assert not client.skipped.counts


async def test_a_page_with_many_apparent_objects_still_ends_in_smaller_ones(sized: SizedServer, client: Client) -> None:
    """The number of objects in a page is guessed by a text that one object may hold any number of times."""
    sized.objects = [pod(f"p{number}", "1", spec={"uids": [{"uid": ""}] * 400}) for number in range(20)]
    assert len(await names(client)) == 20
    assert sized.limits[:5] == [500, 125, 31, 7, 1]


async def test_pages_grow_again_after_small_ones(sized: SizedServer, client: Client) -> None:
    sized.objects = [padded(number, 7000 if number < 2 else 0) for number in range(300)]
    assert len(await names(client)) == 300
    assert max(sized.limits[5:]) >= 32
    assert len(sized.limits) < 60


@pytest.mark.parametrize("metadata_first", [True, False], ids=["pods", "custom-resources"])
@pytest.mark.parametrize("place", [0, 5, 9])
async def test_one_object_over_the_limit_is_skipped_and_named(
    sized: SizedServer, client: Client, place: int, metadata_first: bool
) -> None:
    sized.metadata_first = metadata_first
    sized.objects = [padded(number, 9000 if number == place else 10) for number in range(10)]
    listed = [pod_.metadata.name for pod_ in await client.list(PODS)]
    assert listed == [f"p{number:03}" for number in range(10) if number != place]
    assert client.skipped.counts == {("pods", "size"): 1}


async def test_an_object_at_the_limit_is_read(
    sized: SizedServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sized.objects = [padded(0, 9000)]
    monkeypatch.setattr(response_limits, "OBJECT_MAX", len(written(padded(0, 9000))))
    assert await names(client, page_size=1) == ["p000"]
    monkeypatch.setattr(response_limits, "OBJECT_MAX", len(written(padded(0, 9000))) - 1)
    assert await names(client, page_size=1) == []


async def test_a_small_deep_object_is_truncated_and_a_large_one_is_skipped(
    sized: SizedServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = nested("small", 10_000, 3000), nested("large", 2 * SHALLOW_MAX)
    sized.objects = [padded(0, 10), small, padded(1, 10), large, padded(2, 10)]
    for name in ("BODY_MAX", "OBJECT_MAX"):
        monkeypatch.setattr(response_limits, name, 1 << 20)
    assert [pod_.metadata.name for pod_ in await client.list(PODS)] == ["p000", "small", "p001", "p002"]
    assert client.skipped.counts == {("pods", "depth"): 1}


async def test_the_loop_is_not_blocked_while_deep_and_large_objects_are_read(
    sized: SizedServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven MiB of brackets; the event loop runs after each piece. The test counts bytes and not time."""
    for name, value in (("BODY_MAX", 8 << 20), ("OBJECT_MAX", 8 << 20), ("PIECE", 16 * 1024)):
        monkeypatch.setattr(response_limits, name, value)
    sized.objects = [
        nested(f"n{number}", 1 << 20, depth=TOO_DEEP // 2 if TOO_DEEP == 3000 else TOO_DEEP) for number in range(7)
    ]
    handled, most, runs = 0, 0, 0

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any) -> Any:
            nonlocal handled
            handled += len(arguments[-1])
            return work(*arguments)

        return count

    async def tick() -> None:
        nonlocal handled, most, runs
        while True:
            await asyncio.sleep(0)
            most, handled, runs = max(most, handled), 0, runs + 1

    monkeypatch.setattr(Scanner, "feed", counted(Scanner.feed))
    monkeypatch.setattr(decoding, "shallow", counted(decoding.shallow))
    ticker = asyncio.create_task(tick())
    try:
        pods = await client.list(PODS)
    finally:
        ticker.cancel()
        await asyncio.gather(ticker, return_exceptions=True)
    assert len(pods) == 0
    assert client.skipped.counts == {("pods", "depth"): 7}
    assert 0 < most <= response_limits.PIECE
    assert runs >= (7 << 20) / response_limits.PIECE


async def test_an_interrupted_list_is_rejected(sized: SizedServer, client: Client) -> None:
    sized.objects = [b'{"metadata":{"name":"a"},"spec":{"x":"' + b"x" * 9000]
    with pytest.raises(ApiError):
        await names(client, page_size=1)


SIZES = st.lists(st.integers(0, 9500), max_size=12)


@given(sizes=SIZES, page_size=st.sampled_from([1, 2, 3, 500]), metadata_first=st.booleans(), gone=st.integers(0, 2))
@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_every_object_within_the_limit_is_read_once(
    sized: SizedServer, sizes: list[int], page_size: int, metadata_first: bool, gone: int
) -> None:
    sized.objects = [padded(number, size) for number, size in enumerate(sizes)]
    sized.metadata_first, sized.gone = metadata_first, gone
    async with Client(ClusterAccess(sized.url), user_agent="test/1", open_session=sized.network.open_session) as client:
        expected = [
            f"p{number:03}"
            for number in range(len(sizes))
            if len(written(padded(number, sizes[number]))) <= response_limits.OBJECT_MAX
        ]
        assert await names(client, page_size=page_size) == expected
