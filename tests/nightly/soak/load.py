"""The pods' side of a soak: many connections from the pods' own addresses, with a check of every response.

A separate process, `python -m tests.nightly.soak.load HOST PORT`, one thread around epoll. Commands are lines of JSON:

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

import base64
import errno
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

RESOURCES = ("https%3A%2F%2Fmanagement.azure.com%2F", "https%3A%2F%2Fvault.azure.net")
FRESH_SHARE = 0.2
"""The share of requests on a new connection, like those of programs that send a single request."""
NAMED_SHARE = 0.3
"""How many name their identity by client id."""
FOREIGN_SHARE = 0.0002
"""The share that names another pod's identity. Few: each may be held for as long as --max-hold."""
FORCE_REFRESH_SHARE = 0.0005
"""How many ask for a fresh token, by which IMDS gets to do something."""
KEPT_PER_POD = 2
TRIES = 5
"""Pods looked at for an idle connection: those whose identity is on its way hold theirs."""
WAITING_MAX = 1000
"""Requests that wait at once, in all: when a fault holds up more, no new connection is made for a while. NMI keeps the
memory of the most requests that it ever held, so the most has to be known for its growth to mean anything."""
TICK_SECONDS = 0.004
LATE_SECONDS = 60.0
_RESET = struct.pack("ii", 1, 0)


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

    def possible(self, since: int) -> set[str]:
        return {client for tenure in self.tenures[since:] for client in tenure}


@dataclass(eq=False)
class Link:
    """One connection, with at most one request on it."""

    sock: socket.socket
    address: Address
    kept: bool
    received: bytes = b""
    sent_at: float = 0.0
    oldest: int = 0
    named: str = ""
    writing: bytes = b""
    busy: bool = False


