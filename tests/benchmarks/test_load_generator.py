"""The load generator counts the responses of a small server, separately per group and status, and keeps its rate."""

import asyncio
import re
import time
from collections import Counter

import pytest

from benchmarks.load import generator
from benchmarks.load.generator import Request
from benchmarks.load.requests import azidentity_go, curl, plain
from tests.benchmarks.load_server import OK, Server, always, group, measure, run_load, serving

pytestmark = pytest.mark.measures


@pytest.mark.parametrize("close", [False, True])
async def test_every_answered_request_is_counted(close: bool) -> None:
    async with serving(always(OK)) as server:
        measured = await measure(server, group(close=close))
    assert measured.requests == len(server.heads) == measured.statuses[200] == measured.latency.count > 4
    assert measured.errors == {}
    assert len(server.peers) == (measured.requests if close else 4)
    assert 0.4 <= measured.seconds < 1.5
    assert measured.rps() == measured.requests / measured.seconds


async def test_a_closed_loop_accounts_for_all_of_its_time() -> None:
    """By Little's law: each connection waits for an answer at any time, so that latencies add up to all of it."""
    async with serving(always(OK)) as server:
        measured = await measure(server, group(8), seconds=1.0, warm=0.3)
    waited = sum(generator._middle_us(bucket) * count for bucket, count in measured.latency.buckets) / 1e6
    assert 0.9 < waited / (8 * measured.seconds) < 1.01


async def test_the_warm_up_is_not_counted() -> None:
    first = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
    begin = time.monotonic()

    def answer(_server: Server, _number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(OK if time.monotonic() - begin > 0.5 else first)

    async with serving(answer) as server:
        measured = await measure(server, group(), warm=1.5, seconds=0.3)
    assert list(measured.statuses) == [200]
    assert 0 < measured.requests < len(server.heads)


async def test_statuses_are_counted_separately() -> None:
    statuses = (200, 404, 200, 503)

    def answer(_server: Server, number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d Whatever\r\ncontent-length:2\r\n\r\n{}" % statuses[number % 4])

    async with serving(answer) as server:
        measured = await measure(server, group())
    assert measured.statuses == Counter(statuses[number % 4] for number in range(1, len(server.heads) + 1))
    assert measured.errors == {}


async def test_groups_run_concurrently_and_are_counted_separately() -> None:
    def answer(_server: Server, _number: int, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")[0]
        writer.write(OK if peer == "127.1.0.1" else b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")

    async with serving(answer) as server:
        noisy = group(8, name="noisy", source=("127.2.0.1", 1))
        run = await run_load(server, group(name="quiet", rate=100), noisy, seconds=1.0)
    assert run.groups["quiet"].statuses == {200: 100}
    assert list(run.groups["noisy"].statuses) == [429]
    assert run.groups["quiet"].requests + run.groups["noisy"].requests == len(server.heads)
    assert 0 < run.cpu_seconds <= run.seconds


@pytest.mark.parametrize("close", [False, True])
async def test_an_open_loop_keeps_its_rate(close: bool) -> None:
    async with serving(always(OK)) as server:
        measured = await measure(server, group(8, rate=250, close=close), seconds=2.0, warm=0.2)
    assert abs(measured.requests - 500) <= 1
    assert measured.errors == {}
    assert measured.behind.count == measured.requests


async def test_ids_are_unique_over_positions_groups_and_runs() -> None:
    named = curl("0123456789abcdef")
    both = Request(named.text, (named.text.index(b"0123456789abcdef"),))
    async with serving(always(OK)) as server:
        for _ in range(2):
            await run_load(server, group(3, azidentity_go(), both), group(3, azidentity_go(), name="two", close=True))
    ids = [re.search(rb"[0-9a-f]{4}-[0-9a-f]{12}\r|client_id=[0-9a-f]{16} ", head) for head in server.heads]
    seen = Counter(re.sub(rb"[^0-9a-f]", b"", found[0].replace(b"client_id=", b"")) for found in ids if found)
    assert len(seen) == len(server.heads) > 100
    assert {len(text) for text in seen} == {16}


async def test_requests_are_sent_in_rotation() -> None:
    kinds = [plain(), curl(), azidentity_go()]
    async with serving(always(OK)) as server:
        await run_load(server, group(1, *kinds))
    begins = [len(each.text) for each in kinds]
    assert [len(head) for head in server.heads] == [begins[number % 3] for number in range(len(server.heads))]


@pytest.mark.parametrize("close", [False, True])
async def test_an_answer_may_arrive_in_parts(close: bool) -> None:
    async def answer(_server: Server, _number: int, writer: asyncio.StreamWriter) -> None:
        for at in range(0, 90, 7):
            writer.write(OK[at : at + 7])
            await asyncio.sleep(0)
            await asyncio.sleep(0.002)
        writer.write(OK[91:])

    async with serving(answer) as server:
        measured = await measure(server, group(close=close))
    assert measured.statuses == {200: len(server.heads)}
    assert measured.errors == {}


@pytest.mark.parametrize("close", [False, True])
async def test_an_answer_may_be_larger_than_one_read(close: bool) -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    async with serving(always(large)) as server:
        measured = await measure(server, group(close=close))
    assert measured.statuses == {200: len(server.heads)}
    assert measured.errors == {}
