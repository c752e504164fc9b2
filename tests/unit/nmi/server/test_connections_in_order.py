"""One connection's life in the general lane: order, pausing, cancelling, closing, and the time limit of its requests.

Excluded: real sockets.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from typing_extensions import override

from nmi.identity.request import TokenRequest
from nmi.refusal import Limit, Refusal
from nmi.server.general import GeneralLane, WaitingRequests
from nmi.server.outcomes import UNANSWERED_SECONDS_MIN
from nmi.server.policy import ServerPolicy, Sizes
from nmi.server.request import Request, Stream
from nmi.server.responses import StreamedResponse
from nmi.server.target import Destination
from nmi.tokens.fair_queue import Charged
from nmi.tokens.source import Issued
from tests.support.nmi.server.fakes import (
    TARGET,
    TOKEN_PATH,
    FakeConnection,
    FakeProxy,
    ServerUnderTest,
    grant,
    never,
    pod_entry,
    replies,
    request_bytes,
)
from tests.support.waiting import until


class Held:
    """A token service's response that the test releases for one request after the other."""

    def __init__(self, server: ServerUnderTest) -> None:
        self.server = server
        self.waiting: dict[str, asyncio.Future[None]] = {}
        self.cancelled: list[str] = []
        server.token_service.respond = self.respond

    async def respond(self, request: TokenRequest) -> Issued | Refusal:
        self.waiting[request.resource] = asyncio.get_running_loop().create_future()
        try:
            await self.waiting[request.resource]
        except asyncio.CancelledError:
            self.cancelled.append(request.resource)
            raise
        return grant(self.server.entry.record, access_token=f"token-for-{request.resource}")

    async def wait_for(self, resource: str) -> None:
        await until(lambda: resource in self.waiting)

    def release(self, resource: str) -> None:
        self.waiting[resource].set_result(None)


def ask(resource: str) -> bytes:
    return request_bytes(f"{TOKEN_PATH}?resource={resource}")


async def test_pipelined_requests_are_answered_one_by_one_in_their_order(server: ServerUnderTest) -> None:
    requests = Held(server)
    server.lane.data_received(ask("a") + request_bytes("/nothing") + ask("b"))
    await requests.wait_for("a")
    assert not server.connection.written
    assert "b" not in requests.waiting, "one request in flight"
    requests.release("a")
    await requests.wait_for("b")
    assert server.connection.state == "held"
    requests.release("b")
    await server.settle()
    received = server.replies()
    assert [reply.status for reply in received] == [200, 404, 200]
    assert [reply.json.get("access_token") for reply in received] == ["token-for-a", None, "token-for-b"]
    assert server.connection.state == "idle"


