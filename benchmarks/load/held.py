"""The memory of held requests: those of pods whose identity is not assigned yet."""

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks.load import requests
from benchmarks.load.mounted import possible
from benchmarks.load.node import Node, node
from benchmarks.load.node_servers import node_servers
from podidentity_sandbox.processes import ProgramError

PODS: Final = 500
"""Each pod has one held request. A request is held for up to 45 s."""
WARM: Final = 50
"""Requests before the measurement, so that it contains no memory that all requests share."""
WAIT_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.05


def held_bytes(pods: int = PODS, warm: int = WARM) -> float:
    """Return NMI's anonymous memory for one held request with its connection, in bytes. Raises ProgramError."""
    with node_servers() as around, ExitStack() as clients:
        addresses = around.add_pods(pods, assigned=False)
        with node(around, mounted=possible()) as ours:
            _send(ours, addresses[:warm], clients)
            before = ours.anonymous_bytes()
            _send(ours, addresses[warm:], clients)
            return (ours.anonymous_bytes() - before) / (pods - warm)


def _send(ours: Node, addresses: Sequence[str], clients: ExitStack) -> None:
    """Send one request from each address, and wait until NMI holds all of them."""
    expected = ours.held() + len(addresses)
    for address in addresses:
        client = clients.enter_context(socket.create_connection((ours.address, ours.port), source_address=(address, 0)))
        client.sendall(requests.plain().text)
    _until(lambda: ours.held() == expected, f"NMI does not hold {expected} requests")


def _until(ready: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise ProgramError(f"{problem} after {WAIT_SECONDS:g} s: read the state of /debug/state")
        time.sleep(POLL_SECONDS)
