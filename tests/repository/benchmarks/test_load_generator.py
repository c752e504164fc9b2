"""The load generator counts each whole response once, and everything else as an error of its kind.

A client gives up after 300 consecutive failures, and the generator ends with its last client. The servers here answer a
few requests and fail all others, so that no count depends on the speed of the machine. Times are in a histogram.
"""

import asyncio
import json
import os
import re
import signal
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load import generator
from benchmarks.load.generator import GeneratorError, Group, Latency, Load, Measured, Request
from benchmarks.load.requests import azidentity_go, plain

pytestmark = pytest.mark.tools  # a C compiler

GOOD = 8
"""Requests of a group that are answered before the server fails all others."""
TRIES = 300
"""Consecutive failures after which a client gives up: TRIES_MAX of generator.c."""
SECONDS = 50.0
"""Limit of a run that ends earlier."""
HEAD = b"HTTP/1.1 200 OK\r\n"
OK = HEAD + b"Content-Type: text/plain\r\nContent-Length: 1700\r\n\r\n" + b"x" * 1700
LARGE = HEAD + b"Content-Length: 1000000\r\n\r\n" + bytes(1_000_000)
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def writing(response: bytes, *, close: bool = False) -> Answer:
    """Return a handler that writes *response*, which may be incomplete, and can *close* the connection."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        await writer.drain()
        if close:
            writer.close()

    return answer


async def in_parts(writer: asyncio.StreamWriter) -> None:
    for at in range(0, len(OK), 7):
        writer.write(OK[at : at + 7])
        await asyncio.sleep(0)


async def reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


WHOLE, NO_RESPONSE = writing(OK), writing(b"", close=True)


@dataclass
class Clients:
    """The clients of a group and what the server does for them."""

    good: Answer = WHOLE
    wrong: Answer = NO_RESPONSE
    requests: tuple[Request, ...] = (azidentity_go(),)
    connections: int = 1
    sources: int = 1
    close: bool = False
    peers: list[str] = field(default_factory=list)
    """The address of each connection."""
    heads: list[bytes] = field(default_factory=list)
    """Each request."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(writer.get_extra_info("peername")[0])
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                await (self.good if len(self.heads) <= GOOD else self.wrong)(writer)
                if b"Connection: close\r\n" in head:
                    break
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def serving(groups: Mapping[str, Clients]) -> AsyncIterator[int]:
    """Serve the clients of *groups*, whose addresses are 127.1.N.0/24 for the group N, and yield the port."""
    clients, writers = list(groups.values()), []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        number = writer.get_extra_info("peername")[0].split(".")[2]
        await clients[int(number)].serve(reader, writer)

    async with await asyncio.start_server(connected, "127.0.0.1", backlog=1024) as server:
        yield server.sockets[0].getsockname()[1]
        server.close()
        for writer in writers:
            writer.transport.abort()


def group_of(number: int, name: str, clients: Clients) -> Group:
    return Group(name, clients.connections, f"127.1.{number}.1", clients.sources, clients.requests, close=clients.close)


async def results_of(groups: Mapping[str, Clients], *, warm: bool = False) -> dict[str, Measured]:
    """Run all *groups* until their clients have given up, in the warm-up or after it."""
    seconds, warm_seconds = (1.0, SECONDS) if warm else (SECONDS, 0.0)
    wanted = [group_of(number, *group) for number, group in enumerate(groups.items())]
    async with serving(groups) as port:
        run = await asyncio.to_thread(generator.run, "127.0.0.1", port, wanted, seconds, warm_seconds=warm_seconds)
        return run.groups


