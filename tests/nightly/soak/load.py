"""The pods' side of a soak: many connections from the pods' own addresses, with a check of every response.

A separate process, `python -m tests.nightly.soak.load PORT`. Commands are lines of JSON:

* `["own", ADDRESS, TENURE, [CLIENT ID...]]`: from now on responses to ADDRESS may also be of these identities. Requests
  name or leave out an identity as the newest tenure's pod would.
* `["only", ADDRESS, TENURE, UNDISTURBED]`: and only of this tenure and later ones, for requests sent from now on;
  whether nothing kept NMI from noticing the change immediately.
* `["rest"]`: close the connections without a pending request.
* `["rate", REQUESTS A SECOND]`
* `["hold"]`: send as many requests as may wait concurrently, each naming an identity that is held for and does not
  come.
* `["report"]`: write one line of JSON with the results since the last report, and continue.

The check: a response may contain a token of any tenure that was possible at some time between the request and the
response, and of no other; and if the request named an identity, of that one only. The token's own claim `appid`, read
once for each token, names its identity.
"""

import asyncio
import errno
import json
import os
import random
import socket
import struct
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Final, cast

import uvloop
from typing_extensions import override

from podidentity_sandbox.tokens import read_claims

RESOURCES: Final = ("https%3A%2F%2Fmanagement.azure.com%2F", "https%3A%2F%2Fvault.azure.net")
FRESH_SHARE: Final = 0.2
"""The share of requests on a new connection, like those of programs that send a single request."""
NAMED_SHARE: Final = 0.3
"""How many name their identity by client id."""
FOREIGN_SHARE: Final = 0.0002
"""The share that names another pod's identity. Few: each may be held for as long as --max-hold."""
FORCE_REFRESH_SHARE: Final = 0.0005
"""How many ask for a fresh token, by which IMDS gets to do something."""
KEPT_PER_POD: Final = 2
TRIES: Final = 5
"""Pods looked at for an idle connection: those whose identity is on its way hold theirs."""
WAITING_MAX: Final = 1000
"""Requests that wait at once, in all: when a fault holds up more, no new connection is made for a while. NMI keeps the
memory of the most requests that it ever held, so the most has to be known for its growth to mean anything."""
TICK_SECONDS: Final = 0.004
LATE_SECONDS: Final = 60.0
WRONG_SHOWN: Final = 50
IP_BIND_ADDRESS_NO_PORT: Final = 24
_RESET: Final = struct.pack("ii", 1, 0)


@dataclass
class Address:
    """A pod's address and whose it has been."""

    name: str
    tenures: list[tuple[str, ...]] = field(default_factory=lambda: [()])
    oldest: int = 0
    """The first tenure whose tokens are possible for a request that is sent now."""
    decided_at: float = 0.0
    """When the newest tenure was announced."""
    former_seconds: float = 0.0
    """How long after that a request was sent which still got a token of a former owner's."""
    idle: deque["Link"] = field(default_factory=deque)
    links: int = 0

    def permits(self, client: str, since: int, named: str) -> bool:
        """Whether a token of *client* is right for a request that was sent when the tenure *since* was possible still
        and that named the identity *named*, or none."""
        possible = {identity for tenure in self.tenures[since:] for identity in tenure}
        return client in possible and named in ("", client)


