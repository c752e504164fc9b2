"""Detection of a program that replaces the destination of connections to IMDS before a packet exists.

The Guest Proxy Agent of Azure's metadata security protocol has such a program at the root of all control groups, so it
also affects pods, whatever their network namespace: they connect to their own loopback address, and NMI's rule matches
nothing (Azure/GuestProxyAgent 729e2a8, linux-ebpf/ebpf_cgroup.c). The kernel returns the replaced destination as the
peer of a connection. Of a refused one it shows only the source address, which is the loopback address too.
"""

import asyncio
import socket
from ipaddress import IPv4Address
from typing import Final

CONNECT_SECONDS: Final = 1.0


class ConnectRedirect:
    """Where connections of this process to IMDS lead."""

    def __init__(self, address: tuple[str, int]) -> None:
        """*address*: that of IMDS."""
        self._address = address
        self._destination = ""

    def problem(self) -> str | None:
        """Return why no packet of a pod reaches NMI's rule; None if the destination is not replaced."""
        if not self._destination:
            return None
        ip, port = self._address
        return (
            f"a program of the node replaces {ip}:{port} by {self._destination} when a process connects, also in pods, "
            "so no packet reaches NMI's rule: turn off proxyAgentSettings (metadata security protocol) of the node's "
            "scale set or VM, see docs/data-planes.md#metadata-security-protocol"
        )

    async def check(self) -> None:
        """Connect to IMDS without a request, and note where the connection leads."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await asyncio.get_running_loop().sock_connect(probe, self._address)
                peer = probe.getpeername()[:2]
            except (OSError, TimeoutError):
                source = IPv4Address(probe.getsockname()[0])
                if not source.is_loopback or IPv4Address(self._address[0]).is_loopback:
                    return  # nothing follows from a connection that IMDS has not accepted
                peer = (str(source), 0)
        self._destination = ":".join(str(part) for part in peer if part) if peer != self._address else ""
