"""Proxied responses that are long, slow, cut short or unwanted, over sockets. Excluded: the forwarded requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nmi.refusal import Limit, Reason
from nmi.server.passthrough import MetadataProxy
from nmi.server.policy import ServerPolicy
from podidentity.http_client.session import HttpSession
from tests.support import raw_server
from tests.support.nmi.server.fakes import Reply, replies, request_bytes
from tests.support.nmi.server.running import Running, serving
from tests.support.raw_server import RawServer
from tests.support.virtual_time import settle
from tests.support.waiting import until

INSTANCE = request_bytes("/metadata/instance")
LAST = request_bytes("/metadata/instance", headers=("Metadata: true", "Connection: close"))
LONG = 200_000


class Front:
    """A token server whose proxied requests go to *upstream*."""

    def __init__(self, running: Running, proxy: MetadataProxy, upstream: RawServer) -> None:
        self.running, self.upstream = running, upstream
        self.client, self.measures = running.client, running.measures
        self.governor = proxy._governor

    async def answer(self, data: bytes) -> bytes:
        """Return all bytes that one client receives for *data* until the connection ends."""
        async with self.client() as client:
            client.send(data)
            return await client.rest()

    async def reply(self, data: bytes = LAST) -> Reply:
        """Return the one response that one client receives for *data*."""
        (reply,) = replies(await self.answer(data))
        return reply


@asynccontextmanager
async def fronting(
    *pieces: bytes, policy: ServerPolicy | None = None, close: bool = False, hang: bool = False
) -> AsyncIterator[Front]:
    """Run a token server whose upstream answers ten requests with *pieces*, and then closes the connection or hangs."""
    async with RawServer() as upstream, HttpSession(connections=16, headers={}) as session:
        upstream.replies += [raw_server.Reply(*pieces, close=close, hang=hang)] * 10
        proxy = MetadataProxy(session, upstream.url, policy or ServerPolicy())
        try:
            async with serving(policy, proxy) as running:
                yield Front(running, proxy, upstream)
        finally:
            proxy.close()


def head(length: int | None, *fields: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *fields]
    return "\r\n".join([*lines, *([] if length is None else [f"Content-Length: {length}"]), "", ""]).encode()


async def test_a_long_answer_is_forwarded_before_it_is_complete() -> None:
    released = asyncio.Event()

    async def in_two_parts() -> AsyncIterator[bytes]:
        yield head(LONG) + b"a" * 100_000
        await released.wait()
        yield b"b" * 100_000

    async with fronting() as front, front.client() as client:
        front.upstream.replies[0] = in_two_parts()
        client.send(INSTANCE)
        assert b"Content-Length: 200000\r\n" in await client.head()
        assert await client.body(100_000) == b"a" * 100_000
        released.set()
        assert await client.body(100_000) == b"b" * 100_000
        assert (await client.ask(request_bytes("/nothing"))).status == 404


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("length", [0, 1, 65_536, 65_537, 262_144])
async def test_an_answer_of_any_length_is_forwarded(length: int, version: str) -> None:
    body = bytes(n % 251 for n in range(length))
    async with fronting(head(length) + body) as front:
        reply = await front.reply(request_bytes("/metadata/instance", headers=("Connection: close",), version=version))
    assert (reply.status, reply.body, reply.headers["connection"]) == (200, body, "close")


async def test_an_answer_without_a_length_gets_one() -> None:
    chunk = b"186a0\r\n" + b"x" * 100_000 + b"\r\n"
    async with fronting(head(None, "Transfer-Encoding: chunked") + 2 * chunk + b"0\r\n\r\n") as front:
        reply = await front.reply()
    assert reply.body == b"x" * LONG
    assert "transfer-encoding" not in reply.headers


@pytest.mark.parametrize("stated", [True, False])
async def test_an_answer_one_byte_over_the_limit_is_refused_and_counted_with_or_without_a_length(stated: bool) -> None:
    body = b"x" * (ServerPolicy().proxy_body_bytes + 1)
    first = head(len(body)) if stated else head(None, "Connection: close")
    async with fronting(first + body, close=not stated) as front:
        assert (await front.reply()).status == 503
        assert front.measures.limits_hit()[Limit.PROXIED_BYTES] == 1


async def test_an_answer_that_breaks_off_before_it_is_forwarded_is_a_503() -> None:
    policy = ServerPolicy(proxy_whole_bytes=LONG)
    async with fronting(head(LONG) + b"x" * 50_000, policy=policy, close=True) as front:
        reply = await front.reply()
    assert (reply.status, reply.json["error"]) == (503, "temporarily_unavailable")
    assert "retry-after" in reply.headers


async def test_an_answer_that_breaks_off_in_the_middle_ends_the_connection_without_further_data() -> None:
    async with fronting(head(LONG) + b"x" * 50_000, close=True) as front:
        first, _, rest = (await front.answer(INSTANCE + INSTANCE)).partition(b"\r\n\r\n")
        assert b"Content-Length: 200000" in first
        assert rest == b"x" * len(rest)
        assert len(rest) <= 50_000, "shorter than announced, so no client accepts it as complete"
        assert front.measures.refusals(Reason.UPSTREAM_UNAVAILABLE) == 1
        await until(lambda: front.governor.in_flight == 0)
        assert (await front.reply(request_bytes("/nothing", headers=("Connection: close",)))).status == 404


async def test_an_upstream_that_is_silent_in_the_middle_of_an_answer_ends_it() -> None:
    policy = ServerPolicy(proxy_silence_seconds=1.0)
    async with fronting(head(LONG) + b"x" * 70_000, policy=policy, hang=True) as front:
        received = await front.answer(LAST)
        assert len(received.partition(b"\r\n\r\n")[2]) == 70_000
        front.upstream.replies.clear()
        assert (await front.reply()).status == 503


async def test_a_drain_that_cannot_wait_cuts_off_an_answer_and_sends_nothing_after_it() -> None:
    async with fronting(head(LONG) + b"x" * 70_000, hang=True) as front, front.client() as client:
        client.send(INSTANCE)
        await client.head()
        received = await client.body(70_000)
        assert await front.running.server.drain(0.05) == 0
        assert received + await client.rest() == b"x" * 70_000
        assert [labels[:2] for labels in front.running.labels()] == [("/metadata/instance", "503")]


async def test_a_pod_that_does_not_read_holds_no_permit_and_gets_the_complete_answer_when_it_reads() -> None:
    body = bytes(n % 251 for n in range(262_144))
    async with fronting(head(len(body)) + body) as front, front.client(window=4096) as client:
        client.send(INSTANCE)
        await until(lambda: len(front.upstream.requests) == 1 and front.governor.in_flight == 0)
        async with front.client() as other:
            assert (await other.ask(INSTANCE)).body == body, "others are served"
            await settle()
            assert front.governor.in_flight == 0, "no longer than IMDS sends"
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert await client.body(len(body)) == body


async def test_a_pod_that_disconnects_ends_the_call_to_imds_and_releases_its_permit() -> None:
    async with fronting(head(LONG) + b"x" * 70_000, hang=True) as front:
        async with front.client() as client:
            client.send(INSTANCE)
            await client.head()
            assert front.governor.in_flight == 1
        await until(lambda: (front.upstream.ended, front.governor.in_flight) == (1, 0))


async def test_a_head_request_gets_the_length_and_the_connection_continues() -> None:
    async with fronting(head(LONG)) as front, front.client() as client:
        client.send(request_bytes("/metadata/instance", method="HEAD"))
        first = await client.head()
        assert (await client.ask(request_bytes("/nothing"))).status == 404
        assert front.upstream.requests[0].startswith(b"HEAD /metadata/instance ")
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 200000" in first


async def test_an_answer_without_content_has_no_length() -> None:
    async with fronting(b"HTTP/1.1 204 No Content\r\n\r\n") as front:
        received = await front.answer(LAST)
    assert received.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"content-length" not in received.lower()


@pytest.mark.parametrize(
    "response",
    [
        head(4, "Content-Encoding: gzip") + b"\x1f\x8b\0\0",
        head(0, status="999 Odd"),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_an_answer_that_does_not_match_the_request_is_a_503(response: bytes) -> None:
    async with fronting(response) as front:
        reply = await front.reply()
    assert (reply.status, reply.json["error"]) == (503, "temporarily_unavailable")


async def test_forwarded_calls_stay_within_imds_limit_of_five_per_second() -> None:
    async with fronting(head(2) + b"{}") as front:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert [(await front.reply()).status for _ in range(6)] == [200] * 6
        assert loop.time() - begun >= 1.0
        assert len(front.upstream.requests) == 6


async def test_imds_limit_for_instance_metadata_is_forwarded_and_delays_no_other_call() -> None:
    async with fronting(head(0, "Retry-After: 30", status="429 Too Many Requests")) as front:
        for number in (1, 2):
            reply = await front.reply()
            assert (reply.status, reply.headers["retry-after"]) == (429, "30")
            assert len(front.upstream.requests) == number
