"""The memory of requests that are held because their pods have no assignment yet, or are not known yet, in the real
server and token service.

Excluded: the kernel's memory of their connections, and the number of connections
(tests/contract/native/test_lane_limits.py).
"""

import gc
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nmi.identity.lookup_wait import REQUEST_BYTES
from nmi.server.metrics import ServerMetrics
from nmi.server.policy import ServerPolicy
from nmi.server.server import Server
from tests.support.nmi.server.fakes import FakeProxy, request_bytes
from tests.support.nmi.server.limits import limits_with
from tests.support.nmi.token_service_bench import ServiceBench, running_token_service
from tests.support.nmi_objects import pod
from tests.support.waiting import until

PODS = 100
BYTES_MAX = 8_000
WARM = 10
"""Requests before the measurement, so that it contains no memory that all requests share."""
LONG = b"a" * 8_000
"""Without the end of its request, so that the general lane has read it and waits."""


def address(number: int) -> str:
    return f"127.79.0.{number + 1}"


@asynccontextmanager
async def serving(
    monkeypatch: pytest.MonkeyPatch, policy: ServerPolicy, *, pods_known: bool
) -> AsyncIterator[tuple[ServiceBench, Server, tuple[str, int]]]:
    """Run a server for PODS pods that have a label and no identity, or without *pods_known* for unknown ones."""

    async def find_nothing(_address: str) -> bool:
        return False

    async with running_token_service(park_seconds=86_400.0) as bench:
        # The API server of the test runs in this process: a read would use memory there.
        monkeypatch.setattr(bench.cluster.cluster_cache.ownership_reads, "find_owner", find_nothing)
        for number in range(PODS if pods_known else 0):
            bench.cluster.put_pod(pod(f"web-{number}", uid=f"uid-{number}", addresses=(address(number),)))
        await bench.cluster.seen(lambda: all(bench.cluster.at(address(n)) for n in range(PODS if pods_known else 0)))
        server = Server(
            limits=limits_with(),
            policy=policy,
            index=bench.cluster.index,
            token_service=bench.service,
            proxy=FakeProxy(),
            measures=ServerMetrics(),
        )
        with socket.create_server(("127.0.0.1", 0), backlog=PODS) as listener:
            listener.setblocking(False)
            await server.start(listener)
            try:
                yield bench, server, listener.getsockname()
            finally:
                await server.aclose()


def held(bench: ServiceBench) -> int:
    """Return the number of requests that wait, for a change of their pods or for their pods."""
    return bench.held_requests + bench.cluster.cluster_cache._address_waits.waiting


ORDINARY = request_bytes()
LONG_HEAD = request_bytes(headers=("Metadata: true", *(f"X-{number}: {'a' * 120}" for number in range(60))))
PIPELINED = request_bytes(headers=("Metadata: true", "Content-Length: 1"), body=b"x") + b"GET /a HTTP/1.1\r\nA: " + LONG
REQUESTS = {"ordinary": ORDINARY, "with a long head": LONG_HEAD, "and a part of another one": PIPELINED}


@pytest.mark.parametrize("data", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize(("pods_known", "most"), [(True, BYTES_MAX), (False, REQUEST_BYTES)], ids=["known", "unknown"])
async def test_a_held_request_uses_no_more_memory_than_it_counts_for(
    data: bytes, pods_known: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each unknown address has its own lookup: the most memory.
    def used() -> float:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / (PODS - WARM)

    policy = ServerPolicy(pipeline_seconds=0.05)
    clients = [socket.socket() for _ in range(PODS)]
    async with serving(monkeypatch, policy, pods_known=pods_known) as (bench, server, at):
        for number, client in enumerate(clients):
            client.bind((address(number), 0))
            client.connect(at)
        for client in clients[:WARM]:
            client.send(data)
        await until(lambda: held(bench) == WARM)
        gc.collect()
        tracemalloc.start()
        try:
            for client in clients[WARM:]:
                client.send(data)
            await until(lambda: held(bench) == PODS)
            memory = await until(used, "the server has discarded what it read", holds=lambda memory: memory <= most)
            assert memory >= 1_000
            assert held(bench) == PODS, "not because the requests have ended"
        finally:
            tracemalloc.stop()

        for client in clients:
            client.close()
        await until(lambda: held(bench) == 0)
        assert len(server.waiting) == 0
