"""Accept a redirected and a direct connection and print where each was meant to go.

Run by test_redirected_connections.py in a network namespace of its own, whose nat rule it makes itself.
"""

import asyncio
import socket
import subprocess

from _native.connection import Connection
from _native.index import Index
from _native.lane import Lane, Limits

METADATA = "169.254.169.254"
RULE = "-t nat -A OUTPUT -p tcp -d {} --dport 80 -j DNAT --to-destination 127.0.0.1:{}"


class General:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def data_received(self, data: bytes) -> None:
        said = f"{self.connection.original_destination()}\n".encode()
        self.connection.write(said)
        self.connection.finish()

    def peer_gone(self) -> None: ...

    def connection_lost(self) -> None: ...


def ask(address: tuple[str, int]) -> str:
    with socket.create_connection(address, timeout=10) as sock:
        sock.sendall(b"anything\r\n\r\n")
        return sock.makefile().readline().strip()


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        for command in (
            "ip link set lo up",
            f"ip address add {METADATA}/32 dev lo",
            f"iptables {RULE.format(METADATA, port)}",
        ):
            subprocess.run(command.split(), check=True)  # noqa: ASYNC221 - nothing else runs yet
        lane = Lane(index=Index(), general=General, limits=Limits())
        lane.start(asyncio.get_running_loop(), listener)
        print(await asyncio.to_thread(ask, (METADATA, 80)))  # noqa: T201
        print(await asyncio.to_thread(ask, ("127.0.0.1", port)))  # noqa: T201
        lane.close()


asyncio.run(main())
