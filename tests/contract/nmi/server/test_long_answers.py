"""Proxied answers that are long, slow, cut short or unwanted, over sockets. Excluded: the forwarded requests."""

import asyncio

import pytest

from nmi.refusal import Limit, Reason
from nmi.server.policy import ServerPolicy
from tests.contract.nmi.server.upstream import Front, Script, fronting
from tests.support.nmi.server.fakes import Reply, replies, request_bytes
from tests.support.waiting import until

INSTANCE = request_bytes("/metadata/instance")
LAST = request_bytes("/metadata/instance", headers=("Metadata: true", "Connection: close"))
LONG = 200_000


def head(length: int | None, *fields: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *fields]
    return "\r\n".join([*lines, *([] if length is None else [f"Content-Length: {length}"]), "", ""]).encode()


def saying(data: bytes, *, close: bool = False) -> Script:
    """Answer each request with *data*. With *close*, end the connection then."""

    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if close:
            await writer.drain()
            writer.close()

    return script


async def answered(front: Front, data: bytes = LAST) -> Reply:
    """Return the one answer that one client receives for *data*."""
    (reply,) = replies(await front.answer(data))
    return reply


async def test_a_long_answer_is_forwarded_before_it_is_complete() -> None:
    released = asyncio.Event()

    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head(LONG) + b"a" * 100_000)
        await released.wait()
        writer.write(b"b" * 100_000)

    async with fronting(script) as (front, _), front.client() as client:
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
    data = request_bytes("/metadata/instance", headers=("Connection: close",), version=version)
    async with fronting(saying(head(length) + body)) as (front, _):
        reply = await answered(front, data)
    assert (reply.status, reply.body, reply.headers["connection"]) == (200, body, "close")


async def test_an_answer_without_a_length_gets_one() -> None:
    pieces = b"".join(b"186a0\r\n" + b"x" * 100_000 + b"\r\n" for _ in range(2)) + b"0\r\n\r\n"
    async with fronting(saying(head(None, "Transfer-Encoding: chunked") + pieces)) as (front, _):
        reply = await answered(front)
    assert reply.body == b"x" * LONG
    assert "transfer-encoding" not in reply.headers


async def test_an_answer_one_byte_over_the_limit_is_refused_and_counted_with_or_without_a_length() -> None:
    body = b"x" * (ServerPolicy().proxy_body_bytes + 1)
    async with fronting(saying(head(len(body)) + body)) as (front, upstream):
        assert (await answered(front)).status == 503
        upstream.script = saying(head(None, "Connection: close") + body, close=True)
        assert (await answered(front)).status == 503
        assert front.measures.limits_hit()[Limit.PROXIED_BYTES] == 2


BREAKING_OFF = saying(head(LONG) + b"x" * 50_000, close=True)


async def test_an_answer_that_breaks_off_before_it_is_forwarded_is_a_503() -> None:
    async with fronting(BREAKING_OFF, ServerPolicy(proxy_whole_bytes=LONG)) as (front, _):
        reply = await answered(front)
    assert (reply.status, reply.json["error"]) == (503, "temporarily_unavailable")
    assert "retry-after" in reply.headers


async def test_an_answer_that_breaks_off_in_the_middle_ends_the_connection_without_further_data() -> None:
    async with fronting(BREAKING_OFF) as (front, _):
        first, _, rest = (await front.answer(INSTANCE + INSTANCE)).partition(b"\r\n\r\n")
        assert b"Content-Length: 200000" in first
        assert rest == b"x" * len(rest)
        assert len(rest) <= 50_000, "shorter than announced, so no client accepts it as complete"
        assert front.measures.refusals(Reason.UPSTREAM_UNAVAILABLE) == 1
        await until(lambda: front.governor.in_flight == 0)
        assert (await answered(front, request_bytes("/nothing", headers=("Connection: close",)))).status == 404


BEGINNING = saying(head(LONG) + b"x" * 70_000)


async def stopping(_: bytes, writer: asyncio.StreamWriter) -> None:
    """Begin a long answer, and send nothing then."""
    await BEGINNING(_, writer)
    await asyncio.Event().wait()


async def test_an_upstream_that_is_silent_in_the_middle_of_an_answer_ends_it() -> None:
    async with fronting(stopping, ServerPolicy(proxy_silence_seconds=1.0)) as (front, upstream):
        received = await front.answer(LAST)
        assert len(received.partition(b"\r\n\r\n")[2]) == 70_000
        upstream.script = lambda *_: asyncio.Event().wait()
        assert (await answered(front)).status == 503


async def test_a_drain_that_cannot_wait_cuts_off_an_answer_and_sends_nothing_after_it() -> None:
    async with fronting(stopping) as (front, _), front.client() as client:
        client.send(INSTANCE)
        await client.head()
        assert await front.server.drain(0.05) == 0
        assert await client.rest() == b"x" * 70_000
        assert [labels[:2] for labels in front.labels()] == [("/metadata/instance", "503")]


async def test_a_pod_that_does_not_read_holds_no_permit_and_gets_the_complete_answer_when_it_reads() -> None:
    body = bytes(n % 251 for n in range(262_144))
    async with fronting(saying(head(len(body)) + body)) as (front, upstream), front.client(window=4096) as client:
        client.send(INSTANCE)
        await until(lambda: len(upstream.heads) == 1 and front.governor.in_flight == 0)
        assert (await answered(front)).body == body, "others are served"
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert await client.body(len(body)) == body


async def test_a_pod_that_disconnects_ends_the_call_to_imds_and_releases_its_permit() -> None:
    async with fronting(BEGINNING) as (front, upstream):
        async with front.client() as client:
            client.send(INSTANCE)
            await client.head()
            assert front.governor.in_flight == 1
        await until(upstream.gone.is_set)
        await until(lambda: front.governor.in_flight == 0)


async def test_a_head_request_gets_the_length_and_the_connection_continues() -> None:
    async with fronting(saying(head(LONG))) as (front, upstream), front.client() as client:
        client.send(request_bytes("/metadata/instance", method="HEAD"))
        first = await client.head()
        assert (await client.ask(request_bytes("/nothing"))).status == 404
    assert upstream.heads[0].startswith(b"HEAD /metadata/instance ")
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 200000" in first


async def test_an_answer_without_content_has_no_length() -> None:
    async with fronting(saying(b"HTTP/1.1 204 No Content\r\n\r\n")) as (front, _):
        received = await front.answer(LAST)
    assert received.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"content-length" not in received.lower()


@pytest.mark.parametrize(
    "answer",
    [
        head(4, "Content-Encoding: gzip") + b"\x1f\x8b\0\0",
        head(0, status="999 Odd"),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
    ],
)
async def test_an_answer_that_does_not_match_the_request_is_a_503(answer: bytes) -> None:
    async with fronting(saying(answer)) as (front, _):
        reply = await answered(front)
    assert (reply.status, reply.json["error"]) == (503, "temporarily_unavailable")


async def test_forwarded_calls_stay_within_imds_limit_of_five_per_second() -> None:
    async with fronting(saying(head(2) + b"{}")) as (front, upstream):
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert [(await answered(front)).status for _ in range(6)] == [200] * 6
        assert loop.time() - begun >= 1.0
        assert len(upstream.heads) == 6


async def test_imds_limit_for_instance_metadata_is_forwarded_and_delays_no_other_call() -> None:
    async with fronting(saying(head(0, "Retry-After: 30", status="429 Too Many Requests"))) as (front, upstream):
        for number in (1, 2):
            reply = await answered(front)
            assert (reply.status, reply.headers["retry-after"]) == (429, "30")
            assert len(upstream.heads) == number
