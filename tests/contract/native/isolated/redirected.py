"""Redirected and direct connections; prints the original destination of each, or the answers to its requests.

test_redirected_connections.py runs it in a separate network namespace. It creates the nat rule there.
"""

import asyncio
import socket

from typing_extensions import override

from _native.index import Index
from _native.lane import Lane, Limits
from tests.contract.native.isolated.lanes import METADATA, REQUEST, General, index_with_an_answer, redirect, run, say

OTHER = b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n"


class Telling(General):
    """Answers with the original destination of the connection, and ends it."""

    @override
    def data_received(self, data: bytes) -> None:
        self.connection.write(f"{self.connection.original_destination()}\n".encode())
        self.connection.finish()


def ask(address: tuple[str, int], *requests: bytes) -> list[str]:
    with socket.create_connection(address, timeout=10) as sock:
        lines = sock.makefile()
        answers = []
        for request in requests:
            sock.sendall(request)
            answers.append(lines.readline().strip())
        return answers


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        run("ip link set lo up")
        run(f"ip address add {METADATA}/32 dev lo")
        redirect(METADATA, 80, f"127.0.0.1:{port}")
        for general, limited_to in ((Telling, None), (General, (METADATA, 80)), (General, (METADATA, 81))):
            lane = Lane(
                index=Index() if general is Telling else index_with_an_answer("127.0.0.1", METADATA),
                general=general,
                limits=Limits(),
                redirected_from=limited_to,
            )
            lane.start(asyncio.get_running_loop(), listener)
            for address in ((METADATA, 80), ("127.0.0.1", port)):
                requests = [b"anything\r\n\r\n"] if general is Telling else [REQUEST]
                say(*await asyncio.to_thread(ask, address, *requests))
            if general is General:
                # The result is the same until the connection ends.
                say(*await asyncio.to_thread(ask, ("127.0.0.1", port), REQUEST, REQUEST))
                say(*await asyncio.to_thread(ask, (METADATA, 80), OTHER, OTHER))
            lane.close()


asyncio.run(main())
