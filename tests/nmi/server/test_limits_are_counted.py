"""Each limit that is reached is counted under its name. Excluded: the lane's counters (tests/native)."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from nmi.refusal import Limit, Reason, Refusal
from nmi.server.metrics import ServerMetrics
from nmi.server.policy import ServerPolicy, Sizes
from tests.nmi.server.fakes import TOKEN_PATH, ServerUnderTest, request_bytes

START = b"GET / HTTP/1.1\r\nHost: a\r\n"
TIGHT = Sizes(head_bytes=300, fields=4, target_bytes=100, body_bytes=10, answered_bytes=100, pipelined_bytes=100)


def bitten(server: ServerUnderTest) -> dict[Limit, int]:
    return {limit: count for limit, count in server.measures.limits_hit().items() if count}


@pytest.mark.parametrize(
    ("limit", "over", "at_it", "status"),
    [
        (Limit.HEAD_BYTES, START + b"A: " + b"x" * 300, START + b"A: " + b"x" * 50 + b"\r\n\r\n", 431),
        (Limit.HEAD_BYTES, START + b"A: " + b"x" * 300 + b"\r\n\r\n", START + b"\r\n", 431),
        (Limit.HEADER_FIELDS, START + b"A: b\r\n" * 4 + b"\r\n", START + b"A: b\r\n" * 3 + b"\r\n", 431),
        (Limit.TARGET_BYTES, request_bytes("/" + "x" * 100), request_bytes("/" + "x" * 99), 431),
        (Limit.TARGET_BYTES, b"GET /" + b"x" * 200, request_bytes("/"), 431),
        (
            Limit.BODY_BYTES,
            START + b"Content-Length: 11\r\n\r\n",
            START + b"Content-Length: 10\r\n\r\n" + b"x" * 10,
            413,
        ),
        (
            Limit.BODY_BYTES,
            START + b"Transfer-Encoding: chunked\r\n\r\nb\r\n" + b"x" * 11,
            START + b"Transfer-Encoding: chunked\r\n\r\na\r\n" + b"x" * 10 + b"\r\n0\r\n\r\n",
            413,
        ),
    ],
)
async def test_a_size_limit_is_counted_when_it_is_exceeded_and_not_when_it_is_reached(
    limit: Limit, over: bytes, at_it: bytes, status: int
) -> None:
    server = ServerUnderTest(ServerPolicy(sizes=TIGHT))
    assert (await server.ask(at_it)).status == 404
    assert bitten(server) == {}
    assert (await server.ask(over)).status == status
    assert bitten(server) == {limit: 1}


async def test_too_many_parameters_are_counted(server: ServerUnderTest) -> None:
    many = "&".join(f"p{n}=1" for n in range(40))

    assert (await server.ask(request_bytes(f"{TOKEN_PATH}?resource=r&{many}"))).status == 400
    assert bitten(server) == {Limit.PARAMETERS: 1}


async def test_a_connection_that_ends_because_of_pipelined_data_is_counted_once() -> None:
    server = ServerUnderTest(ServerPolicy(sizes=TIGHT, pipeline_seconds=0.01))
    release = asyncio.Event()

    async def hold(_: object) -> Refusal:
        await release.wait()
        return Refusal(Reason.UNKNOWN_ADDRESS, "No.")

    server.issuer.answer = hold
    server.lane.data_received(request_bytes("/metadata/identity/oauth2/token?resource=r") + b"GET /")
    await asyncio.sleep(0)
    server.lane.data_received(b"x" * 200)
    await asyncio.sleep(0.03)
    release.set()
    await server.settle()

    assert bitten(server) == {Limit.PIPELINE: 1}
    assert server.connection.state == "finished"


async def test_unread_answers_are_limited_and_counted() -> None:
    server = ServerUnderTest(ServerPolicy(sizes=TIGHT))
    server.lane.data_received(request_bytes("/nothing") * 5)

    assert bitten(server) == {Limit.PIPELINE: 1}


async def test_an_answer_that_takes_too_long_is_counted() -> None:
    server = ServerUnderTest(ServerPolicy(answer_seconds=0.01))

    async def never(_: object) -> Refusal:
        await asyncio.Event().wait()
        raise AssertionError

    server.issuer.answer = never
    assert (await server.ask(request_bytes())).status == 503
    assert bitten(server) == {Limit.ANSWER: 1}


async def test_a_limit_that_the_issuer_names_is_counted(server: ServerUnderTest) -> None:
    server.issuer.answer = lambda _: Refusal(Reason.OVERLOADED, "No.", limit=Limit.GOVERNOR_QUEUE)
    await server.ask(request_bytes())

    assert bitten(server) == {Limit.GOVERNOR_QUEUE: 1}


def test_the_lanes_limits_are_included_and_each_limit_has_a_series_from_the_start() -> None:
    registry = CollectorRegistry()
    measures = ServerMetrics(registry)
    counts = {
        "refused_total": 1,
        "refused_peer": 2,
        "evicted_idle": 3,
        "evicted_slow": 8,
        "timed_out": 22,
        "timed_out_first_byte": 4,
        "timed_out_head": 5,
        "timed_out_idle": 6,
        "timed_out_write": 7,
    }
    measures.watch(lane=lambda: counts, pending=int)
    text = generate_latest(registry).decode()

    named = zip(
        ("connections", "connections_per_peer", "idle_evicted", "first_byte", "head", "idle", "write", "slow_evicted"),
        (1, 2, 3, 4, 5, 6, 7, 8),
        strict=True,
    )
    for name, count in named:
        assert f'aadpodidentity_nmi_limits_hit_total{{limit="{name}"}} {count}.0' in text
    assert text.count("aadpodidentity_nmi_limits_hit_total{") == len(Limit)
    assert "lane_timed_out_first_byte" not in text, "said once"
