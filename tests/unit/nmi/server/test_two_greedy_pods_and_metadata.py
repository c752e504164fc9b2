"""Instance metadata while two pods keep their queues full and start the reads that another pod needs.

Excluded: tokens (`tests/unit/nmi/tokens/test_two_greedy_pods.py`).
"""

import asyncio
from itertools import count
from typing import Any, cast

import pytest

from nmi.server.metadata_cache import MetadataCache
from nmi.server.passthrough import MetadataProxy
from nmi.server.policy import ServerPolicy
from nmi.server.request import Request
from nmi.server.responses import PlainAnswer
from nmi.server.target import ProxiedPaths, resolve
from podidentity.http_client.session import HttpSession
from tests.support.nmi.server.fakes import Pieces
from tests.support.virtual_time import now
from tests.unit.nmi.tokens.test_two_greedy_pods import ADDED_SECONDS, FILLERS, flooding

POPULAR = "/metadata/instance?api-version=2021-02-01"
CACHE_SECONDS = 10.0


class _Response:
    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    content_length = 2

    def __init__(self) -> None:
        self._body = b"{}"

    async def readany(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def close(self) -> None: ...


class _Imds:
    """A replacement of the session without sockets."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def request(self, *_args: object, **_rest: Any) -> _Response:
        await asyncio.sleep(self.seconds)
        return _Response()


class Metadata:
    """The cache and the proxy with NMI's own limits, in front of an IMDS in virtual time."""

    def __init__(self, call_seconds: float) -> None:
        proxy = MetadataProxy(cast("HttpSession", _Imds(call_seconds)), "http://imds", ServerPolicy())
        self.cache = MetadataCache(proxy, CACHE_SECONDS, now_ns=lambda: int(now() * 1e9))
        self._numbers = count()

    async def get(self, pod: str, target: str = POPULAR) -> None:
        request = Request("GET", target, (("metadata", "true"),), http_1_0=False, keep_alive=True)
        answer = await self.cache.forward(pod, request, resolve(target, ProxiedPaths()), Pieces())
        assert isinstance(answer, PlainAnswer)

    async def fill(self, pod: str) -> None:
        await self.get(pod, f"{POPULAR}&a={next(self._numbers)}")

    async def poll(self, pod: str) -> None:
        await asyncio.sleep(0.01)
        await self.get(pod)


@pytest.mark.parametrize("call_seconds", [0.02, 2.0])
@pytest.mark.parametrize("arrival", [0.01, 0.25, 0.65, 1.06, 7.3])
async def test_a_read_that_joins_an_attackers_queued_read_is_hardly_delayed(
    arrival: float, call_seconds: float
) -> None:
    metadata = Metadata(call_seconds)
    with flooding(*[metadata.fill] * FILLERS):
        await asyncio.sleep(arrival)
        first = [asyncio.create_task(metadata.get(pod)) for pod in ("evil/a", "evil/b")]
        await asyncio.sleep(0.001)
        begun = now()
        await metadata.get("shop/cart")
        assert now() - begun <= call_seconds + ADDED_SECONDS
        await asyncio.gather(*first)


async def test_polling_a_document_whose_reads_an_attacker_always_starts_is_hardly_delayed() -> None:
    metadata, slowest = Metadata(0.02), 0.0
    with flooding(*[metadata.fill] * FILLERS, metadata.poll):
        for _ in range(300):
            await asyncio.sleep(0.35)
            begun = now()
            await metadata.get("shop/cart")
            slowest = max(slowest, now() - begun)
    assert slowest <= 0.02 + ADDED_SECONDS
