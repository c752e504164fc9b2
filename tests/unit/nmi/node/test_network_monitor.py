"""The network monitor: it lists at its start and after lost reports, reads in portions, and gives up with a warning.

Excluded: the sockets (test_network_of_a_node).
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

from nmi.node.network_monitor import (
    DUMP_GAP_SECONDS,
    MESSAGES,
    REST_SECONDS,
    WAKES,
    WINDOW_SECONDS,
    NetworkMonitor,
    NetworkSource,
    NetworkUpdate,
)
from nmi.node.rtnetlink import DumpInterruptedError, Link, MalformedError, Message
from tests.support.virtual_time import now, settle
from tests.support.waiting import until


class Kernel:
    """A source whose reports the test makes; readable while there are any."""

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


class RecordedReports:
    """The delivered reports, in order."""

    def __init__(self) -> None:
        self.all: list[tuple[str, list[Message]]] = []

    def network_changed(self, messages: Iterable[Message]) -> None:
        self.all.append(("changed", list(messages)))

    def network_listed(self, messages: Iterable[Message]) -> None:
        self.all.append(("listed", list(messages)))


@asynccontextmanager
async def listening(kernel: Kernel) -> AsyncIterator[tuple[NetworkMonitor, RecordedReports]]:
    """Run a monitor, and yield it once the list is read, unless it has ended."""

    def make() -> NetworkSource:
        return kernel

    monitor, heard = NetworkMonitor(make=make), RecordedReports()
    task = asyncio.create_task(monitor.run(heard))
    try:
        await until(lambda: heard.all or task.done())
        yield monitor, heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert kernel.closed
        assert not monitor.listening


async def test_the_full_list_is_read_first_and_then_each_change_is_forwarded() -> None:
    kernel = Kernel()
    kernel.report(NetworkUpdate([Link(3, "early")]))
    async with listening(kernel) as (monitor, heard):
        await until(lambda: len(heard.all) == 2)
        assert heard.all == [("listed", [Link(1, "lo")]), ("changed", [Link(3, "early")])]
        assert monitor.listening
        assert monitor.dumps == 1


@pytest.mark.parametrize("with_messages", [True, False])
async def test_after_lost_reports_the_full_list_is_read_again(with_messages: bool) -> None:
    kernel = Kernel()
    async with listening(kernel) as (monitor, heard):
        kernel.present.append(Link(9, "new"))
        kernel.report(NetworkUpdate([Link(3, "last")] if with_messages else [], lost=True))
        await until(lambda: monitor.dumps == 2)
        assert heard.all[-1] == ("listed", [Link(1, "lo"), Link(9, "new")])
        kernel.report(NetworkUpdate([Link(4, "later")]))
        await until(lambda: heard.all[-1] == ("changed", [Link(4, "later")]))


async def test_endless_losses_cause_lists_at_a_limited_rate() -> None:
    kernel = Kernel()
    async with listening(kernel) as (monitor, _):
        kernel.flood(NetworkUpdate([], lost=True))
        await asyncio.sleep(10 * DUMP_GAP_SECONDS)
        assert 10 <= monitor.dumps <= 12


@pytest.mark.parametrize("failure", [DumpInterruptedError("changed"), MalformedError("cut")])
async def test_an_interrupted_list_is_requested_again(failure: Exception) -> None:
    kernel = Kernel()
    kernel.dump_failures = [failure]
    async with listening(kernel) as (monitor, heard):
        assert monitor.dumps == 1
        assert heard.all == [("listed", [Link(1, "lo")])]
        assert kernel.dumps == 2


@pytest.mark.parametrize(
    ("update", "is_known"),
    [
        (NetworkUpdate([Link(2, "flood")], more=True), True),
        (NetworkUpdate([Link(2, "flood")]), False),
        (NetworkUpdate([Link(2, "flood")] * (MESSAGES + 1)), True),
    ],
    ids=["more to read", "each read returns all reports", "many messages in few reads"],
)
async def test_a_flood_is_read_in_parts_with_pauses(update: NetworkUpdate, is_known: bool) -> None:
    """A read costs more than its messages. *is_known*: the first read shows the flood already."""
    kernel = Kernel()
    async with listening(kernel):
        kernel.flood(update)
        await until(lambda: len(kernel.reads) > 60)
        windows = (kernel.reads[-1] - kernel.reads[0]) / WINDOW_SECONDS + 2
        assert len(kernel.reads) <= windows * (WAKES + WINDOW_SECONDS / REST_SECONDS)
        if is_known:
            pauses = [later - sooner for sooner, later in itertools.pairwise(kernel.reads)]
            assert min(pauses) == pytest.approx(REST_SECONDS)


async def test_changes_of_a_few_pods_are_read_immediately() -> None:
    kernel = Kernel()
    async with listening(kernel) as (_, heard):
        begun = now()
        for number in range(WAKES):
            kernel.report(NetworkUpdate([Link(number, "veth")]))
        await settle(2 * WAKES)
        assert len(heard.all) == WAKES + 1
        assert now() == begun


async def test_without_netlink_one_warning_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def make() -> NetworkSource:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

    monitor, heard = NetworkMonitor(make=make), RecordedReports()
    await monitor.run(heard)
    assert not monitor.listening
    assert heard.all == []
    assert [each.levelno for each in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("where", ["read", "dump"])
async def test_a_socket_error_ends_the_monitor_with_one_warning(where: str, caplog: pytest.LogCaptureFixture) -> None:
    kernel = Kernel()
    error = OSError(errno.EBADF, os.strerror(errno.EBADF))
    if where == "dump":
        kernel.dump_failures = [error]
    async with listening(kernel) as (monitor, _):
        if where == "read":
            kernel.report(error)
        await until(lambda: not monitor.listening)
        assert [each.levelno for each in caplog.records] == [logging.WARNING]
