"""ARP requests for pod addresses whose link-layer address the kernel does not know yet.

On a bridge a pod that has sent nothing has no neighbour entry, so nothing would show that its address passes to another
sandbox. The kernel resolves an address on request (RTM_NEWNEIGH with NTF_USE, linux/neighbour.h) and reports the result
to the sockets of `network_monitor`. Pods with a host route need no such request.
"""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from nmi.node.rtnetlink import Unresolved, request_result, resolve_request

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0
RETRY_SECONDS: Final = (10.0, 10.0, 20.0, 60.0)
"""The kernel needs eight seconds to discard a stale entry of a former pod; a request after that resolves again."""
REQUESTS_MAX: Final = 64
"""Requests of one pass: a node has at most a few hundred pods, and each request broadcasts one packet."""
_REPLY_MAX: Final = 1 << 12


class _Attempts(msgspec.Struct):
    count: int
    due: float


class NeighbourDiscovery:
    """Requests for the addresses that *unresolved* returns, until it no longer returns them. `run` is its task."""

    def __init__(
        self,
        unresolved: Callable[[], Iterable[Unresolved]],
        *,
        resolve: Callable[[Unresolved], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unresolved = unresolved
        self._resolve = resolve or resolve_neighbour
        self._clock = clock
        self._attempts: dict[Unresolved, _Attempts] = {}

    async def run(self) -> None:
        """Send requests until cancelled; return after a warning if the kernel does not permit them."""
        try:
            while True:
                self.send_due()
                await asyncio.sleep(POLL_SECONDS)
        except PermissionError as error:
            log.warning(
                "cannot request link-layer addresses, so a reused address of a pod that has sent nothing is noticed by "
                "the API server alone; give NMI the capability NET_ADMIN",
                extra={"error": str(error)},
            )

    def send_due(self) -> None:
        """Send the requests that are due. Raises PermissionError. Never blocks."""
        now = self._clock()
        waiting = set(self._unresolved())
        # The link-layer address of a later pod at the same address is then requested immediately.
        self._attempts = {key: attempts for key, attempts in self._attempts.items() if key in waiting}
        never = _Attempts(0, now)
        due = [unresolved for unresolved in waiting if self._attempts.get(unresolved, never).due <= now]
        for unresolved in due[:REQUESTS_MAX]:
            count = self._attempts.get(unresolved, never).count
            self._attempts[unresolved] = _Attempts(count + 1, now + RETRY_SECONDS[min(count, len(RETRY_SECONDS) - 1)])
            self._resolve(unresolved)


def resolve_neighbour(unresolved: Unresolved) -> None:
    """Have the kernel send an ARP request. Raises PermissionError; any other refusal of the kernel is ignored."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as kernel:
        try:
            kernel.send(resolve_request(unresolved.address, unresolved.interface))
            # The kernel handles a request while it is sent, and replies to refused ones only.
            number = request_result(kernel.recv(_REPLY_MAX))
        except OSError:
            return  # BlockingIOError: no reply. Others: the kernel is out of memory; the request is repeated later.
    if number == errno.EPERM:
        raise PermissionError(number, "the kernel refused an RTM_NEWNEIGH request")
