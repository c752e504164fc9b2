"""Tracked connections from pods to the real IMDS, which bypass NMI: deletion of those that are older than the redirect,
and detection of later ones.
"""

import asyncio
import re
import socket
from contextlib import suppress
from ipaddress import AddressValueError, IPv4Address

from nmi.node.rules import RedirectError, RedirectSpec
from nmi.subprocesses import SYSTEM_PATH, ProgramTimeoutError, find_program, first_bytes, run
from podidentity.exits import StartError

LISTED_MAX = 1 << 16
"""Bytes of conntrack's output that are read, for about 400 connections: pods determine their number."""

_PORT_MAX = 65535
_BYPASSING = re.compile(rb"^tcp[^=\n]* src=([0-9.]{7,15}) dst=[0-9.]{7,15} sport=([0-9]{1,5}) ", re.MULTILINE)

_DELETED = re.compile(r"(\d+) flow entries have been deleted")


async def find_conntrack(path: str = SYSTEM_PATH) -> str:
    """Return the path of the program. Raises StartError if it is not installed."""
    program = await find_program("conntrack", path=path)
    if program is None:
        raise StartError(
            "no conntrack program was found, which --enable-conntrack-deletion needs: install the package conntrack in "
            "NMI's image, or remove that flag"
        )
    return program


async def forget_bypassing(to: RedirectSpec, conntrack: str) -> int:
    """Delete tracked connections between pods and the real IMDS. Return their number.

    Call it after the rule is in place, or they reappear. Connections that the rule has redirected to NMI stay: their
    reply address differs. Raises RedirectError.
    """
    ip, port = to.metadata_ip, str(to.metadata_port)
    try:
        done = await run((conntrack, "-D", "-p", "tcp", "--orig-dst", ip, "--orig-port-dst", port, "--reply-src", ip))
    except ProgramTimeoutError as error:
        raise RedirectError(str(error)) from error
    deleted = _DELETED.search(done.stderr)
    if deleted is None:
        raise RedirectError(f"connections that bypass NMI were not ended: {done.complaint}; try conntrack -L")
    return int(deleted[1])  # nothing to delete ends with code 1, which is no error


async def bypassing(to: RedirectSpec, conntrack: str) -> frozenset[tuple[str, int]] | None:
    """Return source address and port of the tracked connections between pods and the real IMDS.

    Connections of this node's own addresses do not count. Return None if conntrack cannot list them, or if there are
    too many to read.
    """
    ip, port = to.metadata_ip, str(to.metadata_port)
    words = (conntrack, "-L", "-p", "tcp", "--orig-dst", ip, "--orig-port-dst", port, "--reply-src", ip)
    try:
        listed = await first_bytes(words, LISTED_MAX)
    except (ProgramTimeoutError, StartError):
        return None
    # A part of the list would make connections seem new at the next comparison.
    if len(listed) >= LISTED_MAX:
        return None
    connections = bypassing_in(listed)
    addresses = {source for source, _ in connections}
    # Processes of the node may call the real IMDS.
    own = await asyncio.to_thread(lambda: {address for address in addresses if _is_own(address)})
    return frozenset(connection for connection in connections if connection[0] not in own)


def bypassing_in(listed: bytes) -> frozenset[tuple[str, int]]:
    """Return source address and port of each connection in conntrack's list. Skip lines in another form."""
    connections: set[tuple[str, int]] = set()
    for source, number in _BYPASSING.findall(listed):
        with suppress(AddressValueError):  # a socket would take it for a name, and query a resolver
            address = str(IPv4Address(source.decode()))
            if int(number) <= _PORT_MAX:
                connections.add((address, int(number)))
    return frozenset(connections)


def _is_own(address: str) -> bool:
    """Return whether *address* is one of this machine: a socket can be bound to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