async def test_a_connection_with_part_of_a_request_is_not_returned_to_the_lane(server: ServerUnderTest) -> None:
    server.lane.data_received(request_bytes("/nothing") + b"GET /metadata/ident")
    await server.settle()
    assert [reply.status for reply in server.replies()] == [404]
    assert server.connection.resumed == 0
    server.lane.data_received(b"ity/x HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [reply.status for reply in server.replies()] == [404, 404]
    assert server.connection.resumed == 1


async def test_a_request_whose_parts_arrive_while_another_one_waits_is_answered(
    server: ServerUnderTest,
) -> None:
    requests = Held(server)
    server.lane.data_received(ask("a") + b"GET /noth")
    await requests.wait_for("a")
    server.lane.data_received(b"ing HTTP/1.1\r\nHost: h\r\n\r\n")
    requests.release("a")
    await server.settle()
    assert [reply.status for reply in server.replies()] == [200, 404]
    assert server.connection.state == "idle"


@pytest.mark.parametrize("more", [b"", b"/" * 97], ids=["slow", "too many bytes"])
async def test_a_pending_answer_followed_by_part_of_a_request_ends_the_connection(more: bytes) -> None:
    policy = ServerPolicy(pipeline_seconds=1.0, sizes=Sizes(pipelined_bytes=100))
    server = ServerUnderTest(policy)
    requests = Held(server)
    server.lane.data_received(ask("a") + b"GET ")
    await requests.wait_for("a")
    assert server.connection.state == "handed over"
    server.lane.data_received(more)
    if more:
        assert server.connection.state == "held"
    await until(lambda: server.connection.state == "held")
    await asyncio.sleep(2.0)
    requests.release("a")
    await server.settle()
    (reply,) = server.replies()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert server.connection.state == "finished"
    assert server.limits() == {Limit.PIPELINE: 1}


async def test_unread_answers_are_bounded() -> None:
    server = ServerUnderTest(ServerPolicy(sizes=Sizes(response_bytes=2000)))
    server.lane.data_received(ask("a") * 50)
    await server.settle()
    received = server.replies()
    assert 2000 < len(server.connection.written) < 3000
    assert [reply.headers.get("connection") for reply in received] == [*(None for _ in received[1:]), "close"]
    assert server.limits() == {Limit.PIPELINE: 1}
    server.lane = GeneralLane(FakeConnection(), server)
    for _ in range(9):
        server.lane.data_received(ask("a"))
        await server.settle()
    assert len(server.token_service.requests) == len(received) + 9, "bytes one by one do not end like this"


class Waited:
    """A server whose request has waited for a time when its client disconnects."""

    def __init__(self, seconds: float = UNANSWERED_SECONDS_MIN) -> None:
        self.now_ns = 10**9
        self.server = ServerUnderTest(now_ns=lambda: self.now_ns)
        self.requests = Held(self.server)
        self._seconds = seconds

    async def begin(self, data: bytes) -> None:
        self.server.lane.data_received(data)
        await until(lambda: bool(self.server.token_service.requests))
        self.now_ns += int(self._seconds * 1e9)

    async def lines_after(self, end: Callable[[], object]) -> int:
        """Return the number of lines of the decision log after *end*."""
        end()
        await self.server.settle()
        state: Any = self.server.decisions.state()
        return int(state["lines_this_period"])


@pytest.mark.parametrize("cause", ["timed-out", "cancelled", "closed-by-nmi"])
async def test_a_request_that_ends_for_another_reason_is_not_one_of_a_client_that_disconnected(
    caplog: pytest.LogCaptureFixture, cause: str
) -> None:
    waited = Waited()
    server = waited.server
    await waited.begin(ask("a"))

    def end() -> None:
        if cause == "timed-out":
            server.lane.expire()
        elif cause == "closed-by-nmi":
            server.draining = True
            server.lane.connection_lost()
        else:
            for task in server.tasks:
                task.cancel()

    await waited.lines_after(end)
    assert "client disconnected" not in caplog.text


@pytest.mark.parametrize(
    ("more", "seconds", "lines"),
    [
        ("", UNANSWERED_SECONDS_MIN, 1),
        ("", UNANSWERED_SECONDS_MIN - 0.01, 0),
        ("&bypass_cache=true", UNANSWERED_SECONDS_MIN, 0),
        (f"&token_sha256_to_refresh={'a' * 64}", UNANSWERED_SECONDS_MIN, 0),
    ],
    ids=["waited", "left-at-once", "refreshes", "reports-a-rejected-token"],
)
async def test_a_client_that_disconnects_is_recorded_if_it_waited_for_its_first_token(
    more: str, seconds: float, lines: int
) -> None:
    waited = Waited(seconds)
    await waited.begin(request_bytes(f"{TARGET}{more}"))
    assert await waited.lines_after(waited.server.lane.connection_lost) == lines
    assert waited.requests.cancelled


async def test_the_line_names_the_pod_of_the_request_and_not_the_next_one_at_its_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waited = Waited()
    server = waited.server
    await waited.begin(ask("a"))
    server.index.put(server.peer, pod_entry(name="next").record)
    assert await waited.lines_after(server.lane.connection_lost) == 1
    assert [record.__dict__["pod"] for record in caplog.records] == ["shop/cart"]


@pytest.mark.parametrize("more", [b"", b"GET "], ids=["reported", "lost"])
async def test_a_peer_that_disconnects_ends_its_wait(server: ServerUnderTest, more: bytes) -> None:
    requests = Held(server)
    server.lane.data_received(ask("a") + more)
    await requests.wait_for("a")
    if not more:
        server.lane.peer_gone()
        await server.settle()
        assert server.connection.state == "finished"
    server.lane.connection_lost()
    await server.settle()
    assert requests.cancelled == ["a"]
    assert not server.connection.written
    server.token_service.respond = lambda _: grant(server.entry.record)
    assert (await server.ask(request_bytes())).status == 200, "the next request works"


@pytest.mark.parametrize("reported", [True, False])
async def test_a_connection_that_ends_before_its_task_begins_leaves_no_waiting_request(
    server: ServerUnderTest, *, reported: bool
) -> None:
    # A pod that repeats a request and disconnects must not keep its connections in memory until they expire.
    server.lane.data_received(request_bytes())
    assert len(server.waiting) == 1
    if reported:
        server.lane.peer_gone()
    server.lane.connection_lost()
    assert len(server.waiting) == 0
    await server.settle()
    assert server.token_service.requests == []


@pytest.mark.parametrize(
    ("version", "field", "connection", "state"),
    [
        ("HTTP/1.1", "A: b", None, "idle"),
        ("HTTP/1.1", "Connection: Close", "close", "finished"),
        ("HTTP/1.1", "Connection: keep-alive, close", "close", "finished"),
        ("HTTP/1.1", "Connection: a\r\nConnection: close", "close", "finished"),
        ("HTTP/1.1", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA", None, "idle"),
        ("HTTP/1.0", "A: b", "close", "finished"),
        ("HTTP/1.0", "Connection: keep-alive", "keep-alive", "idle"),
    ],
)
@pytest.mark.parametrize("target", [f"{TOKEN_PATH}?resource=a", "/nothing", "/metadata/instance"])
async def test_the_connection_is_kept_alive_as_the_client_requests(
    target: str, version: str, field: str, connection: str | None, state: str
) -> None:
    server = ServerUnderTest()
    reply = await server.ask(request_bytes(target, headers=("Metadata: true", field), version=version))
    assert reply.headers.get("connection") == connection
    assert server.connection.state == state


async def test_nothing_is_answered_after_the_last_answer(server: ServerUnderTest) -> None:
    server.lane.data_received(request_bytes("/nothing", headers=("Connection: close",)) + request_bytes())
    server.lane.data_received(request_bytes())
    await server.settle()
    assert len(server.replies()) == 1
    assert server.token_service.requests == []


async def test_a_malformed_request_is_answered_in_order_and_ends_the_connection(server: ServerUnderTest) -> None:
    server.lane.data_received(ask("a") + b"GET /a HTTP/1.1\r\nHost : h\r\n\r\n" + ask("b"))
    await server.settle()
    received = server.replies()
    assert [reply.status for reply in received] == [200, 400]
    assert received[1].headers["connection"] == "close"
    assert server.connection.state == "finished"
    assert len(server.token_service.requests) == 1


async def test_an_answer_to_head_has_no_body_so_that_the_next_answer_is_parsed(server: ServerUnderTest) -> None:
    server.lane.data_received(request_bytes(method="HEAD"))
    server.lane.data_received(request_bytes("/nothing"))
    head, _, rest = bytes(server.connection.written).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0]) > 0
    assert [reply.status for reply in replies(rest)] == [404]


