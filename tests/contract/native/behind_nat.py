"""A network namespace in which nat rules redirect connections to lanes."""

import asyncio
import ctypes
import subprocess
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

METADATA = "169.254.169.254"
CLONE_NEWNET = 0x4000_0000


def in_network_namespace(test: Callable[[], Coroutine[Any, Any, None]], *addresses: str) -> None:
    """Run *test* in a thread with a network namespace of its own, whose loopback device has *addresses*."""

    def enter_and_run() -> None:
        assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
        run("ip link set lo up")
        for address in addresses:
            run(f"ip address add {address}/32 dev lo")
        asyncio.run(test())

    with ThreadPoolExecutor(1) as thread:
        thread.submit(enter_and_run).result()


def run(command: str) -> None:
    """Run *command* and wait for its end."""
    subprocess.run(command.split(), check=True, capture_output=True)


def redirect(address: str, port: int, to: str) -> None:
    """Redirect connections to *port* of *address*, also if a former rule redirects them."""
    run(f"iptables -t nat -I OUTPUT -p tcp -d {address} --dport {port} -j DNAT --to-destination {to}")