WRONG: dict[str, tuple[str, Answer]] = {
    "a byte more than its length": ("excess", writing(OK + b"x")),
    "two answers": ("excess", writing(OK + OK)),
    "cut within its body": ("short", writing(OK[:-1], close=True)),
    "cut within its head": ("short", writing(OK[:20], close=True)),
    "closed without a response": ("closed", NO_RESPONSE),
    "reset": ("reset", reset),
    "no length": ("framing", writing(HEAD + b"\r\n", close=True)),
    "chunked": ("framing", writing(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
    "two lengths": ("framing", writing(HEAD + b"Content-Length: 0\r\n" * 2 + b"\r\n")),
    "a length that is no number": ("framing", writing(HEAD + b"Content-Length: 1x\r\n\r\n")),
    "an empty length": ("framing", writing(HEAD + b"Content-Length: \r\n\r\n")),
    "HTTP/1.0": ("framing", writing(OK.replace(b"1.1", b"1.0", 1))),
    "a status of letters": ("framing", writing(OK.replace(b"200", b"2OO", 1))),
    "bare line feeds": ("framing", writing(OK.replace(b"\r\n", b"\n"))),
    "a head without end": ("framing", writing(HEAD + b"X: " + b"x" * 5000)),
}


def right() -> dict[str, Clients]:
    """Return groups whose first responses are whole."""
    with_id = plain().text.replace(b" HTTP/1.1", b"&client_id=0123456789abcdef HTTP/1.1")
    both = Request(with_id, (with_id.index(b"0123456789abcdef"),))
    return {
        "kept": Clients(),
        "connection per request": Clients(close=True),
        "in parts": Clients(good=in_parts),
        "larger than one read": Clients(good=writing(LARGE)),
        "another status": Clients(good=writing(b"HTTP/1.1 404 Not Found\r\ncontent-length:2\r\n\r\n{}")),
        "in rotation": Clients(requests=(plain(), both, azidentity_go())),
        "from five addresses": Clients(connections=2, sources=5),
        "closed by the server": Clients(good=writing(OK, close=True)),
    }


RIGHT = right()
SERVED = RIGHT | {name: Clients(wrong=response) for name, (_, response) in WRONG.items()}
"""The clients of all groups as the server sees them."""


@pytest.fixture(scope="module")
def runs() -> dict[str, Measured]:
    """Results by group of two runs, after all clients have given up."""
    wrong = {name: SERVED[name] for name in WRONG}
    return asyncio.run(results_of(RIGHT)) | asyncio.run(results_of(wrong))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_response_is_counted_by_its_kind_and_not_as_a_response(runs: dict[str, Measured], wrong: str) -> None:
    measured = runs[wrong]
    assert measured.statuses == {200: GOOD}
    assert measured.requests == measured.latency.count == GOOD
    assert measured.errors == {WRONG[wrong][0]: TRIES, "given_up": 1}


@pytest.mark.parametrize("name", [name for name in right() if name != "closed by the server"])
def test_each_whole_response_is_counted_once_with_its_status(runs: dict[str, Measured], name: str) -> None:
    measured, connections = runs[name], SERVED[name].connections
    assert measured.statuses == {404 if name == "another status" else 200: GOOD}
    assert measured.errors == {"closed": TRIES * connections, "given_up": connections}
    assert measured.rps() == GOOD / measured.seconds


def test_a_server_without_keep_alive_is_detected(runs: dict[str, Measured]) -> None:
    measured = runs["closed by the server"]
    assert measured.statuses == {200: GOOD}
    # Which of the two it is depends on whether the next request has been sent.
    assert measured.errors.get("closed", 0) + measured.errors.get("reset", 0) == GOOD - 1 + TRIES


async def test_the_warm_up_is_not_counted() -> None:
    generator.built()
    for measured in (await results_of({"kept": Clients(), "closed": Clients(close=True)}, warm=True)).values():
        assert measured.statuses == {}
        assert measured.errors == {"given_up": 1}, "seen although nothing was counted"
        assert measured.seconds == measured.rps() == 0


def test_refused_connections_are_counted() -> None:
    with socket.socket() as closed_port:
        closed_port.bind(("127.0.0.1", 0))  # and does not listen
        group = Group("one", 2, "127.1.0.1", 1, (plain(),))
        run = generator.run("127.0.0.1", closed_port.getsockname()[1], [group], SECONDS, warm_seconds=0)
    assert run.groups["one"].errors == {"connect": 2 * TRIES, "given_up": 2}


@pytest.mark.usefixtures("runs")
def test_a_connection_per_request_has_only_one_request() -> None:
    closed, kept = SERVED["connection per request"], SERVED["kept"]
    assert len(closed.peers) == len(closed.heads) == GOOD + TRIES
    assert len(kept.peers) == len(kept.heads) - GOOD, "opened again after each failure only"


@pytest.mark.usefixtures("runs")
def test_all_source_addresses_and_requests_are_used_in_turn() -> None:
    peers = Counter(SERVED["from five addresses"].peers)
    assert peers == {f"127.1.6.{number}": 2 * TRIES // 5 for number in range(1, 6)}
    rotating = SERVED["in rotation"]
    lengths = [len(request.text) for request in rotating.requests]
    assert [len(head) for head in rotating.heads] == [lengths[number % 3] for number in range(GOOD + TRIES)]


@pytest.mark.usefixtures("runs")
def test_ids_are_unique_over_positions_groups_and_runs() -> None:
    heads = [head for clients in SERVED.values() for head in clients.heads if b"client-request-id" in head.lower()]
    heads += [head for head in SERVED["in rotation"].heads if b"client_id" in head]
    matches = [re.search(rb"[0-9a-f]{4}-[0-9a-f]{12}\r|client_id=[0-9a-f]{16} ", head) for head in heads]
    seen = {re.sub(rb"client_id=|[^0-9a-f]", b"", match[0]) for match in matches if match}
    assert len(seen) == len(heads) > 1000
    assert {len(text) for text in seen} == {16}


async def test_a_stall_counts_for_all_requests_that_were_due() -> None:
    """An open loop: request k is due at k / rate, whatever the server does."""
    delays = iter([0.5])

    async def first_late(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(next(delays, 0))
        writer.write(OK)

    async def nothing(_: asyncio.StreamWriter) -> None:
        pass

    wanted = [Group("stalled", 1, "127.1.0.1", 1, (plain(),), rate=400)]
    wanted += [Group("silent", 1, "127.1.1.1", 1, (plain(),), rate=100)]
    groups = {"stalled": Clients(good=first_late, wrong=WHOLE), "silent": Clients(good=nothing, wrong=nothing)}
    async with serving(groups) as port:
        run = await asyncio.to_thread(generator.run, "127.0.0.1", port, wanted, 1.0, warm_seconds=0)
    measured, unanswered = run.groups["stalled"], run.groups["silent"]
    assert measured.requests + measured.errors.get("unanswered", 0) == 400
    # Due every 2.5 ms: the 80 of the first 200 ms waited for the other 300.
    assert measured.latency.above(295_000) + measured.errors.get("unanswered", 0) >= 80
    assert unanswered.errors == {"unanswered": 100}
    assert (unanswered.requests, unanswered.rps()) == (0, 0)
    with pytest.raises(ValueError, match="nothing was measured"):
        unanswered.latency.quantile(0.5)


async def until_requests(clients: Clients, number: int) -> None:
    """Wait until the server has *number* requests."""
    while len(clients.heads) < number:
        await asyncio.sleep(0.01)


async def test_a_delayed_generator_reports_it() -> None:
    clients = Clients(wrong=WHOLE)
    group = Group("one", 64, "127.1.0.1", 1, (plain(),), rate=200)
    async with AsyncExitStack() as server:
        port = await server.enter_async_context(serving({"one": clients}))
        with await started(port, group) as load:
            await until_requests(clients, 128)  # each connection has had a response, and is free
            load._process.send_signal(signal.SIGSTOP)
            await asyncio.to_thread(os.waitid, os.P_PID, load._process.pid, os.WSTOPPED | os.WNOWAIT)
            await asyncio.sleep(0.5)
            load._process.send_signal(signal.SIGCONT)
            await until_requests(clients, len(clients.heads) + 100)
            await server.aclose()  # so that the clients give up
            measured = (await asyncio.to_thread(load.wait)).groups["one"]
    # Due every 5 ms: the 40 of the first 200 ms waited for the other 300.
    assert measured.behind.above(295_000) >= 36
    assert measured.latency.max_us >= measured.behind.max_us


async def started(port: int, group: Group, core: int | None = None) -> Load:
    return await asyncio.to_thread(generator.start, "127.0.0.1", port, [group], SECONDS, core=core, warm_seconds=0)


async def test_the_generator_runs_on_the_given_core_and_ends_with_its_context_or_without_a_result() -> None:
    core, clients = max(os.sched_getaffinity(0)), Clients(wrong=WHOLE)
    async with serving({"one": clients}) as port:
        with await started(port, group_of(0, "one", clients), core) as load:
            await until_requests(clients, 1)
            assert os.sched_getaffinity(load._process.pid) == {core}
        assert load._process.returncode is not None
        with await started(port, group_of(0, "one", clients)) as load:
            await asyncio.to_thread(load.counting)
            load._process.kill()
            with pytest.raises(GeneratorError, match="status -9"):
                await asyncio.to_thread(load.wait)


COMPILE = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
HARNESS = """
#include "times.h"
int main(void) {
    static struct times times;
    for (long long ns; scanf("%lld", &ns) == 1;)
        count_time(&times, ns);
    print_times(&times);
}
"""
Counted = Callable[[list[int]], Latency]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Counted:
    """The buckets that the C code uses for durations."""
    folder = tmp_path_factory.mktemp("times")
    (folder / "harness.c").write_text(HARNESS)
    subprocess.run([*COMPILE, "-I", generator.HERE, "-o", folder / "harness", folder / "harness.c"], check=True)

    def count(times: list[int]) -> Latency:
        done = subprocess.run([folder / "harness"], input="\n".join(map(str, times)).encode(), stdout=-1, check=True)
        return generator._latency(json.loads(done.stdout))

    return count


times_ns = st.integers(0, 60_000_000_000) | st.integers(0, 1000) | st.integers(0, 35).map(lambda bits: 1 << bits)


@given(times=st.lists(times_ns, min_size=1, max_size=60), share=st.floats(0, 1))
def test_quantiles_are_those_of_the_times(counted: Counted, times: list[int], share: float) -> None:
    latency = counted(times)
    assert latency.count == len(times)
    assert latency.max_us == max(times) / 1e3
    rank = max(-int(-(share * len(times)) // 1), 1)
    exact = sorted(times)[rank - 1] / 1e3
    assert latency.quantile(share) == pytest.approx(exact, rel=0.004, abs=0.001)
    assert latency.quantile(1) <= latency.max_us


@given(times=st.lists(times_ns, max_size=60), limit=times_ns)
def test_the_count_above_a_bound_excludes_close_values(counted: Counted, times: list[int], limit: int) -> None:
    count = counted(times).above(limit / 1e3)
    assert sum(ns > limit * 1.004 + 1 for ns in times) <= count <= sum(ns > limit * 0.996 - 1 for ns in times)


def test_times_out_of_range_are_counted_at_its_ends(counted: Counted) -> None:
    beyond = counted([-5, 10**12])
    assert (beyond.buckets[0], beyond.count, beyond.max_us) == ((0, 1), 2, 1e9)