async def test_a_connection_ends_after_a_stream_if_reading_has_stopped_in_the_meantime() -> None:
    # It would stay paused otherwise, without a deadline: the rest of the next request is never read.
    server = ServerUnderTest(ServerPolicy(pipeline_seconds=0.01))
    begun, release = asyncio.Event(), asyncio.Event()

    class Proxy(FakeProxy):
        @override
        async def forward(
            self, charged: Charged, request: Request, destination: Destination, stream: Stream
        ) -> StreamedResponse:
            response = StreamedResponse(200, 4, "text/plain", ())
            stream.begin(response)
            begun.set()
            await release.wait()
            stream.send(b"data")
            return response

    server.handlers._proxied._proxy = Proxy()
    server.lane.data_received(request_bytes("/metadata/instance") + b"GET /part")
    await begun.wait()
    await until(lambda: server.connection.state == "held")
    release.set()
    await server.settle()
    [reply] = server.replies()
    assert (reply.status, reply.body) == (200, b"data")
    assert server.connection.state == "finished"


class Waiting:
    def __init__(self) -> None:
        self.expired = asyncio.Event()

    def expire(self) -> None:
        assert not self.expired.is_set(), "expired twice"
        self.expired.set()


async def test_requests_expire_in_the_order_in_which_they_began_to_wait_and_others_can_wait_again() -> None:
    waiting, first, finished, second, again = WaitingRequests(0.05), Waiting(), Waiting(), Waiting(), Waiting()
    waiting.add(first)
    waiting.add(finished)
    await asyncio.sleep(0.03)
    waiting.add(second)
    waiting.discard(finished)
    waiting.discard(finished)
    await first.expired.wait()
    assert not second.expired.is_set()
    await second.expired.wait()
    assert not finished.expired.is_set()
    assert len(waiting) == 0
    waiting.add(again)
    await again.expired.wait()


async def test_all_waiting_requests_expire_at_the_end_of_a_drain_once_and_none_after_the_timer_is_stopped() -> None:
    waiting, requests, last = WaitingRequests(0.02), [Waiting() for _ in range(3)], Waiting()
    for request in requests:
        waiting.add(request)
    waiting.expire_all()
    assert all(request.expired.is_set() for request in requests)
    waiting.expire_all()
    await asyncio.sleep(0.04)
    assert len(waiting) == 0
    waiting.add(last)
    waiting.close()
    waiting.close()
    await asyncio.sleep(0.04)
    assert not last.expired.is_set()


async def test_a_peer_that_goes_as_its_request_expires_gets_nothing(server: ServerUnderTest) -> None:
    server.token_service.respond = never
    server.lane.data_received(request_bytes())
    await asyncio.sleep(0)
    server.lane.expire()
    server.lane.peer_gone()
    await server.settle()
    assert server.connection.written == b""
    assert len(server.waiting) == 0


async def test_a_request_on_a_connection_whose_last_one_expired_has_its_own_time() -> None:
    server = ServerUnderTest(ServerPolicy(response_seconds=0.01))
    good, server.token_service.respond = server.token_service.respond, never
    server.lane.data_received(request_bytes())
    await server.settle()
    server.token_service.respond = good
    server.lane.data_received(request_bytes())
    await server.settle()
    assert [reply.status for reply in server.replies()] == [503, 200]
    assert server.limits() == {Limit.ANSWER: 1}
