"""Program of a greedy pod, which floods one address with the traffic that the command line names.

test_greedy_pods.py runs it as `greedy.py KIND HOST PORT CONNECTIONS SOURCE…`. It prints the line "flooding" when the
flood starts, continues until its input ends, and fails if it has sent nothing. During the flood it has the lowest
priority: the tests check the distribution of NMI's time, not of the machine's time.
"""

import os
import select
import socket
import sys
import time
from itertools import cycle

DROP_SECONDS = 0.5
PART = 128
TARGET = "/metadata/identity/oauth2/token?resource=https%3A%2F%2Fmanagement.azure.com%2F"
FAST = f"GET {TARGET} HTTP/1.1\r\nHost: a\r\nMetadata: true\r\n\r\n".encode()
# A header field that only the general lane reads: each request costs a task and a read of the token cache.
GENERAL = FAST.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n")
UNKNOWN = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
MALFORMED = b"GET /x HTTP/1.1\r\nHost a\r\n\r\n"
BLOCK_BYTES = 64 * 1024
# Larger send buffers exhaust this machine's memory for TCP, and these tests do not cover that failure.
SEND_BYTES = int(os.environ.get("GREEDY_SEND_BYTES", "65536"))
IP_BIND_ADDRESS_NO_PORT = 24  # connect() selects the port: thousands of binds to one address take seconds
RESET = b"\1\0\0\0\0\0\0\0"


class Pod:
    def __init__(self, address: tuple[str, int], sources: list[str]) -> None:
        self.address = address
        self.sources = cycle(sources)
        self.sent = 0
        self.started = False

    def over(self) -> bool:
        """Return whether to stop; call it often, between two units of work. The first call starts the flood."""
        if not self.started:
            os.nice(19)
            print("flooding", flush=True)  # noqa: T201
            self.started = True
        return self.ended()

    def ended(self) -> bool:
        """Return whether the input has ended."""
        return bool(select.select([0], [], [], 0)[0])

    def connect(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((next(self.sources), 0))
        while True:
            try:
                sock.connect(self.address)
                break
            except ConnectionError:
                if self.ended():
                    sys.exit()
        sock.setblocking(False)
        return sock

    def receive(self, sock: socket.socket) -> bool:
        """Receive the available data. Return whether the connection is still open."""
        try:
            return bool(sock.recv(1 << 18))
        except BlockingIOError:
            return True
        except ConnectionError:
            return False

    def send(self, sock: socket.socket, data: bytes) -> int:
        """Return the number of bytes sent; -1 if the connection is no longer open."""
        try:
            sent = sock.send(data)
        except BlockingIOError:
            return 0
        except ConnectionError:
            return -1
        self.sent += sent
        return sent

    def keep(self, count: int, head: bytes, part: bytes, *, reads: bool = False, seconds: float = 0.0) -> None:
        """Send *head* on *count* connections, and again and again as much of *part* as each accepts, with pauses.

        Connections that NMI closes are replaced.
        """

        def begin() -> socket.socket:
            sock = self.connect()
            self.send(sock, head)
            return sock

        socks = [begin() for _ in range(count)]
        sent = [0] * count
        while not self.over():
            for at, sock in enumerate(socks):
                if at % PART == 0 and self.over():
                    return
                more = self.send(sock, part[sent[at] :]) if part else 0
                if more < 0 or (reads and not self.receive(sock)):
                    sock.close()
                    socks[at], sent[at] = begin(), 0
                elif part:
                    sent[at] = (sent[at] + more) % len(part)
            time.sleep(seconds)

    def flood(self, count: int, request: bytes, *, reads: bool) -> None:
        """Pipeline as many requests as each connection accepts."""
        self.keep(count, b"", request * (BLOCK_BYTES // len(request)), reads=reads)

    def churn(self, count: int, request: bytes, *, reads: bool) -> None:
        """Open new connections continuously in batches of *count*, send one request on each, and close it."""
        while not self.over():
            socks = [self.connect() for _ in range(count)]
            for sock in socks:
                self.send(sock, request)
                if not reads:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            for sock in socks:
                if reads:
                    sock.settimeout(1)
                    self.receive(sock)
                sock.close()


def main(kind: str, host: str, port: str, count: str, *sources: str) -> None:
    pod, number = Pod((host, int(port)), list(sources)), int(count)
    match kind:
        case "hoard":
            pod.keep(number, b"", b"", reads=True, seconds=0.05)
            return
        case "drip":
            pod.keep(number, FAST[:-2] + b"X-Odd: ", b"a", seconds=DROP_SECONDS)
        case "pipeline" | "pipeline-unread":
            pod.flood(number, FAST, reads=kind == "pipeline")
        case "general" | "general-unread":
            pod.flood(number, GENERAL, reads=kind == "general")
        case "unknown":
            pod.flood(number, UNKNOWN, reads=True)
        case "malformed":
            pod.churn(number, MALFORMED, reads=True)
        case "churn":
            pod.churn(number, FAST, reads=True)
        case "churn-reset":
            pod.churn(number, GENERAL, reads=False)
    assert pod.sent


main(*sys.argv[1:])
