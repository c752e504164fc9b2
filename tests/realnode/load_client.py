"""The program of a load pod: requests tokens at a constant rate and prints what it got as JSON, a line each second.

Runs in the demo's image with Python's standard library only. RATE is the number of requests a second, NEW_PERCENT the
share of them that use a connection of their own. All others use connections that stay open. A request is sent at its
time in the schedule, or as soon as the one before it on its thread has ended: no request of the schedule is left out.
"""

import base64
import json
import os
import signal
import socket
import threading
import time
from collections import Counter

HOST = ("169.254.169.254", 80)
PATH = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net"
THREADS = 8
TIMEOUT_SECONDS = 20.0
TOKENS_MAX = 64
"""Tokens whose identity is remembered, so that a token is decoded once."""


class ClosedError(Exception):
    """The server closed the connection without a complete response."""


class Client:
    """One thread's connection. `identities` has the identity of each token seen."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.identities: dict[bytes, str] = {}

    def outcome(self, *, new: bool) -> str:
        """Return `token NAME`, `http STATUS`, `refused`, `timeout`, `closed` or another error of one request."""
        if new:
            self.close()
        try:
            if self.socket is None:
                self.socket = socket.create_connection(HOST, TIMEOUT_SECONDS)
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._respond(self.socket, keep=not new)
        except ConnectionRefusedError:
            result = "refused"
        except TimeoutError:
            result = "timeout"
        except ClosedError:
            result = "closed"
        except OSError as error:
            result = f"error {type(error).__name__}"
        self.close()
        return result

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def _respond(self, connection: socket.socket, *, keep: bool) -> str:
        end = "" if keep else "Connection: close\r\n"
        connection.sendall(f"GET {PATH} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n{end}\r\n".encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._read(connection)
        head, _, body = received.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields[b"content-length"]):
            body += self._read(connection)
        if not keep or b"close" in fields.get(b"connection", b""):
            self.close()
        status = head.split(b" ", 2)[1].decode()
        return f"token {self._identity(body)}" if status == "200" else f"http {status}"

    def _read(self, connection: socket.socket) -> bytes:
        data = connection.recv(1 << 16)
        if not data:
            raise ClosedError
        return data

    def _identity(self, body: bytes) -> str:
        """Return the name of a managed identity, or the client id of an application."""
        token = body.partition(b'"access_token":"')[2].partition(b'"')[0]
        if token not in self.identities:
            if len(self.identities) >= TOKENS_MAX:
                self.identities.clear()
            claims = token.split(b".")[1]
            decoded = json.loads(base64.urlsafe_b64decode(claims + b"=" * (-len(claims) % 4)))
            self.identities[token] = str(decoded.get("xms_mirid", decoded.get("appid", ""))).rpartition("/")[2]
        return self.identities[token]


class Counts:
    """What all threads counted since the last line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[str] = Counter()
        self._slowest = 0.0

    def add(self, outcome: str, seconds: float) -> None:
        with self._lock:
            self._outcomes[outcome] += 1
            self._slowest = max(self._slowest, seconds)

    def take(self) -> tuple[dict[str, int], float]:
        with self._lock:
            result = dict(self._outcomes), self._slowest
            self._outcomes, self._slowest = Counter(), 0.0
        return result


def send(counts: Counts, number: int, rate: float, new_percent: int) -> None:
    """Send requests until the pod ends, *rate* a second."""
    client = Client()
    due, sent = time.monotonic() + number / THREADS / rate, number
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        new = sent * new_percent % 100 < new_percent
        begin = time.monotonic()
        outcome = client.outcome(new=new)
        counts.add(f"{'new' if new else 'kept'} {outcome}", time.monotonic() - begin)
        due += 1 / rate
        sent += 1


def main() -> None:
    """Start the threads and print a line each second."""
    rate, new_percent = float(os.environ["RATE"]), int(os.environ["NEW_PERCENT"])
    counts = Counts()
    for number in range(THREADS):
        arguments = (counts, number, rate / THREADS, new_percent)
        threading.Thread(target=send, args=arguments, daemon=True).start()
    # The first process of a container ignores signals without a handler.
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    while not stop.wait(1):
        print_line(counts)
    print_line(counts)


def print_line(counts: Counts) -> None:
    outcomes, slowest = counts.take()
    print(json.dumps({"at": time.time(), "slowest": round(slowest, 3), "outcomes": outcomes}), flush=True)  # noqa: T201 - its log


if __name__ == "__main__":
    main()