class Link(asyncio.Protocol):
    """One connection, with at most one request on it."""

    def __init__(self, load: "Load", address: Address, *, kept: bool) -> None:
        self.load, self.address, self.kept = load, address, kept
        self.transport: asyncio.Transport | None = None
        self.request = self.received = b""
        self.sent_at, self.oldest, self.named = 0.0, 0, ""
        self.busy = self.ended = False
        address.links += kept
        load.links.add(self)

    async def connect(self, port: int) -> None:
        """Connect from the address, and send the request."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)  # no port lies in TIME_WAIT on our side
        # The port is chosen at connect(): else a few thousand closed connections would hold all of an address's.
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((self.address.name, 0))
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.create_connection(lambda: self, sock=sock)
        except OSError as error:
            sock.close()
            self.end("not connected", error)

    def ask(self, named: str) -> None:
        """Send a request that names this identity, or none."""
        extra = f"&client_id={named}" if named else ""
        if not named and random.random() < FORCE_REFRESH_SHARE:
            extra = "&bypass_cache=true"
        end = "" if self.kept else "Connection: close\r\n"
        self.request = (
            f"GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource={random.choice(RESOURCES)}{extra} "
            f"HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nUser-Agent: soak\r\n"
            f"x-ms-client-request-id: {random.getrandbits(64):016x}\r\n{end}\r\n"
        ).encode()
        self.named, self.received, self.busy = named, b"", True
        self.sent_at, self.oldest = time.monotonic(), self.address.oldest
        self.load.waiting += 1
        if self.transport is not None:
            self.transport.write(self.request)

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.ended:
            self.transport.abort()
        else:
            self.transport.write(self.request)

    @override
    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        assert self.busy, "data without a request"
        if not end:
            return
        length = int(head.partition(b"Content-Length: ")[2].split(b"\r", 1)[0])
        if len(body) < length:
            return
        self.load.answered(self, head[9:12].decode(), body)
        self.busy = False
        self.load.waiting -= 1
        if not self.kept or b"\r\nConnection: close" in head:
            self.end()
        else:
            self.address.idle.append(self)

    @override
    def connection_lost(self, error: Exception | None) -> None:
        self.end("connection broken" if error else "connection closed without an answer", error)

    def end(self, reason: str = "", error: Exception | None = None) -> None:
        """Reset the connection; count *reason* if it has a request or an *error*. Do nothing the second time."""
        if self.ended:
            return
        self.ended = True
        if error is not None:
            number = getattr(error, "errno", None) or 0
            self.load.counts[f"{reason}: {errno.errorcode.get(number, repr(error))}"] += 1
        elif self.busy:
            self.load.counts[reason] += 1
        self.load.waiting -= self.busy
        self.load.links.remove(self)
        self.address.links -= self.kept
        if self in self.address.idle:
            self.address.idle.remove(self)
        if self.transport is not None:
            self.transport.abort()


class Load:
    """Everything that is open and counted."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.addresses: dict[str, Address] = {}
        self.order: list[Address] = []
        self.links: set[Link] = set()
        self.opening: set[asyncio.Task[None]] = set()
        self.commands = b""
        self.rate = self.pending = 0.0
        self.waiting = 0
        self.claimed: dict[str, str] = {}
        """The identity of each token."""
        self.everybody: list[str] = []
        self.running = True
        self.begin()

    def begin(self) -> None:
        """Count from nothing."""
        self.counts: Counter[str] = Counter()
        self.latency: Counter[float] = Counter()
        self.wrong: deque[str] = deque(maxlen=WRONG_SHOWN)
        self.longest_former = 0.0

    def obey(self) -> None:
        """Follow the orders that have come, if any."""
        try:
            data = os.read(sys.stdin.fileno(), 1 << 20)
        except BlockingIOError:
            return
        self.running = bool(data)
        *lines, self.commands = (self.commands + data).split(b"\n")
        for line in lines:
            self.follow(json.loads(line))

    def follow(self, order: list[Any]) -> None:
        match order:
            case ["own", name, tenure, clients]:
                if name not in self.addresses:
                    self.addresses[name] = Address(name)
                    self.order.append(self.addresses[name])
                address = self.addresses[name]
                assert len(address.tenures) == tenure
                address.tenures.append(tuple(clients))
                address.decided_at, address.former_seconds = time.monotonic(), 0.0
                self.everybody.extend(client for client in clients if client not in self.everybody)
            case ["only", name, tenure, undisturbed]:
                address = self.addresses[name]
                address.oldest = tenure
                if undisturbed:
                    self.longest_former = max(self.longest_former, address.former_seconds)
            case ["hold"]:
                for _ in range(self.waiting, WAITING_MAX):
                    self.connect(random.choice(self.order), random.choice(self.everybody), kept=False)
            case ["rest"]:
                for link in [link for link in self.links if not link.busy]:
                    link.end()
            case ["rate", rate]:
                self.rate, self.pending = rate, 0.0
            case ["report"]:
                print(json.dumps(self.report()), flush=True)  # noqa: T201
                self.begin()
            case other:
                raise ValueError(f"no such order: {other!r}")

    def connect(self, address: Address, named: str, *, kept: bool) -> None:
        link = Link(self, address, kept=kept)
        link.ask(named)
        task = asyncio.get_running_loop().create_task(link.connect(self.port))
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    def send_some(self, seconds: float) -> None:
        """Send the requests of the last *seconds*."""
        self.pending = min(self.pending + seconds * self.rate, self.rate / 10)
        while self.pending >= 1 and self.order:
            self.pending -= 1
            if self.waiting >= WAITING_MAX:
                self.counts["not sent: too many wait"] += 1
            elif random.random() < FRESH_SHARE:
                address = random.choice(self.order)
                self.connect(address, self.choice_of(address), kept=False)
            elif not any(self.ask_again(random.choice(self.order)) for _ in range(TRIES)):
                self.counts["not sent: connections busy"] += 1

    def ask_again(self, address: Address) -> bool:
        """Whether there was a kept connection to ask on, or room for one more."""
        if address.idle:
            address.idle.popleft().ask(self.choice_of(address))
        elif address.links < KEPT_PER_POD:
            self.connect(address, self.choice_of(address), kept=True)
        else:
            return False
        return True

    def choice_of(self, address: Address) -> str:
        """The identity that a request of this address names, or nothing."""
        draw, newest = random.random(), address.tenures[-1]
        if draw < FOREIGN_SHARE and self.everybody:
            return random.choice(self.everybody)
        return random.choice(newest) if newest and draw < NAMED_SHARE else ""

    def answered(self, link: Link, status: str, body: bytes) -> None:
        """Count a response, and check its token."""
        self.counts["requests"] += 1
        self.counts[f"status {status}"] += 1
        if status != "200":
            return
        now, address = time.monotonic(), link.address
        self.latency[round(now - link.sent_at, 4)] += 1
        token = json.loads(body)["access_token"]
        client = self.claimed.get(token)
        if client is None:
            client = self.claimed[token] = read_claims(token)["appid"]
        if not address.permits(client, link.oldest, link.named):
            # A new owner is announced before its pod can exist, but its response may be checked first.
            self.obey()
        if not address.permits(client, link.oldest, link.named):
            self.counts["wrong"] += 1
            self.wrong.append(
                f"{address.name} got {client} and named {link.named!r}; tenures {address.tenures[link.oldest :]}, "
                f"the newest {now - address.decided_at:.3f} s ago"
            )
        elif client not in address.tenures[-1]:
            self.counts["of a former owner, in the window"] += 1
            address.former_seconds = max(address.former_seconds, link.sent_at - address.decided_at)

    async def run(self) -> None:
        """Send requests until the end of the orders, or the first error of the load itself."""
        os.set_blocking(sys.stdin.fileno(), False)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(end_with_error)
        loop.add_reader(sys.stdin.fileno(), self.obey)
        sent = swept = time.monotonic()
        while self.running:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            self.send_some(now - sent)
            sent = now
            if now - swept > 1:
                swept = now
                for link in [link for link in self.links if link.busy and now - link.sent_at > LATE_SECONDS]:
                    link.end("no answer in time")

    def report(self) -> dict[str, Any]:
        seconds = sorted(self.latency.elements()) or [0.0]
        return {
            "counts": self.counts,
            "wrong": list(self.wrong),
            "latency": {f"p{percent:g}": seconds[int(len(seconds) * percent / 100)] for percent in (50, 99, 99.9)},
            "former_seconds": self.longest_former,
        }


def end_with_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End the process, and so the soak: a load that continued would no longer check each response."""
    loop.default_exception_handler(context)
    os._exit(1)


if __name__ == "__main__":
    uvloop.run(Load(int(sys.argv[1])).run())
