"""The load generator attributes delays correctly: to the server, to itself, or to the wait for a connection."""

import asyncio
import os
import signal
import socket
import time

import pytest

from benchmarks.load import generator
from benchmarks.load.requests import azidentity_go, curl, plain
from tests.benchmarks.load_server import OK, Server, always, group, measure, serving

pytestmark = pytest.mark.measures


async def test_a_stall_counts_for_all_requests_that_were_due() -> None:
    def answer(_server: Server, number: int, writer: asyncio.StreamWriter) -> None:
        if number == 400:
            time.sleep(0.5)  # the whole server stands still
        writer.write(OK)

    async with serving(answer) as server:
        measured = await measure(server, group(1, rate=400), seconds=3.0)
    assert measured.requests == 1200
    # Due every 2.5 ms: the 80 of the first 200 ms have waited for the other 300.
    assert measured.latency.above(295_000) >= 80
    assert measured.latency.quantile(0.99) > 295_000
    async with serving(answer) as server:
        measured = await measure(server, group(1), seconds=3.0)
    assert measured.requests > 400
    assert measured.latency.above(295_000) < 8
    assert measured.latency.max_us > 495_000


async def test_a_delayed_generator_reports_it() -> None:
    async def answer(_server: Server, _number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)  # so that responses arrive while the generator is stopped
        writer.write(OK)

    async with serving(answer) as server:
        load = await asyncio.to_thread(
            generator.start, "127.0.0.1", server.port, [group(64, rate=100)], 3.0, warm_seconds=0
        )
        with load:
            await asyncio.to_thread(load.counting)
            await asyncio.sleep(0.3)
            load._process.send_signal(signal.SIGSTOP)
            await asyncio.to_thread(os.waitid, os.P_PID, load._process.pid, os.WSTOPPED | os.WNOWAIT)
            await asyncio.sleep(0.5)
            load._process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.5)
            asyncio.get_running_loop().call_soon(time.sleep, 0.5)  # and now it is the server that is late
            measured = (await asyncio.to_thread(load.wait)).groups["one"]
    assert measured.requests == 300
    assert measured.behind.max_us > 485_000
    assert measured.behind.above(295_000) >= 18
    assert measured.latency.above(295_000) >= measured.behind.above(295_000) + 10


async def test_requests_that_an_overloaded_server_did_not_answer_are_counted_as_unanswered() -> None:
    async def answer(_server: Server, _number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(OK)

    async with serving(answer) as server:
        measured = await measure(server, group(2, rate=400), seconds=1.0)
    assert measured.requests + measured.errors["unanswered"] == 400
    assert measured.errors["unanswered"] > 300
    assert measured.requests == measured.statuses[200] < 85
    assert measured.seconds > 1.5, "answers came until a second after the end, and the rate is of that time"
    assert measured.latency.max_us > 1_000_000, "the last had been due long before a connection was free"
    assert measured.behind.quantile(0.5) < 50_000, "which was not the generator's doing"


async def test_a_slow_connection_sends_its_request_in_order() -> None:
    """The queue of this listener has one place: the second SYN is lost, and sent again after a second."""
    kinds = [plain(), curl(), azidentity_go()]
    with socket.socket() as slow:
        slow.bind(("127.0.0.1", 0))
        slow.listen(0)
        starting = asyncio.to_thread(
            generator.start, "127.0.0.1", slow.getsockname()[1], [group(2, *kinds, close=True)], 2.5, warm_seconds=0
        )
        with await starting as load:
            await asyncio.to_thread(load.counting)
            await asyncio.sleep(0.4)
            server = Server(always(OK))
            async with server.listening(slow):
                measured = (await asyncio.to_thread(load.wait)).groups["one"]
    assert [len(head) for head in server.heads[:3]] == [len(each.closing().text) for each in kinds]
    assert measured.statuses == {200: len(server.heads)}
    assert measured.errors == {}
    assert measured.latency.above(900_000) >= 1, "the wait for a connection is part of it"


async def test_a_server_that_never_answers_does_not_delay_the_end() -> None:
    begin = time.monotonic()
    async with serving(lambda *_: None) as server:
        measured = await measure(server, group())
    assert measured.errors == {"unanswered": 4}
    assert (measured.requests, measured.rps()) == (0, 0)
    with pytest.raises(ValueError, match="nothing was measured"):
        measured.latency.quantile(0.5)
    assert time.monotonic() - begin < 30
