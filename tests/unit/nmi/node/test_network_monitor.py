"""The network monitor, and ARP requests for pod addresses that the kernel does not know.

The monitor lists at its start and after lost reports, reads in portions, and gives up with a warning. Excluded: the
real sockets (test_network_of_a_node).
"""

import asyncio
import errno
import itertools
import logging
import os
import socket  # noqa: TID251 - a pair of sockets replaces netlink
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import pytest

from nmi.node import network_monitor
from nmi.node.neighbour_discovery import REQUESTS_MAX, NeighbourDiscovery
from nmi.node.network_monitor import READS, NetworkMonitor, NetworkSource, NetworkUpdate, RouteNetlinkSocket
from nmi.node.rtnetlink import DumpInterruptedError, Link, MalformedError, Message, Unresolved
from tests.support.virtual_time import now, settle
from tests.support.waiting import until


class Kernel:
    """A source whose reports the test makes, readable while there are any; and the receiver of them, in order."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self.present: list[Message] = [Link(1, "lo")]
        self.pending: list[NetworkUpdate | OSError] = []
        self.dumps = 0
        self.dump_failures: list[Exception] = []
        self.reads: list[float] = []
        self.endless: NetworkUpdate | None = None
        self.closed = False
        self.heard: list[tuple[str, list[Message]]] = []

    def network_changed(self, messages: Iterable[Message]) -> None:
        self.heard.append(("changed", list(messages)))

    def network_listed(self, messages: Iterable[Message]) -> None:
        self.heard.append(("listed", list(messages)))

    def report(self, update: NetworkUpdate | OSError) -> None:
        self.pending.append(update)
        self._writer.send(b"x")

    def flood(self, update: NetworkUpdate) -> None:
        """Return *update* from each read from now on."""
        self.endless = update
        self._writer.send(b"x")

    def filenos(self) -> Sequence[int]:
        return [self._reader.fileno()]

    def read(self) -> NetworkUpdate:
        self.reads.append(now())
        if self.endless is not None:
            return self.endless
        self._reader.recv(1)
        update = self.pending.pop(0)
        if isinstance(update, OSError):
            raise update
        return update

    def dump(self) -> list[Message]:
        self.dumps += 1
        if self.dump_failures:
            raise self.dump_failures.pop(0)
        return list(self.present)

    def close(self) -> None:
        self.closed = True
        self._reader.close()
        self._writer.close()


@asynccontextmanager
async def listening(kernel: Kernel) -> AsyncIterator[NetworkMonitor]:
    """Run a monitor, and yield it once the list is read, unless it has ended."""
    monitor = NetworkMonitor(make=lambda: kernel)
    task = asyncio.create_task(monitor.run(kernel))
    try:
        await until(lambda: kernel.heard or task.done())
        yield monitor
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert kernel.closed
        assert not monitor.listening


async def test_the_full_list_is_read_first_and_then_each_change_is_forwarded() -> None:
    kernel = Kernel()
    kernel.report(NetworkUpdate([Link(3, "early")]))
    async with listening(kernel) as monitor:
        await until(lambda: len(kernel.heard) == 2)
        assert kernel.heard == [("listed", [Link(1, "lo")]), ("changed", [Link(3, "early")])]
        assert monitor.listening
        assert monitor.dumps == 1


@pytest.mark.parametrize("with_messages", [True, False])
async def test_after_lost_reports_the_full_list_is_read_again(with_messages: bool) -> None:
    kernel = Kernel()
    async with listening(kernel) as monitor:
        kernel.present.append(Link(9, "new"))
        kernel.report(NetworkUpdate([Link(3, "last")] if with_messages else [], lost=True))
        await until(lambda: monitor.dumps == 2)
        assert kernel.heard[-1] == ("listed", [Link(1, "lo"), Link(9, "new")])
        kernel.report(NetworkUpdate([Link(4, "later")]))
        await until(lambda: kernel.heard[-1] == ("changed", [Link(4, "later")]))


async def test_endless_losses_cause_lists_at_a_limited_rate() -> None:
    kernel = Kernel()
    async with listening(kernel) as monitor:
        kernel.flood(NetworkUpdate([], lost=True))
        await asyncio.sleep(10 * network_monitor.DUMP_GAP_SECONDS)
        assert 10 <= monitor.dumps <= 12


@pytest.mark.parametrize("failure", [DumpInterruptedError("changed"), MalformedError("cut")])
async def test_an_interrupted_list_is_requested_again(failure: Exception) -> None:
    kernel = Kernel()
    kernel.dump_failures = [failure]
    async with listening(kernel) as monitor:
        assert monitor.dumps == 1
        assert kernel.heard == [("listed", [Link(1, "lo")])]
        assert kernel.dumps == 2


@pytest.mark.parametrize(
    ("update", "is_known"),
    [
        pytest.param(NetworkUpdate([Link(2, "flood")], more=True), True, id="more to read"),
        pytest.param(NetworkUpdate([Link(2, "flood")]), False, id="each read returns all reports"),
        pytest.param(
            NetworkUpdate([Link(2, "flood")] * (network_monitor.MESSAGES + 1)), True, id="many messages in few reads"
        ),
    ],
)
async def test_a_flood_is_read_in_parts_with_pauses(update: NetworkUpdate, is_known: bool) -> None:
    """A read costs more than its messages. *is_known*: the first read shows the flood already."""
    kernel = Kernel()
    async with listening(kernel):
        kernel.flood(update)
        await until(lambda: len(kernel.reads) > 60)
        windows = (kernel.reads[-1] - kernel.reads[0]) / network_monitor.WINDOW_SECONDS + 2
        assert len(kernel.reads) <= windows * (
            network_monitor.WAKES + network_monitor.WINDOW_SECONDS / network_monitor.REST_SECONDS
        )
        if is_known:
            pauses = [later - sooner for sooner, later in itertools.pairwise(kernel.reads)]
            assert min(pauses) == pytest.approx(network_monitor.REST_SECONDS)


async def test_changes_of_a_few_pods_are_read_immediately() -> None:
    kernel = Kernel()
    async with listening(kernel):
        begun = now()
        for number in range(network_monitor.WAKES):
            kernel.report(NetworkUpdate([Link(number, "veth")]))
        await settle(2 * network_monitor.WAKES)
        assert len(kernel.heard) == network_monitor.WAKES + 1
        assert now() == begun


async def test_without_netlink_one_warning_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def make() -> NetworkSource:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

    monitor, kernel = NetworkMonitor(make=make), Kernel()
    await monitor.run(kernel)
    kernel.close()
    assert not monitor.listening
    assert kernel.heard == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("where", ["read", "dump"])
async def test_a_socket_error_ends_the_monitor_with_one_warning(where: str, caplog: pytest.LogCaptureFixture) -> None:
    kernel = Kernel()
    error = OSError(errno.EBADF, os.strerror(errno.EBADF))
    if where == "dump":
        kernel.dump_failures = [error]
    async with listening(kernel) as monitor:
        if where == "read":
            kernel.report(error)
        await until(lambda: not monitor.listening)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]


POD = Unresolved(bytes((10, 1, 0, 5)), 3)


class Node:
    """The addresses that are not resolved, the requests sent for them, and the time."""

    def __init__(self) -> None:
        self.unresolved = [POD]
        self.requested: list[Unresolved] = []
        self.now = 0.0
        self.discovery = NeighbourDiscovery(
            lambda: self.unresolved, resolve=self.requested.append, clock=lambda: self.now
        )

    def passes(self, seconds: int) -> int:
        """Return the number of requests that one pass per second sends within *seconds*."""
        self.requested.clear()
        for _ in range(seconds):
            self.discovery.send_due()
            self.now += 1
        return len(self.requested)


def test_an_unresolved_address_is_requested_immediately_and_less_often_later() -> None:
    node = Node()
    assert [node.passes(seconds) for seconds in (1, 9, 30, 600)] == [1, 0, 2, 10]


def test_a_resolved_address_is_not_requested_and_a_later_pod_at_it_is_requested_immediately() -> None:
    node = Node()
    node.passes(30)
    node.unresolved = []
    assert node.passes(100) == 0
    node.unresolved = [POD]
    assert node.passes(1) == 1


def test_one_pass_sends_a_limited_number_of_requests_and_the_next_pass_the_others() -> None:
    node = Node()
    node.unresolved = [Unresolved(bytes((10, 1, 0, number)), 3) for number in range(100)]
    assert [node.passes(1) for _ in range(3)] == [REQUESTS_MAX, 100 - REQUESTS_MAX, 0]


async def test_discovery_runs_until_it_is_cancelled() -> None:
    requested: list[Unresolved] = []
    discovery = NeighbourDiscovery(lambda: [POD], resolve=requested.append, clock=asyncio.get_running_loop().time)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(40.5):
            await discovery.run()
    assert len(requested) == 4


async def test_without_the_capability_it_ends_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: Unresolved) -> None:
        raise PermissionError(errno.EPERM, "refused")

    async with asyncio.timeout(5):
        await NeighbourDiscovery(lambda: [POD], resolve=refuse).run()
    (record,) = caplog.records
    assert "NET_ADMIN" in record.getMessage()


class FloodedSocket:
    """A netlink socket with a report for each read."""

    def __init__(self) -> None:
        self.reads = 0

    def recvmsg_into(self, _buffers: list[bytearray]) -> tuple[int, list[object], int, tuple[int, int]]:
        self.reads += 1
        return 0, [], 0, (0, 0)


def test_a_flood_of_reports_is_read_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = [FloodedSocket(), FloodedSocket()]
    made = iter(sockets)
    monkeypatch.setattr(network_monitor, "_socket", lambda _groups: next(made))
    assert RouteNetlinkSocket().read().more, "the loop serves requests before the next portion"
    assert [opened.reads for opened in sockets] == [READS, 0], "neighbours have no meaning before their links"
