"""Each limit on a request is applied in every split of its bytes, and each limit is counted under its name.

Excluded: limits of pipelined requests and of waiting (test_connections_in_order, test_waiting_requests), and the lane's
counters (tests/native).
"""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from nmi.refusal import Limit, Reason, Refusal
from nmi.server.metrics import ServerMetrics
from nmi.server.policy import ServerPolicy, Sizes
from tests.nmi.server.fakes import TOKEN_PATH, ServerUnderTest, request_bytes

START = b"GET / HTTP/1.1\r\nHost: a\r\n"
KNOWN = START + b"Content-Length: "
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
SIZES = Sizes(head_bytes=300, fields=4, target_bytes=100, body_bytes=64)
ROOM = SIZES.head_bytes - len(START + b"A: \r\n\r\n")


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7])
@pytest.mark.parametrize(
    ("limit", "over", "at_it", "status"),
    [
        (Limit.HEAD_BYTES, START + b"A: " + b"x" * 300, START + b"A: " + b"x" * ROOM + b"\r\n\r\n", 431),
        (Limit.HEAD_BYTES, START + b"A: " + b"x" * 300 + b"\r\n\r\n", START + b"\r\n", 431),
        (Limit.HEADER_FIELDS, START + b"A: b\r\n" * 4 + b"\r\n", START + b"A: b\r\n" * 3 + b"\r\n", 431),
        (Limit.TARGET_BYTES, request_bytes("/" + "x" * 100), request_bytes("/" + "x" * 99), 431),
        (Limit.TARGET_BYTES, b"GET /" + b"x" * 200, request_bytes("/"), 431),
        (Limit.BODY_BYTES, KNOWN + b"0" * 19 + b"\r\n\r\n", KNOWN + b"0" * 18 + b"\r\n\r\n", 413),
        (Limit.BODY_BYTES, CHUNKED + b"41\r\n", CHUNKED + b"40\r\n" + b"x" * 64 + b"\r\n0\r\n\r\n", 413),
        (Limit.BODY_BYTES, CHUNKED + b"ffffffff\r\n", CHUNKED + b"0\r\n\r\n", 413),
    ],
)
async def test_a_request_beyond_a_limit_is_refused_and_one_at_it_is_not(
    limit: Limit, over: bytes, at_it: bytes, status: int, step: int
) -> None:
    for data, expected, counted in ((at_it, 404, {}), (over, status, {limit: 1})):
        server = ServerUnderTest(ServerPolicy(sizes=SIZES))
        for at in range(0, len(data), step or len(data)):
            server.lane.data_received(data[at : at + (step or len(data))])
        (reply,) = server.replies()
        assert reply.status == expected
        assert server.limits() == counted


async def test_too_many_parameters_are_counted(server: ServerUnderTest) -> None:
    many = "&".join(f"p{n}=1" for n in range(40))
    assert (await server.ask(request_bytes(f"{TOKEN_PATH}?resource=r&{many}"))).status == 400
    assert server.limits() == {Limit.PARAMETERS: 1}


async def test_a_limit_that_the_issuer_names_is_counted(server: ServerUnderTest) -> None:
    server.issuer.answer = lambda _: Refusal(Reason.OVERLOADED, "No.", limit=Limit.GOVERNOR_QUEUE)
    await server.ask(request_bytes())
    assert server.limits() == {Limit.GOVERNOR_QUEUE: 1}


def test_the_lanes_limits_are_included_and_each_limit_has_a_series_from_the_start() -> None:
    counters = {
        "refused_total": "connections",
        "refused_peer": "connections_per_peer",
        "evicted_idle": "idle_evicted",
        "evicted_slow": "slow_evicted",
        "timed_out_first_byte": "first_byte",
        "timed_out_head": "head",
        "timed_out_idle": "idle",
        "timed_out_write": "write",
    }
    counts = {name: number for number, name in enumerate(counters, 1)}
    registry = CollectorRegistry()
    ServerMetrics(registry).watch(lane=lambda: {**counts, "timed_out": 22}, pending=int)
    text = generate_latest(registry).decode()
    for name, limit in counters.items():
        assert f'aadpodidentity_nmi_limits_hit_total{{limit="{limit}"}} {counts[name]}.0' in text
    assert text.count("aadpodidentity_nmi_limits_hit_total{") == len(Limit)
    assert "lane_timed_out_first_byte" not in text, "said once"
