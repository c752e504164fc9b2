"""Proxied answers that are long, slow, cut short or unwanted, over sockets. Excluded: the forwarded requests."""

import asyncio

import pytest

from nmi.refusal import Limit, Reason
from nmi.server.policy import ServerPolicy
from tests.nmi.server.fakes import replies, request_bytes
from tests.nmi.server.upstream import Front, fronting
from tests.support.waiting import until

INSTANCE = request_bytes("/metadata/instance")
LAST = request_bytes("/metadata/instance", headers=("Metadata: true", "Connection: close"))
LONG = 200_000
SHORT = ServerPolicy(proxy_whole_bytes=1000)


def head(length: int | None, *fields: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *fields]
    return "\r\n".join([*lines, *([] if length is None else [f"Content-Length: {length}"]), "", ""]).encode()


async def saying(data: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(data)


async def asked(front: Front, data: bytes = LAST) -> bytes:
    """Return all bytes that one client receives for *data* until the connection ends."""
    async with front.client() as (reader, writer):
        writer.write(data)
        async with asyncio.timeout(10):
            return await reader.read()


async def test_a_long_answer_is_forwarded_before_it_is_complete() -> None:
    released = asyncio.Event()

    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head(LONG) + b"a" * 100_000)
        await released.wait()
        writer.write(b"b" * 100_000)

    async with fronting(script) as (front, _), front.client() as (reader, writer):
        writer.write(INSTANCE)
        async with asyncio.timeout(5):
            first = await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(100_000) == b"a" * 100_000
            released.set()
            assert await reader.readexactly(100_000) == b"b" * 100_000
        assert b"Content-Length: 200000\r\n" in first
        writer.write(request_bytes("/nothing"))
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("length", [0, 1, 65_536, 65_537, 262_144])
async def test_an_answer_of_any_length_is_forwarded(length: int, version: str) -> None:
    body = bytes(n % 251 for n in range(length))
    data = request_bytes("/metadata/instance", headers=("Connection: close",), version=version)
    async with fronting(lambda _, writer: saying(head(length) + body, writer)) as (front, _):
        (reply,) = replies(await asked(front, data))

    assert (reply.status, reply.body, reply.headers["connection"]) == (200, body, "close")


async def test_an_answer_without_a_length_gets_one() -> None:
    pieces = b"".join(b"186a0\r\n" + b"x" * 100_000 + b"\r\n" for _ in range(2)) + b"0\r\n\r\n"
    async with fronting(lambda _, writer: saying(head(None, "Transfer-Encoding: chunked") + pieces, writer)) as (
        front,
        _,
    ):
        (reply,) = replies(await asked(front))

    assert reply.body == b"x" * LONG
    assert "transfer-encoding" not in reply.headers


async def test_an_answer_one_byte_over_the_limit_is_refused_and_counted_with_or_without_a_length() -> None:
    most = ServerPolicy().proxy_body_bytes
    body = b"x" * (most + 1)

    async def closing(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head(None, "Connection: close") + body)
        await writer.drain()
        writer.close()

    async with fronting(lambda _, writer: saying(head(len(body)) + body, writer)) as (front, upstream):
        (with_length,) = replies(await asked(front))
        upstream.script = closing
        (without_length,) = replies(await asked(front))

        assert (with_length.status, without_length.status) == (503, 503)
        assert front.measures.limits_hit()[Limit.PROXIED_BYTES] == 2


async def breaking_off(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(head(LONG) + b"x" * 50_000)
    await writer.drain()
    writer.close()


async def test_an_answer_that_breaks_off_before_it_is_forwarded_is_a_503() -> None:
    async with fronting(breaking_off, ServerPolicy(proxy_whole_bytes=LONG)) as (front, _):
        (reply,) = replies(await asked(front))

    assert (reply.status, reply.json["error"]) == (503, "temporarily_unavailable")
    assert "retry-after" in reply.headers


async def test_an_answer_that_breaks_off_in_the_middle_ends_the_connection_without_further_data() -> None:
    async with fronting(breaking_off) as (front, _):
        received = await asked(front, INSTANCE + INSTANCE)
        first, _, rest = received.partition(b"\r\n\r\n")

        assert b"Content-Length: 200000" in first
        assert rest == b"x" * len(rest)
        assert len(rest) <= 50_000, "shorter than announced, so no client accepts it as complete"
        assert front.measures.refusals(Reason.UPSTREAM_UNAVAILABLE) == 1
        await until(lambda: front.governor.in_flight == 0)
        assert (await asked(front, request_bytes("/nothing", headers=("Connection: close",)))).startswith(
            b"HTTP/1.1 404"
        )


async def silence(_: bytes, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def test_an_upstream_that_is_silent_in_the_middle_of_an_answer_ends_it() -> None:
    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head(LONG) + b"x" * 70_000)
        await writer.drain()
        await asyncio.sleep(5)

    async with fronting(script, ServerPolicy(proxy_silence_seconds=1.0)) as (front, upstream):
        received = await asked(front)
        assert len(received.partition(b"\r\n\r\n")[2]) == 70_000
        upstream.script = silence
        (reply,) = replies(await asked(front))

    assert reply.status == 503


async def test_a_drain_that_cannot_wait_cuts_off_an_answer_and_sends_nothing_after_it() -> None:
    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head(LONG) + b"x" * 70_000)
        await writer.drain()
        await silence(b"", writer)

    async with fronting(script) as (front, _), front.client() as (reader, writer):
        writer.write(INSTANCE)
        await reader.readuntil(b"\r\n\r\n")
        assert await front.server.drain(0.05) == 0
        async with asyncio.timeout(5):
            assert await reader.read() == b"x" * 70_000
        labels = {series.labels[:2] for series in front.measures.histogram.all_series()}
        assert labels == {("/metadata/instance", "503")}


