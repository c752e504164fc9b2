"""The probe and metrics servers, with valid and invalid requests; their debug pages, which only loopback may read."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest
from prometheus_client import CollectorRegistry, Gauge

from podidentity.telemetry import probes
from podidentity.telemetry.probes import CONNECTIONS_MAX, CONNECTIONS_OF_ONE_PEER, HEAD_MAX, HttpEndpoints, PortInUse
from podidentity.telemetry.profile import Profiler

Open = Callable[..., Awaitable[HttpEndpoints]]


@pytest.fixture
async def endpoints() -> AsyncIterator[Open]:
    started: list[HttpEndpoints] = []

    async def start(host: str = "127.0.0.1", **options: object) -> HttpEndpoints:
        made = HttpEndpoints(host, 0, **options)  # type: ignore[arg-type]  # by name, as the test gives them
        await made.start()
        started.append(made)
        return made

    yield start
    for made in started:
        await made.stop()


async def ask(port: int, request: bytes, address: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(request)
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def get(port: int, path: str, address: str = "127.0.0.1") -> tuple[int, str]:
    response = await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), address)
    head, _, body = response.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body.decode()


async def closed(*connections: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    for _, writer in connections:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize("word", ["Active", "Not Active"])
async def test_healthz_is_200_whatever_it_reports(endpoints: Open, word: str) -> None:
    opened = await endpoints(healthz=lambda: word)
    assert await get(opened.port, "/healthz") == (200, word)


async def test_a_readiness_probe_may_ask_the_path_that_the_go_implementation_serves(endpoints: Open) -> None:
    ready = await endpoints(healthz=lambda: "Active", readyz=lambda: {"rule": None})
    assert (
        await get(ready.port, "/healthz?readiness") == await get(ready.port, "/readyz") == (200, "[+]rule ok\nready\n")
    )
    unready = await endpoints(healthz=lambda: "Active", readyz=lambda: {"rule": "missing"})
    assert (await get(unready.port, "/healthz?readiness"))[0] == 503
    for liveness in ("/healthz", "/healthz?", "/healthz?readiness=1", "/healthz?other"):
        assert await get(unready.port, liveness) == (200, "Active")


@pytest.mark.parametrize(
    ("checks", "answer"),
    [
        ({"watch": None, "rule": None}, (200, "[+]watch ok\n[+]rule ok\nready\n")),
        ({"watch": None, "rule": "missing"}, (503, "[+]watch ok\n[-]rule: missing\nnot ready\n")),
        ({}, (200, "ready\n")),
    ],
    ids=["all", "one-fails", "none"],
)
async def test_readyz_fails_with_its_checks(
    endpoints: Open, checks: Mapping[str, str | None], answer: tuple[int, str]
) -> None:
    opened = await endpoints(healthz=lambda: "Active", readyz=lambda: checks)
    assert await get(opened.port, "/readyz?verbose") == answer


async def test_readyz_appends_notes_to_their_checks_only(endpoints: Open) -> None:
    opened = await endpoints(
        readyz=lambda: {"watch": None, "rule": "missing"}, notes=lambda: {"rule": "by nft", "watch": "b", "other": "c"}
    )
    assert await get(opened.port, "/readyz") == (503, "[+]watch ok (b)\n[-]rule: missing (by nft)\nnot ready\n")


async def test_metrics_are_rendered_at_most_once_a_second(endpoints: Open) -> None:
    clock = [100.0]
    registry = CollectorRegistry()
    gauge = Gauge("g", "", registry=registry)
    opened = await endpoints(registry=registry, clock=lambda: clock[0])
    gauge.set(1)
    first = await get(opened.port, "/metrics")
    gauge.set(2)
    assert await get(opened.port, "/metrics") == first
    clock[0] += 1
    status, body = await get(opened.port, "/metrics")
    assert (status, body.splitlines()[-1]) == (200, "g 2.0")


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/readyz", "/healthz/", "/debug/pprof", "/debug/state", "/debug/profile"]
)
async def test_an_unknown_path_is_404(endpoints: Open, path: str) -> None:
    opened = await endpoints(healthz=lambda: "Active")
    assert (await get(opened.port, path))[0] == 404


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /healthz HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /healthz\r\n\r\n", b"400"),
        (b"\x16\x03\x01 hello\r\n\r\n", b"400"),
        (b"GET /healthz SPDY/3\r\n\r\n", b"400"),
    ],
)
async def test_other_requests_are_rejected(endpoints: Open, request_: bytes, status: bytes) -> None:
    opened = await endpoints(healthz=lambda: "Active")
    assert (await ask(opened.port, request_)).split(b" ")[1] == status


async def test_head_has_no_body(endpoints: Open) -> None:
    opened = await endpoints(healthz=lambda: "Active")
    response = await ask(opened.port, b"HEAD /healthz HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 6\r\n" in response
    assert response.endswith(b"\r\n\r\n")


async def test_an_endless_head_is_cut_off_and_a_long_one_is_not(endpoints: Open) -> None:
    opened = await endpoints(healthz=lambda: "Active")
    with contextlib.suppress(ConnectionError):  # if bytes are unread, the kernel sends a reset
        assert await ask(opened.port, b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 3 * HEAD_MAX) == b""
    response = await ask(opened.port, b"GET /healthz HTTP/1.1\r\nX: " + b"a" * (HEAD_MAX - 100) + b"\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 200")


async def test_a_silent_client_is_disconnected_and_others_are_served(endpoints: Open) -> None:
    opened = await endpoints(healthz=lambda: "Active", request_seconds=1.0)
    silent = asyncio.create_task(ask(opened.port, b"GET /hea"))
    assert (await get(opened.port, "/healthz"))[0] == 200
    with contextlib.suppress(ConnectionError):
        assert await silent == b""


async def test_a_client_that_holds_all_connections_does_not_block_probes(
    endpoints: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await endpoints(healthz=lambda: "Active", request_seconds=30)
    assert CONNECTIONS_MAX >= 4 * CONNECTIONS_OF_ONE_PEER
    monkeypatch.setattr(probes, "CONNECTIONS_MAX", CONNECTIONS_OF_ONE_PEER + 1)
    probe = await asyncio.open_connection("127.0.0.1", opened.port, local_addr=("127.0.0.9", 0))
    greedy = [await asyncio.open_connection("127.0.0.1", opened.port) for _ in range(3 * CONNECTIONS_OF_ONE_PEER)]
    assert (await get(opened.port, "/healthz"))[0] == 200
    greedy.append(await asyncio.open_connection("127.0.0.1", opened.port))
    others = await asyncio.open_connection("127.0.0.1", opened.port, local_addr=("127.0.0.8", 0))
    for reader, writer in (probe, others):
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
    await closed(probe, others, *greedy)


async def test_one_address_has_eight_connections(endpoints: Open) -> None:
    opened = await endpoints(healthz=lambda: "Active", request_seconds=30)
    eight = [await asyncio.open_connection("127.0.0.1", opened.port) for _ in range(8)]
    from_another_address = await asyncio.open_connection("127.0.0.1", opened.port, local_addr=("127.0.0.9", 0))
    ninth = await asyncio.open_connection("127.0.0.1", opened.port)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(eight[0][0].read(), 60) == b"", "the oldest makes room"
    for reader, writer in (*eight[1:], from_another_address, ninth):
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
    await closed(*eight, from_another_address, ninth)


async def test_a_check_that_raises_is_a_500_and_a_log_line(endpoints: Open, caplog: pytest.LogCaptureFixture) -> None:
    opened = await endpoints(healthz=lambda: str(1 / 0), readyz=dict)
    assert (await get(opened.port, "/healthz"))[0] == 500
    assert (await get(opened.port, "/readyz"))[0] == 200
    assert [record.getMessage() for record in caplog.records] == [
        "a probe or metrics page failed; report this as a bug"
    ]


async def test_a_port_in_use_names_the_flag_to_change(endpoints: Open) -> None:
    opened = await endpoints(healthz=lambda: "Active")
    second = HttpEndpoints("127.0.0.1", opened.port, flag="--http-probe-port")
    with pytest.raises(PortInUse, match=r"127\.0\.0\.1:\d+ is in use: choose another with --http-probe-port"):
        await second.start()
    await second.stop()


async def test_a_stopped_server_releases_its_port(endpoints: Open) -> None:
    opened = await endpoints(healthz=lambda: "Active")
    await opened.stop()
    await opened.stop()
    follower = HttpEndpoints("127.0.0.1", opened.port, healthz=lambda: "Active")
    await follower.start()
    assert (await get(follower.port, "/healthz"))[0] == 200
    await follower.stop()


def shown() -> Mapping[str, object]:
    return {"governor": {"waiting": 0}}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
async def test_the_state_is_served_on_loopback(endpoints: Open, address: str) -> None:
    opened = await endpoints("0.0.0.0", state=shown)
    status, body = await get(opened.port, "/debug/state", address)
    assert status == 200
    assert json.loads(body) == {"governor": {"waiting": 0}}


@pytest.mark.parametrize("path", ["/debug/state", "/debug/profile?seconds=1"])
async def test_the_state_is_not_served_to_another_address(
    endpoints: Open, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio.StreamWriter, "get_extra_info", lambda *_: ("10.1.2.3", 9))
    opened = await endpoints(state=shown, profile=Profiler().sample)
    status, body = await get(opened.port, path)
    assert status in {403, 404}
    assert "governor" not in body


def busy_by_this_name() -> None:
    for _ in range(20_000):
        pass


async def test_a_profile_names_the_functions_of_the_loop(endpoints: Open) -> None:
    opened = await endpoints(profile=Profiler().sample)
    profiling = asyncio.create_task(get(opened.port, "/debug/profile?seconds=1"))
    while not profiling.done():
        busy_by_this_name()
        await asyncio.sleep(0)
    status, body = await profiling
    assert status == 200
    assert "test_probes.busy_by_this_name" in body
    stack, _, count = body.splitlines()[0].rpartition(" ")
    assert ";" in stack
    assert int(count) > 0


async def test_a_client_that_disconnects_ends_its_profile(endpoints: Open) -> None:
    begun = asyncio.Event()

    async def sample(seconds: float) -> str:
        begun.set()
        return await Profiler().sample(seconds)

    opened = await endpoints(profile=sample)
    _, writer = await asyncio.open_connection("127.0.0.1", opened.port)
    writer.write(b"GET /debug/profile?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
    await begun.wait()
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(60):
        await opened.stop()
