"""The whole token server over loopback: fast lane, general lane, and stop. Fakes replace the issuer and IMDS."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from _native.answers import Usage
from _native.index import Index
from _native.lane import Limits
from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server import server as server_module
from nmi.server.metrics import ServerMetrics
from nmi.server.policy import ServerPolicy
from nmi.server.proxied_path import Forwarder
from nmi.server.server import Server
from tests.corpus.corpus import ACCEPTED, Case
from tests.native.serving import admit, ready
from tests.nmi.server.fakes import (
    RESOURCE,
    TARGET,
    TOKEN_PATH,
    FakeIssuer,
    FakeProxy,
    Grant,
    Reply,
    grant,
    pod_entry,
    replies,
    request_bytes,
)
from tests.support.waiting import until

LOCAL = "127.0.0.1"


class Running:
    """A server on a free port."""

    def __init__(self, policy: ServerPolicy, proxy: Forwarder | None = None) -> None:
        self.index = Index()
        self.entry = pod_entry()
        self.index.put(LOCAL, self.entry.record)
        self.issuer = FakeIssuer(lambda _: grant(self.entry.record))
        self.proxy = FakeProxy()
        self.measures = ServerMetrics()
        self.server = Server(
            limits=Limits(),
            policy=policy,
            index=self.index,
            issuer=self.issuer,
            proxy=proxy or self.proxy,
            measures=self.measures,
        )
        self.listener = socket.create_server((LOCAL, 0))
        self.listener.setblocking(False)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listener.getsockname()
        return host, port

    def hold(self) -> asyncio.Event:
        """Let the issuer answer only after the returned event."""
        released = asyncio.Event()

        async def answer(_: TokenRequest) -> Grant | Refusal:
            await released.wait()
            return grant(self.entry.record)

        self.issuer.answer = answer
        return released

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self) -> Reply:
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            (reply,) = replies(head + await self.reader.readexactly(length))
            return reply

    async def ask(self, data: bytes) -> Reply:
        self.send(data)
        return await self.reply()

    async def rest(self) -> bytes:
        async with asyncio.timeout(5):
            return await self.reader.read()


@asynccontextmanager
async def serving(policy: ServerPolicy | None = None, proxy: Forwarder | None = None) -> AsyncIterator[Running]:
    running = Running(policy or ServerPolicy(), proxy)
    await running.server.start(running.listener)
    try:
        yield running
    finally:
        await running.server.aclose()
        running.listener.close()


async def test_the_first_answer_is_general_the_next_is_ready_and_both_are_equal() -> None:
    async with serving() as running, running.client() as client:
        first = await client.ask(request_bytes())
        second = await client.ask(request_bytes())

        assert len(running.issuer.asked) == 1
        assert running.server.counters()["fast_answers"] == 1
    one, two = first.json, second.json
    for body in (one, two):
        assert 3590 <= int(body.pop("expires_in")) <= 3600
    assert one == two
    assert list(first.headers) == list(second.headers)


async def test_a_revoked_grant_is_requested_again_on_the_same_connection() -> None:
    async with serving() as running, running.client() as client:
        await client.ask(request_bytes())
        running.entry.bump()
        running.issuer.answer = lambda _: Refusal(Reason.NOTHING_ASSIGNED, "Identity not found")
        reply = await client.ask(request_bytes())

    assert (reply.status, reply.json["error_description"]) == (400, "Identity not found")


async def test_requests_sent_byte_by_byte_get_the_same_answers() -> None:
    sent = request_bytes() + request_bytes("/nothing") + request_bytes(headers=()) + request_bytes()
    async with serving() as running, running.client() as client:
        for byte in sent:
            client.send(bytes([byte]))
            await client.writer.drain()
        found = [await client.reply() for _ in range(4)]

    assert [each.status for each in found] == [200, 404, 400, 200]


async def test_pipelined_requests_of_both_lanes_are_answered_in_order() -> None:
    async with serving() as running, running.client() as client:
        client.send((request_bytes() + request_bytes("/nothing") + request_bytes("/metadata/instance")) * 20)
        found = [await client.reply() for _ in range(60)]

        assert [each.status for each in found] == [200, 404, 200] * 20
        assert len(running.proxy.forwarded) == 20


async def test_a_request_split_after_a_pending_one_is_answered_too() -> None:
    async with serving() as running, running.client() as client:
        release = running.hold()
        client.send(request_bytes() + b"GET /noth")
        await until(lambda: len(running.issuer.asked) == 1)
        client.send(request_bytes("/nothing")[9:])
        release.set()
        found = [await client.reply(), await client.reply(), await client.ask(request_bytes())]

    assert [each.status for each in found] == [200, 404, 200]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        (b"GET /metadata/identity/oauth2/token?" + b"a" * 9000, 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 5000, 431),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 100_000, 413),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ],
    ids=["TLS", "space-before-colon", "target", "fields", "body", "smuggling"],
)
async def test_hostile_bytes_get_an_answer_and_a_close_and_affect_no_other_connection(data: bytes, status: int) -> None:
    async with serving() as running, running.client() as bad, running.client() as good:
        bad.send(data)
        (reply,) = replies(await bad.rest())

        assert (reply.status, reply.headers["connection"]) == (status, "close")
        assert (await good.ask(request_bytes())).status == 200


async def test_a_peer_that_disconnects_ends_its_request() -> None:
    async with serving() as running:
        ended = asyncio.Event()

        async def hold(_: TokenRequest) -> Grant | Refusal:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

        running.issuer.answer = hold
        async with running.client() as client:
            client.send(request_bytes())
            await until(lambda: len(running.issuer.asked) == 1)
        async with asyncio.timeout(5):
            await ended.wait()
        await until(lambda: running.server.counters()["open"] == 0)


async def test_draining_answers_pending_requests_closes_idle_connections_and_accepts_none() -> None:
    async with serving() as running, running.client() as busy, running.client() as idle:
        release = running.hold()
        assert (await idle.ask(request_bytes("/nothing"))).status == 404
        busy.send(request_bytes())
        await until(lambda: len(running.issuer.asked) == 1)
        draining = asyncio.create_task(running.server.drain(5))
        assert await idle.rest() == b""
        release.set()
        reply = await busy.reply()

        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await busy.rest() == b""
        assert await draining == 0


async def test_a_request_that_arrives_shortly_after_its_connection_was_accepted_is_answered_by_a_drain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "FIRST_BYTE_SECONDS", 2.0)
    async with serving() as running, running.client() as client, running.client() as silent:
        await until(lambda: running.server.counters()["accepted"] == 2)
        draining = asyncio.create_task(running.server.drain(5))
        await asyncio.sleep(0.1)
        reply = await client.ask(request_bytes("/nothing"))
        assert (reply.status, reply.headers["connection"]) == (404, "close")
        assert await silent.rest() == b""
        assert await draining == 0


async def test_open_requests_are_completed_while_new_ones_are_served() -> None:
    async with serving() as running, running.client() as busy, running.client() as later:
        release = running.hold()
        assert await running.server.complete_open_requests(60) > 50, "nothing to wait for"
        assert await running.server.complete_open_requests(0) == 0
        busy.send(request_bytes())
        await until(lambda: len(running.issuer.asked) == 1)
        assert await running.server.complete_open_requests(0.01) == 0, "the request takes longer"
        completing = asyncio.create_task(running.server.complete_open_requests(5))
        await asyncio.sleep(0)
        later.send(request_bytes())
        await until(lambda: len(running.issuer.asked) == 2)
        assert not completing.done()
        async with running.client() as new:
            assert (await new.ask(request_bytes("/nothing"))).status == 404
        release.set()
        assert 0 < await completing < 5
        assert (await busy.reply()).headers.get("connection") is None


async def test_a_request_that_a_drain_cannot_wait_for_gets_503_and_leaves_no_task() -> None:
    async with serving() as running, running.client() as client, running.client() as half:
        running.hold()
        client.send(request_bytes())
        await until(lambda: len(running.issuer.asked) == 1)

        half.send(b"GET ")
        await until(lambda: running.server.counters()["handed_over"] == 2)

        assert await running.server.drain(0.01) == 1, "who has sent half a request"
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (503, "close")
        assert "retry-after" in reply.headers
        labels = {series.labels[:2] for series in running.measures.histogram.all_series()}
        assert labels == {(TOKEN_PATH, "503")}, "counted at the lane that answered"
        assert b"stops; try again" in reply.body
        await running.server.aclose()
        assert await half.rest() == b""
        assert running.server._tasks == set()
        assert len(running.server.waiting) == 0
        await running.server.aclose()


async def test_the_state_is_json_and_contains_nothing_that_a_pod_chose() -> None:
    async with serving() as running, running.client() as client:
        await client.ask(request_bytes("/made-up-path"))
        await client.ask(request_bytes())
        state = running.server.state()
        text = json.dumps(state)

    assert (state["draining"], state["waiting_requests"], state["refusals"]) == (False, 0, {"unknown_path": 1})
    assert "made-up" not in text
    assert "secret" not in text
    assert len(text) < 4000


async def test_the_lane_is_configured_to_accept_only_redirected_connections() -> None:
    # A connection to the port itself was meant for another address, so neither lane may serve it.
    async with serving(ServerPolicy(redirected_from=("169.254.169.254", 80))) as running, running.client() as client:
        answer = ready(b"a token", running.measures.series(TOKEN_PATH, 200, "", ""), Usage())
        assert admit(running.entry.record, answer, RESOURCE.encode())
        for _ in range(3):
            reply = await client.ask(request_bytes())
            assert (reply.status, reply.json["error"]) == (403, "access_denied")

        assert (running.server.counters()["fast_answers"], running.issuer.asked) == (0, [])


async def test_the_lanes_counters_are_exposed() -> None:
    async with serving() as running, running.client() as client:
        await client.ask(request_bytes("/nothing"))
        names = {metric.name for metric in running.measures.collect()}

    assert {"aadpodidentity_nmi_connections_open", "aadpodidentity_nmi_lane_handed_over"} <= names


async def test_the_fast_lane_respects_the_optional_metadata_header() -> None:
    async with serving(ServerPolicy(require_metadata_header=False)) as running, running.client() as client:
        for _ in range(3):
            assert (await client.ask(request_bytes(headers=()))).status == 200

        assert running.server.counters()["fast_answers"] == 2


@pytest.mark.parametrize("case", [case for case in ACCEPTED if case.grants_fast], ids=lambda case: case.name)
async def test_both_lanes_answer_equally(case: Case) -> None:
    found = []
    async with serving() as running:
        for asked, fast in ((1, 0), (1, 1)):
            async with running.client() as client:
                found.append(await client.ask(case.data))
            assert len(running.issuer.asked) == asked
            assert running.server.counters()["fast_answers"] == fast
    general, ready = found

    assert general.status == ready.status == 200
    assert list(general.headers) == list(ready.headers)
    assert {**general.json, "expires_in": ""} == {**ready.json, "expires_in": ""}


async def test_at_verbosity_4_each_request_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "nmi.server.general.requests")
    async with serving(ServerPolicy(log_each_request=True)) as running, running.client() as client:
        for _ in range(3):
            await client.ask(request_bytes())

        assert running.server.counters()["fast_answers"] == 0
    assert [record.getMessage() for record in caplog.records].count("request answered") == 3


async def test_the_metadata_header_in_any_sdk_spelling_gets_the_same_ready_answer() -> None:
    async with serving() as running, running.client() as client:
        for path in (TOKEN_PATH, f"/{TOKEN_PATH}", TOKEN_PATH.replace("metadata", "Metadata"), f"{TOKEN_PATH}/"):
            assert (await client.ask(request_bytes(TARGET.replace(TOKEN_PATH, path)))).status == 200

        assert len(running.issuer.asked) == 1
