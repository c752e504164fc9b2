"""The load generator's connections: source addresses, ports and descriptors, and connections that the server closes."""

import asyncio
import socket
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.load import generator
from tests.benchmarks.load_server import OK, Server, always, group, measure, run_load, serving
from tests.support.waiting import until

pytestmark = pytest.mark.measures


async def test_connections_use_all_source_addresses() -> None:
    five = [f"127.3.0.{255 + last}" if last < 1 else f"127.3.1.{last - 1}" for last in range(5)]
    async with serving(always(OK)) as server:
        await run_load(server, group(10, source=(five[0], 5)))
    assert Counter(server.peers) == dict.fromkeys(five, 2)
    async with serving(always(OK)) as server:
        await run_load(server, group(1, source=(five[0], 5), close=True))
    assert server.peers == [five[number % 5] for number in range(len(server.peers))]


def waiting_sides() -> Counter[str]:
    """Return the number of TIME_WAIT sockets per local address, in the kernel's format."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return Counter(row[1].partition(":")[0] for row in rows if row[3] == "06")


async def test_a_connection_per_request_does_not_exhaust_the_ports() -> None:
    """The side that closes first has TIME_WAIT: the server, though on loopback both sides are in the same table."""
    async with serving(always(OK)) as server:
        measured = await measure(server, group(4, source=("127.4.0.1", 1), close=True))
    assert measured.requests > 50
    assert waiting_sides()["0100047F"] <= 4, "the client's side waits, not only for the last connections"
    assert waiting_sides()["0100007F"] > 40


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def test_a_finished_connection_leaves_no_descriptor_open() -> None:
    async with serving(always(OK)) as server:
        load = await asyncio.to_thread(generator.start, "127.0.0.1", server.port, [group(close=True)], 50)
        with load:
            await until(lambda: len(server.heads) >= 200)
            assert descriptors(load._process.pid) <= 4 + 4, "connections, epoll and three pipes"


@pytest.mark.parametrize("close", [False, True])
async def test_refused_connections_are_counted_until_all_connections_give_up(close: bool) -> None:
    with socket.socket() as closed_port:
        closed_port.bind(("127.0.0.1", 0))  # and does not listen
        measured = await measure(closed_port.getsockname()[1], group(2, close=close), seconds=40)
        assert measured.errors == {"connect": 600, "given_up": 2}
        assert 2.9 < measured.seconds < 30
        measured = await measure(closed_port.getsockname()[1], group(2, close=close), warm=40)
    assert measured.errors == {"given_up": 2}, "seen even if nothing was counted"
    assert measured.seconds == measured.rps() == 0


async def test_a_server_that_returns_gets_requests_again() -> None:
    with socket.socket() as early:
        early.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        early.bind(("127.0.0.1", 0))
        load = await asyncio.to_thread(
            generator.start, "127.0.0.1", early.getsockname()[1], [group()], 1.5, warm_seconds=0
        )
        with load:
            await asyncio.to_thread(load.counting)
            await asyncio.sleep(0.2)
            server = Server(always(OK))
            async with server.listening(early):
                run = await asyncio.to_thread(load.wait)
    assert run.groups["one"].requests == len(server.heads) > 0
    assert run.groups["one"].errors.keys() == {"connect"}


async def test_a_thousand_concurrent_connections() -> None:
    async with serving(always(OK)) as server:
        measured = await measure(server, group(1000, source=("127.5.0.1", 250)), seconds=0.5, warm=0.5)
    assert len(server.peers) == 1000
    assert len(set(server.peers)) == 250
    assert measured.errors == {}


async def test_idle_connections_closed_by_the_server_are_opened_again() -> None:
    async def answer(_server: Server, number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        if number % 3 == 0 and number <= 75:
            await asyncio.sleep(0.01)
            writer.close()

    async with serving(answer) as server:
        measured = await measure(server, group(100, rate=50), seconds=3.0)
    # The next turn of a connection comes after two seconds; the last third of the requests causes no end, so that each
    # end is before that of the run.
    assert measured.statuses == {200: 150}
    assert measured.errors == {"closed": 25}
    assert len(server.peers) == 100 + 25
