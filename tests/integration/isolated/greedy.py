"""A pod that takes what it can get, as a program of its own: floods one address with what the command line names.

Run by test_greedy_pods.py: `greedy.py KIND HOST PORT CONNECTIONS SOURCE…`. Says "flooding" on a line once it does, goes
on until its input ends or SECONDS have passed, and says then what it managed. Its priority is the lowest while it does:
what is tested is who gets NMI's time, not who gets the machine's.
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
# A field that only the general lane reads: each of these is a task and a token out of the cache.
GENERAL = FAST.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n")
UNKNOWN = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
MALFORMED = b"GET /x HTTP/1.1\r\nHost a\r\n\r\n"
BLOCK_BYTES = 64 * 1024
# More, and it runs this machine out of memory for TCP, which is a harm of another kind.
SEND_BYTES = int(os.environ.get("GREEDY_SEND_BYTES", "65536"))
IP_BIND_ADDRESS_NO_PORT = 24  # the port is chosen when connecting: thousands of binds to one address take seconds
RESET = b"\1\0\0\0\0\0\0\0"


class Pod:
    def __init__(self, address: tuple[str, int], sources: list[str]) -> None:
        self.address = address
        self.sources = cycle(sources)
        self.until = time.monotonic() + SECONDS
        self.did = {"connected": 0, "closed": 0, "bytes_sent": 0, "bytes_received": 0}
        self.said = False

    def over(self) -> bool:
        """Whether to stop; looked at often enough, between two bits of work."""
        if not self.said:
            os.nice(19)
            print("flooding", flush=True)  # noqa: T201
            self.said = True
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
        """Take what is there; whether the connection is still open."""
        try:
            data = sock.recv(1 << 18)
        except BlockingIOError:
            return True
        except ConnectionError:
            data = b""
        self.did["bytes_received"] += len(data)
        return bool(data)

    def send(self, sock: socket.socket, data: bytes) -> int:
        """How much was taken; -1 if the connection is no longer open."""
        try:
            sent = sock.send(data)
        except BlockingIOError:
            return 0
        except ConnectionError:
            return -1
        self.did["bytes_sent"] += sent
        return sent

    def hoard(self, count: int) -> None:
        """Connections that say nothing, and new ones for those that were closed."""
        socks = [self.connect() for _ in range(count)]
        while not self.over():
            for at, sock in enumerate(socks):
                if at % PART == 0 and self.over():
                    return
                if not self.receive(sock):
                    self.did["closed"] += 1
                    sock.close()
                    socks[at] = self.connect()
            time.sleep(0.05)

    def drip(self, count: int) -> None:
        """A byte of a head that never ends, now and then."""
        socks = [self.connect() for _ in range(count)]
        for sock in socks:
            self.send(sock, FAST[:-2] + b"X-Odd: ")
        while not self.over():
            for at, sock in enumerate(socks):
                if at % PART == 0 and self.over():
                    return
                if self.send(sock, b"a") < 0:
                    self.did["closed"] += 1
                    sock.close()
                    socks[at] = self.connect()
            time.sleep(DROP_SECONDS)

    def flood(self, count: int, request: bytes, *, reads: bool) -> None:
        """As many requests as each connection takes, one behind the other."""
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
        """New connections all the time, *count* at a time: a request on each, and away."""
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
            pod.hoard(number)
        case "drip":
            pod.drip(number)
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
