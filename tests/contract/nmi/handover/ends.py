"""A predecessor with a recording service, and successors that connect to it, in one process."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from typing_extensions import override

from nmi.handover.channel import Channel
from nmi.handover.messages import VERSIONS, Hello, SocketName
from nmi.handover.metrics import HandoverMetrics
from nmi.handover.predecessor import Predecessor
from nmi.handover.protocol import Role
from nmi.handover.socket_path import connect_to
from nmi.handover.successor import Successor, meet
from tests.support.waiting import until

SECONDS = 10.0


def hello(*versions: int) -> Hello:
    ports: dict[str, Any] = {"listen_port": 1, "probe_port": 2, "metrics_port": 3}
    return Hello(versions=versions or VERSIONS, release="next", listen_address="127.0.0.1", **ports)


class FakeConnections:
    """The connections of a server: some idle ones, and adopted ones."""

    def __init__(self) -> None:
        self.idle: list[int] = []
        self.adopted: list[int] = []

    def connect(self, count: int) -> list[socket.socket]:
        """Return the peers of *count* new idle connections."""
        pairs = [socket.socketpair() for _ in range(count)]
        self.idle += [ours.detach() for ours, _ in pairs]
        return [theirs for _, theirs in pairs]

    def check_adopted(self, peers: list[socket.socket]) -> None:
        """Test that the adopted connections are those of *peers*, and close these."""
        for descriptor, peer in zip(self.adopted, peers, strict=True):
            os.write(descriptor, b"x")
            with peer:
                assert peer.recv(1) == b"x"

    def release_idle(self, most: int) -> list[int]:
        released, self.idle = self.idle[:most], self.idle[most:]
        return released

    def adopt(self, descriptor: int) -> None:
        self.adopted.append(descriptor)

    def close(self) -> None:
        for descriptor in (*self.idle, *self.adopted):
            os.close(descriptor)


class FakeService(FakeConnections):
    """A service with one listener, which records the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.packets: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))

    def shared(self, hello: Hello) -> tuple[SocketName, ...]:
        return ("listener",)

    def tokens(self) -> Iterator[bytes]:
        assert "pause" not in self.calls, "the predecessor still serves"
        return iter(self.packets)

    async def pause(self, shared: Sequence[SocketName]) -> list[tuple[SocketName, socket.socket]]:
        self.calls.append("pause")
        return [("listener", self.listener.dup())]

    async def resume(self) -> None:
        self.calls.append("resume")

    def retire(self) -> None:
        self.calls.append("retire")

    @override
    def close(self) -> None:
        super().close()
        self.listener.close()


class Ends:
    """A predecessor that listens, and successors that connect to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.service = FakeService()
        self.registry = CollectorRegistry()
        self.metrics = HandoverMetrics(self.registry)
        self.predecessor = Predecessor(path, self.service, self.metrics)
        self.successors = CollectorRegistry()
        self._of_successors = HandoverMetrics(self.successors)

    async def meet(self, *versions: int) -> Successor:
        met = await meet(self.path, hello(*versions), self._of_successors)
        assert met is not None
        return met

    async def retired(self, *versions: int) -> Successor:
        """Return a successor that serves."""
        successor = await self.meet(*versions)
        for _, sock in await successor.take():
            sock.close()
        await successor.confirm()
        return successor

    async def connect(self) -> Channel:
        sock = await asyncio.to_thread(connect_to, self.path)
        assert sock is not None
        return Channel(sock, Role.SUCCESSOR)

    def count(self, outcome: str) -> float | None:
        return self.registry.get_sample_value(
            "aadpodidentity_nmi_handovers_total", {"role": "predecessor", "outcome": outcome}
        )

    async def until(self, *calls: str) -> None:
        """Wait for the calls of the service; after the last one, until the predecessor listens again."""
        await until(lambda: self.service.calls, "calls of the service", holds=list(calls).__eq__)
        if calls[-1] == "resume":
            await until(lambda: asyncio.to_thread(self.path.exists), "the predecessor listens")


@asynccontextmanager
async def listening(path: Path) -> AsyncIterator[Ends]:
    """Run a predecessor. After an hour of virtual time, what the test waits for does not happen."""
    ends = Ends(path)
    running = asyncio.create_task(ends.predecessor.run())
    await until(lambda: asyncio.to_thread(path.exists))
    try:
        async with asyncio.timeout(3600):
            yield ends
    finally:
        running.cancel()
        await asyncio.wait([running])
        ends.service.close()