class Load:
    """Everything that is open and counted."""

    def __init__(self, host: str, port: int, *, commands: int = 0) -> None:
        """*commands*: the descriptor that orders come in by; it stays its caller's."""
        self.server = (host, port)
        self.descriptor = commands
        self.addresses: dict[str, Address] = {}
        self.order: list[Address] = []
        self.links: dict[int, Link] = {}
        self.poll = select.epoll()
        os.set_blocking(commands, False)
        self.poll.register(commands, select.EPOLLIN)
        self.commands = b""
        self.rate = 0.0
        self.owed = 0.0
        self.last = time.monotonic()
        self.waiting = 0
        self.known: dict[bytes, str] = {}
        self.everybody: list[str] = []
        self.running = True
        self.begin()

    def close(self) -> None:
        """End every connection."""
        for link in list(self.links.values()):
            self.end(link)
        self.poll.close()

    def begin(self) -> None:
        """Count from nothing."""
        self.counts: Counter[str] = Counter()
        self.latency: Counter[float] = Counter()
        self.wrong: list[dict[str, Any]] = []
        self.longest_former = 0.0

    # Orders.

    def obey(self) -> None:
        """Take the orders that have come, if any."""
        try:
            data = os.read(self.descriptor, 1 << 20)
        except BlockingIOError:
            return
        if not data:
            self.running = False
        *lines, self.commands = (self.commands + data).split(b"\n")
        for line in lines:
            self.do(json.loads(line))

    def do(self, order: list[Any]) -> None:
        """Follow one order."""
        match order:
            case ["own", str(name), int(tenure), list(clients)]:
                self.own(name, tenure, tuple(clients))
            case ["only", str(name), int(tenure), bool(undisturbed)]:
                address = self.addresses[name]
                address.oldest = tenure
                if undisturbed:
                    self.longest_former = max(self.longest_former, address.former_seconds)
            case ["hold"]:
                for _ in range(self.waiting, WAITING_MAX):
                    self.connect(random.choice(self.order), kept=False, named=random.choice(self.everybody))
            case ["rest"]:
                for link in [link for link in self.links.values() if not link.busy]:
                    self.end(link)
            case ["rate", float(rate)]:
                self.rate, self.owed = rate, 0.0
            case ["report"]:
                sys.stdout.write(json.dumps(self.report()) + "\n")
                sys.stdout.flush()
                self.begin()
            case other:
                raise ValueError(f"no such order: {other!r}")

    def own(self, name: str, tenure: int, clients: tuple[str, ...]) -> None:
        address = self.addresses.get(name)
        if address is None:
            address = self.addresses[name] = Address(name)
            self.order.append(address)
        if len(address.tenures) != tenure:
            raise ValueError(f"{name} is at tenure {len(address.tenures)}, not {tenure}")
        address.tenures.append(clients)
        address.decided_at, address.former_seconds = time.monotonic(), 0.0
        self.everybody.extend(client for client in clients if client not in self.everybody)

    # Sending.

    def send_some(self) -> None:
        now = time.monotonic()
        self.owed = min(self.owed + (now - self.last) * self.rate, self.rate / 10)
        self.last = now
        while self.owed >= 1 and self.order:
            self.owed -= 1
            if self.waiting >= WAITING_MAX:
                self.counts["not sent: too many wait"] += 1
            elif random.random() < FRESH_SHARE:
                self.connect(random.choice(self.order), kept=False)
            elif not any(self.ask_again(random.choice(self.order)) for _ in range(TRIES)):
                self.counts["not sent: connections busy"] += 1

    def ask_again(self, address: Address) -> bool:
        """Whether there was a kept connection to ask on, or room for one more."""
        if address.idle:
            self.ask(address.idle.popleft())
        elif address.links < KEPT_PER_POD:
            self.connect(address, kept=True)
        else:
            return False
        return True

    def connect(self, address: Address, *, kept: bool, named: str = "") -> None:
        sock = socket.socket()
        sock.setblocking(False)
        # The port is chosen at connect(): else a few thousand closed connections would hold all of an address's.
        sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
        sock.bind((address.name, 0))
        failed = sock.connect_ex(self.server)
        if failed not in {0, errno.EINPROGRESS}:
            self.counts[f"not connected: {errno.errorcode.get(failed, failed)}"] += 1
            sock.close()
            return
        link = Link(sock, address, kept)
        address.links += kept
        self.links[sock.fileno()] = link
        self.poll.register(sock.fileno(), select.EPOLLIN)
        self.ask(link, named)

    def ask(self, link: Link, named: str = "") -> None:
        address = link.address
        link.named = named or self.choice_of(address)
        extra = f"&client_id={link.named}" if link.named else ""
        if not link.named and random.random() < FORCE_REFRESH_SHARE:
            extra = "&bypass_cache=true"
        end = "" if link.kept else "Connection: close\r\n"
        link.writing = (
            f"GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource={random.choice(RESOURCES)}{extra} "
            f"HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nUser-Agent: soak\r\n"
            f"x-ms-client-request-id: {random.getrandbits(64):016x}\r\n{end}\r\n"
        ).encode()
        link.busy, link.received = True, b""
        self.waiting += 1
        link.sent_at, link.oldest = time.monotonic(), address.oldest
        self.write(link)

    def choice_of(self, address: Address) -> str:
        """The identity that a request of this address names, or nothing."""
        draw, newest = random.random(), address.tenures[-1]
        if draw < FOREIGN_SHARE and self.everybody:
            return random.choice(self.everybody)
        return random.choice(newest) if newest and draw < NAMED_SHARE else ""

    def write(self, link: Link) -> None:
        try:
            sent = link.sock.send(link.writing)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.broken(link, error)
            return
        link.writing = link.writing[sent:]
        wanted = select.EPOLLIN | (select.EPOLLOUT if link.writing else 0)
        self.poll.modify(link.sock.fileno(), wanted)

    # Receiving.

    def serve(self, link: Link, events: int) -> None:
        if events & select.EPOLLOUT and link.writing:
            self.write(link)
        if not events & ~select.EPOLLOUT or link.sock.fileno() not in self.links:
            return
        try:
            data = link.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            self.broken(link, error)
            return
        if not data:
            if link.busy:
                self.counts["connection closed without an answer"] += 1
            self.end(link)
            return
        link.received += data
        head, end, body = link.received.partition(b"\r\n\r\n")
        if not end:
            return
        at = head.find(b"Content-Length: ")
        length = int(head[at + 16 :].split(b"\r", 1)[0])
        if len(body) >= length:
            self.answered(link, head, body)

    def answered(self, link: Link, head: bytes, body: bytes) -> None:
        status = head[9:12].decode()
        self.counts["requests"] += 1
        self.counts[f"status {status}"] += 1
        if status == "200":
            now = time.monotonic()
            self.latency[round(now - link.sent_at, 4)] += 1
            self.judge(link, body, now)
        link.busy = False
        self.waiting -= 1
        if not link.kept or b"\r\nConnection: close" in head:
            self.end(link)
        else:
            link.address.idle.append(link)

    def judge(self, link: Link, body: bytes, now: float) -> None:
        start = body.find(b'"access_token":"') + 16
        token = body[start : body.find(b'"', start)]
        client = self.known.get(token)
        if client is None:
            client = self.known[token] = claimed(token)
        address = link.address
        if client not in address.possible(link.oldest):
            # A new owner is announced before its pod can exist, but its response may be checked first.
            self.obey()
        if client not in address.possible(link.oldest) or (link.named and client != link.named):
            self.counts["wrong"] += 1
            if len(self.wrong) < 50:
                self.wrong.append(
                    {
                        "address": address.name,
                        "got": client,
                        "named": link.named,
                        "tenures": [list(tenure) for tenure in address.tenures[-4:]],
                        "possible from": link.oldest - len(address.tenures),
                        "seconds since the newest was announced": now - address.decided_at,
                    }
                )
        elif client not in address.tenures[-1]:
            self.counts["of a former owner, in the window"] += 1
            address.former_seconds = max(address.former_seconds, link.sent_at - address.decided_at)

    def broken(self, link: Link, error: OSError) -> None:
        self.counts[f"connection broken: {errno.errorcode.get(error.errno or 0, error)}"] += 1
        self.end(link)

    def end(self, link: Link) -> None:
        descriptor = link.sock.fileno()
        if descriptor not in self.links:
            return
        del self.links[descriptor]
        self.waiting -= link.busy
        if link.kept:
            link.address.links -= 1
            if link in link.address.idle:
                link.address.idle.remove(link)
        link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)  # no port lies in TIME_WAIT on our side
        link.sock.close()

    # The loop.

    def run(self) -> None:
        swept = time.monotonic()
        while self.running:
            for descriptor, events in self.poll.poll(TICK_SECONDS, 512):
                if descriptor == self.descriptor:
                    self.obey()
                elif (link := self.links.get(descriptor)) is not None:
                    self.serve(link, events)
            self.send_some()
            if time.monotonic() - swept > 1:
                swept = time.monotonic()
                for link in [each for each in self.links.values() if each.busy and swept - each.sent_at > LATE_SECONDS]:
                    self.counts["no answer in time"] += 1
                    self.end(link)

    def report(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts),
            "wrong": self.wrong,
            "latency": {f"p{percent:g}": self.quantile(percent / 100) for percent in (50, 99, 99.9)},
            "former_seconds": self.longest_former,
        }

    def quantile(self, share: float) -> float:
        """Return the seconds within which this share of the tokens arrived; 0 without a token."""
        missing = share * self.latency.total()
        for seconds, count in sorted(self.latency.items()):
            missing -= count
            if missing <= 0:
                return seconds
        return 0.0


def claimed(token: bytes) -> str:
    """Return the claim appid, unverified: the value from the mint, or an empty one."""
    payload = token.split(b".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))["appid"])


if __name__ == "__main__":
    Load(sys.argv[1], int(sys.argv[2])).run()
