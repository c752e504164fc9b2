"""The node's own IPv4 address, to which the redirect target `node` leads, and its loss while NMI runs.

NMI uses the address that NODE_IP states (status.hostIP of its pod), or else the source address that the kernel gives
the node's own packets to IMDS, or else to other networks. It must be an address of this machine: a rule that leads to
another one would send pods' requests there.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from nmi.node.rtnetlink import IPV4_ADDRESSES, ChosenRoute, MalformedError, chosen_route, route_request

log = logging.getLogger(__name__)

ELSEWHERE: Final = "192.0.2.1"
"""An address of another network (RFC 5737): it follows the default route. NMI sends nothing there."""
CHECK_SECONDS: Final = 60.0
"""The longest interval between two checks; the kernel's reports cause earlier ones."""
GAP_SECONDS: Final = 0.5
"""The least time between two checks, however often addresses change."""
_REPLY_MAX: Final = 1 << 14


class NodeAddress(msgspec.Struct, frozen=True):
    """The address, and why it is this one or why there is none."""

    address: str | None
    reason: str


def route_to(destination: str) -> ChosenRoute | None:
    """Return the kernel's route to *destination*; None if there is none or the kernel does not answer.

    Does not block: the kernel answers a request within send().
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as kernel:
            kernel.send(route_request(ipaddress.IPv4Address(destination).packed))
            return chosen_route(kernel.recv(_REPLY_MAX))
    except (OSError, MalformedError):
        return None


def find(node_ip: str, metadata_ip: str, route: Callable[[str], ChosenRoute | None] = route_to) -> NodeAddress:
    """Return the address of this node. *node_ip* is what NODE_IP states, or empty."""
    unusable = ""
    if node_ip:
        # A rule that leads to another machine's address would send pods' requests to that machine.
        if _is_own(node_ip, metadata_ip, route):
            return NodeAddress(node_ip, "NODE_IP states it")
        unusable = f"NODE_IP ({node_ip[:64]!r}) is not an IPv4 address of this node's interfaces; "
    for destination in (metadata_ip, ELSEWHERE):
        chosen = route(destination)
        if chosen is None or not chosen.source:
            continue
        source = str(ipaddress.IPv4Address(chosen.source))
        if _is_own(source, metadata_ip, route):
            return NodeAddress(source, f"{unusable}this node uses it as the source address to {destination}")
    return NodeAddress(None, f"{unusable}this node has no route to {metadata_ip} and no default route")


def _is_own(address: str, metadata_ip: str, route: Callable[[str], ChosenRoute | None]) -> bool:
    """Return whether *address* is an address of this node by which its pods can reach it."""
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:
        return False
    if parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast or address == metadata_ip:
        return False
    chosen = route(address)
    return chosen is not None and chosen.local


class NodeAddressMonitor:
    """Detection of the loss of the node's address. `run` is its task."""

    def __init__(self, address: str, *, route: Callable[[str], ChosenRoute | None] = route_to) -> None:
        self._address = address
        self._route = route
        self.problem: str | None = None
        """Why pods are not redirected to NMI, for the readiness probe; None while the node has the address."""

    async def run(self) -> None:
        """Check at each report of the kernel, and after CHECK_SECONDS, until cancelled."""
        changed = asyncio.Event()
        reports = _reports()
        loop = asyncio.get_running_loop()
        if reports is not None:
            loop.add_reader(reports.fileno(), _note, reports, changed)
        try:
            while True:
                changed.clear()
                self.check()
                await asyncio.sleep(GAP_SECONDS)
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await changed.wait()
        finally:
            if reports is not None:
                loop.remove_reader(reports.fileno())
                reports.close()

    def check(self) -> None:
        """Read whether the node has the address, and log a change."""
        route = self._route(self._address)
        if route is not None and route.local:
            if self.problem is not None:
                log.info("this node has its address again", extra={"address": self._address})
            self.problem = None
        elif self.problem is None:
            self.problem = (
                f"{self._address}, to which pods are redirected, is no longer an address of this node; delete NMI's "
                f"pod on this node, so that its next start uses the present address"
            )
            log.error("the node's address is lost; see the reason", extra={"reason": self.problem})


def _reports() -> socket.socket | None:
    """Return a socket for the kernel's reports of changed addresses; None if it gives none."""
    try:
        reports = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except OSError:
        return None
    try:
        reports.bind((0, IPV4_ADDRESSES))
    except OSError:
        reports.close()
        return None
    return reports


def _note(reports: socket.socket, changed: asyncio.Event) -> None:
    """Discard one report: the check reads the current state."""
    with suppress(OSError):  # also for lost reports (ENOBUFS)
        reports.recv(_REPLY_MAX)
    changed.set()