async def test_a_pod_that_does_not_read_holds_no_permit_and_gets_the_complete_answer_when_it_reads() -> None:
    body = bytes(n % 251 for n in range(262_144))
    async with (
        fronting(lambda _, writer: saying(head(len(body)) + body, writer)) as (front, upstream),
        front.client(window=4096) as (reader, writer),
    ):
        writer.write(INSTANCE)
        await until(lambda: len(upstream.heads) == 1 and front.governor.in_flight == 0)
        (other,) = replies(await asked(front))
        assert other.body == body, "others are served"
        async with asyncio.timeout(10):
            first = await reader.readuntil(b"\r\n\r\n")
            assert first.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(len(body)) == body


async def test_a_pod_that_disconnects_ends_the_call_to_imds_and_releases_its_permit() -> None:
    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head(LONG) + b"x" * 70_000)

    async with fronting(script) as (front, upstream):
        async with front.client() as (reader, writer):
            writer.write(INSTANCE)
            await reader.readuntil(b"\r\n\r\n")
            assert front.governor.in_flight == 1
        async with asyncio.timeout(5):
            await upstream.gone.wait()
        await until(lambda: front.governor.in_flight == 0)


async def test_a_head_request_gets_the_length_and_the_connection_continues() -> None:
    async with fronting(lambda _, writer: saying(head(LONG), writer)) as (front, upstream):
        data = request_bytes("/metadata/instance", method="HEAD") + request_bytes(
            "/nothing", headers=("Connection: close",)
        )
        first, _, rest = (await asked(front, data)).partition(b"\r\n\r\n")

    assert upstream.heads[0].startswith(b"HEAD /metadata/instance ")
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 200000" in first
    assert rest.startswith(b"HTTP/1.1 404 ")


async def test_an_answer_without_content_has_no_length() -> None:
    async with fronting(lambda _, writer: saying(b"HTTP/1.1 204 No Content\r\n\r\n", writer)) as (front, _):
        received = await asked(front)

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
    async with fronting(lambda _, writer: saying(answer, writer)) as (front, _):
        (reply,) = replies(await asked(front))

    assert (reply.status, reply.json["error"]) == (503, "temporarily_unavailable")


async def test_a_connection_attempt_to_an_upstream_has_a_time_limit() -> None:
    async with fronting(lambda _, writer: saying(head(0), writer), SHORT) as (front, upstream):
        front.proxy._base_url = "http://127.0.0.1:1"
        (reply,) = replies(await asked(front))

    assert (reply.status, upstream.heads) == (503, [])


async def test_forwarded_calls_stay_within_imds_limit_of_five_per_second() -> None:
    async with fronting(lambda _, writer: saying(head(2) + b"{}", writer)) as (front, upstream):
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for _ in range(6):
            (reply,) = replies(await asked(front))
            assert reply.status == 200
        assert loop.time() - begun >= 1.0
        assert len(upstream.heads) == 6


async def test_imds_limit_for_instance_metadata_is_forwarded_and_delays_no_other_call() -> None:
    answer = head(0, "Retry-After: 30", status="429 Too Many Requests")
    async with fronting(lambda _, writer: saying(answer, writer)) as (front, upstream):
        for number in (1, 2):
            (reply,) = replies(await asked(front))
            assert (reply.status, reply.headers["retry-after"]) == (429, "30")
            assert len(upstream.heads) == number


async def test_an_address_without_a_known_pod_may_request_instance_metadata() -> None:
    async with fronting(lambda _, writer: saying(head(2) + b"{}", writer)) as (front, _):
        record = front.index.get("127.0.0.1")
        assert record is not None
        front.index.remove("127.0.0.1", record)
        (reply,) = replies(await asked(front))

        assert reply.status == 200
        assert {series.labels[2] for series in front.measures.histogram.all_series()} == {""}
