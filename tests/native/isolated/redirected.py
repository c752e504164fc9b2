"""Redirected and direct connections; prints the original destination of each, or the answers to its requests.

test_redirected_connections.py runs it in a separate network namespace. It creates the nat rule there.
"""

import asyncio
import socket
import subprocess
import time

from typing_extensions import override

from _native.answers import TokenAnswer, Usage
from _native.connection import Connection
from _native.histogram import Histogram
from _native.index import Index, PodRecord
from _native.lane import Lane, Limits

METADATA = "169.254.169.254"
RULE = "-t nat -A OUTPUT -p tcp -d {} --dport 80 -j DNAT --to-destination 127.0.0.1:{}"


REQUEST = b"GET /metadata/identity/oauth2/token?resource=r HTTP/1.1\r\nHost: a\r\nMetadata: true\r\n\r\n"
OTHER = b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n"


class General:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def data_received(self, data: bytes) -> None:
        line = f"{self.connection.original_destination()}\n".encode()
        self.connection.write(line)
        self.connection.finish()

    def peer_gone(self) -> None: ...

    def connection_lost(self) -> None: ...


class Resuming(General):
    """Answers a request with the lane's decision, and gives the connection back."""

    @override
    def data_received(self, data: bytes) -> None:
        self.connection.write(b"redirected\n" if self.connection.was_redirected() else b"direct\n")
        self.connection.resume()


def ask(address: tuple[str, int], *requests: bytes) -> list[str]:
    with socket.create_connection(address, timeout=10) as sock:
        lines = sock.makefile()
        answers = []
        for request in requests:
            sock.sendall(request)
            answers.append(lines.readline().strip())
        return answers


def index_with_an_answer() -> Index:
    index, record, series = Index(), PodRecord(None), Histogram([1]).series(())
    far = time.monotonic_ns() + 10**13
    answer = TokenAnswer(before=b"", after=b"", expires_ns=far, fresh_until_ns=far, series=series, usage=Usage())
    record.admit(0, resource=b"r", selector_kind=0, selector_value=b"", xms_cc=b"", answer=answer)
    for address in ("127.0.0.1", METADATA):
        index.put(address, record)
    return index


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
        for general, limited_to in ((General, None), (Resuming, (METADATA, 80)), (Resuming, (METADATA, 81))):
            lane = Lane(
                index=Index() if general is General else index_with_an_answer(),
                general=general,
                limits=Limits(),
                redirected_from=limited_to,
            )
            lane.start(asyncio.get_running_loop(), listener)
            for address in ((METADATA, 80), ("127.0.0.1", port)):
                requests = [b"anything\r\n\r\n"] if general is General else [REQUEST]
                print(*await asyncio.to_thread(ask, address, *requests))  # noqa: T201
            if general is Resuming:
                # The result is the same until the connection ends.
                print(*await asyncio.to_thread(ask, ("127.0.0.1", port), REQUEST, REQUEST))  # noqa: T201
                print(*await asyncio.to_thread(ask, (METADATA, 80), OTHER, OTHER))  # noqa: T201
            lane.close()


asyncio.run(main())
