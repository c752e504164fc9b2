"""Program of a greedy pod, which floods one address with the traffic that the command line names.

test_greedy_pods.py runs it as `greedy.py KIND HOST PORT CONNECTIONS SOURCE…`. It prints the line "flooding" when the
flood starts, continues until its input ends or SECONDS have passed, and then prints its counts as JSON. During the
flood it has the lowest priority: the tests check the distribution of NMI's time, not of the machine's time.
"""

import json
import os
import selectors
import socket
import sys
import time
from itertools import cycle, islice

SECONDS = 40.0
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
        self.until = time.monotonic() + SECONDS
        self.did = {"connected": 0, "closed": 0, "bytes_sent": 0, "bytes_received": 0}
        self.started = False

    def over(self) -> bool:
        """Return whether to stop; call it often, between two units of work. The first call starts the flood."""
        if not self.started:
            os.nice(19)
            print("flooding", flush=True)  # noqa: T201
            self.started = True
        os.set_blocking(0, False)
        try:
            return os.read(0, 1) == b"" or time.monotonic() > self.until
        except BlockingIOError:
            return time.monotonic() > self.until

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
                continue
        sock.setblocking(False)
        self.did["connected"] += 1
        return sock

    def receive(self, sock: socket.socket) -> bool:
        """Receive the available data. Return whether the connection is still open."""
        try:
            data = sock.recv(1 << 18)
        except BlockingIOError:
            return True
        except ConnectionError:
            data = b""
        self.did["bytes_received"] += len(data)
        return bool(data)

    def send(self, sock: socket.socket, data: bytes) -> int:
        """Return the number of bytes sent; -1 if the connection is no longer open."""
        try:
            sent = sock.send(data)
        except BlockingIOError:
            return 0
        except ConnectionError:
            return -1
        self.did["bytes_sent"] += sent
        return sent

    def hold(self, count: int, head: bytes, part: bytes, seconds: float) -> None:
        """Send *head* on *count* connections and *part* every *seconds*; replace those that NMI closes."""

        def begin() -> socket.socket:
            sock = self.connect()
            self.send(sock, head)
            return sock

        socks = [begin() for _ in range(count)]
        while not self.over():
            for at, sock in enumerate(socks):
                if at % PART == 0 and self.over():
                    return
                if not (self.send(sock, part) >= 0 if part else self.receive(sock)):
                    self.did["closed"] += 1
                    sock.close()
                    socks[at] = begin()
            time.sleep(seconds)

    def flood(self, count: int, request: bytes, *, reads: bool) -> None:
        """Pipeline as many requests as each connection accepts."""
        block = request * (BLOCK_BYTES // len(request))
        selector = selectors.DefaultSelector()
        events = selectors.EVENT_WRITE | (selectors.EVENT_READ if reads else 0)

        def begin() -> None:
            selector.register(self.connect(), events, [0])

        for _ in range(count):
            begin()
        while not self.over():
            for key, ready in selector.select(0.1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                alive = not ready & selectors.EVENT_READ or self.receive(sock)
                if alive and ready & selectors.EVENT_WRITE:
                    sent = self.send(sock, block[key.data[0] :])
                    key.data[0] = (key.data[0] + sent) % len(block)
                    alive = sent >= 0
                if not alive:
                    self.did["closed"] += 1
                    selector.unregister(sock)
                    sock.close()
                    begin()

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
            pod.hold(number, b"", b"", 0.05)
        case "drip":
            pod.hold(number, FAST[:-2] + b"X-Odd: ", b"a", DROP_SECONDS)
        case "pipeline-unread":
            pod.flood(number, FAST, reads=False)
        case "pipeline":
            pod.flood(number, FAST, reads=True)
        case "general":
            pod.flood(number, GENERAL, reads=True)
        case "general-unread":
            pod.flood(number, GENERAL, reads=False)
        case "unknown":
            pod.flood(number, UNKNOWN, reads=True)
        case "malformed":
            pod.churn(number, MALFORMED, reads=True)
        case "churn":
            pod.churn(number, FAST, reads=True)
        case "churn-reset":
            pod.churn(number, GENERAL, reads=False)
    print(json.dumps(pod.did), flush=True)  # noqa: T201


main(*islice(sys.argv, 1, None))
