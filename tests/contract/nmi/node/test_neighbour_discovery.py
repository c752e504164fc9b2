"""ARP requests for pod addresses that the kernel does not know: which, when, and how the kernel's reply is handled."""

import asyncio
import contextlib
import errno
import logging
import socket
import struct

import pytest

from nmi.node import neighbour_discovery
from nmi.node.neighbour_discovery import REQUESTS_MAX, NeighbourDiscovery, resolve_neighbour
from nmi.node.rtnetlink import MalformedError, Unresolved, request_result, resolve_request
from tests.support.waiting import until

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
    assert node.passes(1) == 1
    assert node.passes(9) == 0
    assert node.passes(30) == 2
    assert node.passes(600) == 10


def test_a_resolved_address_is_not_requested_and_a_later_pod_at_it_is_requested_immediately() -> None:
    node = Node()
    node.passes(30)
    node.unresolved = []
    assert node.passes(100) == 0
    node.unresolved = [POD]
    assert node.passes(1) == 1


def test_one_pass_sends_a_limited_number_of_requests_and_the_next_pass_the_others() -> None:
    node = Node()
    node.unresolved = [Unresolved(bytes((10, 1, 0, each)), 3) for each in range(100)]
    assert node.passes(1) == REQUESTS_MAX
    assert node.passes(1) == 100 - REQUESTS_MAX
    assert node.passes(1) == 0


async def test_without_the_capability_it_ends_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: Unresolved) -> None:
        raise PermissionError(errno.EPERM, "refused")

    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(5):
            await NeighbourDiscovery(lambda: [POD], resolve=refuse).run()
    (record,) = caplog.records
    assert "NET_ADMIN" in record.getMessage()


async def test_discovery_runs_until_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour_discovery, "POLL_SECONDS", 0.001)
    node = Node()
    task = asyncio.create_task(node.discovery.run())
    await until(lambda: node.requested)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_request_is_a_neighbour_message_with_ntf_use() -> None:
    request = resolve_request(POD.address, POD.interface)
    length, kind, flags, _, _ = struct.unpack_from("=IHHII", request)
    assert (length, kind, flags) == (len(request), 28, 0x401)
    assert struct.unpack_from("=BxHiHBB", request, 16) == (socket.AF_INET, 0, POD.interface, 0, 1, 0)
    assert struct.unpack_from("=HH4s", request, 28) == (8, 1, POD.address)


@pytest.mark.parametrize(("number", "expected"), [(-errno.EPERM, errno.EPERM), (0, 0)])
def test_the_result_is_the_kernels_error_number(number: int, expected: int) -> None:
    assert request_result(struct.pack("=IHHIIi", 20, 2, 0, 1, 0, number)) == expected


def test_a_reply_without_a_result_is_none_and_one_cut_short_is_malformed() -> None:
    assert request_result(struct.pack("=IHHII", 16, 3, 0, 1, 0)) == 0
    with pytest.raises(MalformedError):
        request_result(struct.pack("=IHHII", 16, 2, 0, 1, 0))


def test_an_interface_that_does_not_exist_is_ignored() -> None:
    # Without NET_ADMIN, which the kernel checks first, a process is not permitted to send any request.
    with contextlib.suppress(PermissionError):
        resolve_neighbour(Unresolved(POD.address, 2**31 - 1))
