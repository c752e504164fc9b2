"""The process under measurement: a complete token server in a uvloop loop, and batches of requests over loopback.

The client runs in the same thread, in a callback of the same loop: in one pass of the loop it reads the responses and
sends the next requests, and in the same pass the lane answers them. So the order does not depend on the scheduler. The
marks exclude the client, except for its callback's way through the loop (about 2,500 instructions per pass). All other
work of the loop's thread is counted.
"""

import asyncio
import gc
import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.compiled import loaded
from benchmarks.guard.token_server import Served, pod_address
from tests.support.corpus.corpus import ACCEPTED
from tests.support.corpus.costly import COSTLY

marks: Final = loaded(Path(__file__).with_name("marks.pyx"))

NODE: Final = "127.0.0.1"
INSTANCE: Final = (
    b"GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: curl/8.5.0\r\n"
    b"Accept: */*\r\nMetadata: true\r\n\r\n"
)
WARM_UP_ROUNDS: Final = 30
TURNS_MAX: Final = 10_000
SDKS: Final = (
    *("azure-identity-python", "azidentity-go-client-id", "curl", "rust-lower-case-header-name"),
    *("msal4j-doubled-slash-and-mi_res_id", "msi_res_id"),
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rounds of requests. In each round every connection sends the next text of *texts*."""

    name: str
    texts: Sequence[bytes]
    rounds: int
    connections: int = 1
    close: bool = False
    """Whether each round uses new connections."""
    status: bytes = b"200"
    pipelined: int = 1
    """The number of copies of the text in one write."""
    warm_up: int = WARM_UP_ROUNDS
    """Rounds that are not counted, before the others."""

    @property
    def requests(self) -> int:
        return self.rounds * self.connections * self.pipelined


def corpus(name: str) -> bytes:
    """Return the request of that name, whose response is a token."""
    (case,) = (case for case in ACCEPTED if case.name == name)
    return case.data


def with_id(request: bytes, number: int) -> bytes:
    """Return *request* with a request id, as SDKs send it."""
    return request.replace(b"\r\n\r\n", b"\r\nx-ms-client-request-id: %032x\r\n\r\n" % number)


def batches() -> tuple[Batch, ...]:
    """Return the batches.

    The numbers are so large that one random event is not visible, and small enough for seconds.
    """
    plain = corpus("azure-identity-python")
    closing = plain.replace(b"Connection: keep-alive", b"Connection: close")
    unknown = plain.replace(b"https%3A%2F%2Fmanagement.azure.com%2F", b"https%3A%2F%2Fabsent.example%2F")
    no_identity = plain.replace(b"management.azure.com", b"identityless.example")
    no_header = plain.replace(b"Metadata: true\r\n", b"")
    no_resource = plain.replace(b"&resource=https%3A%2F%2Fmanagement.azure.com%2F", b"")
    post = plain.replace(b"GET ", b"POST ")
    elsewhere = plain.replace(b"/metadata/identity/oauth2/token", b"/latest/meta-data/iam/security-credentials")
    # Each connection, and so each pod, uses one SDK.
    varying = [with_id(corpus(name), number) for number in range(20) for name in SDKS]
    return (
        Batch("keep-alive", [plain], 300),
        Batch("keep-alive on 32 connections", [plain], 12, connections=32),
        Batch("connection per request", [closing], 150, close=True),
        Batch("as SDKs vary it", varying, 48, connections=len(SDKS)),
        Batch("16 pipelined", [plain], 24, pipelined=16),
        Batch("refused by the general lane", [unknown], 40, status=b"400"),
        Batch("instance metadata", [INSTANCE], 300),
        Batch("refused: no identity", [no_identity], 300, status=b"400"),
        Batch("refused: no header", [no_header], 300, status=b"400"),
        Batch("refused: no resource", [no_resource], 300, status=b"400"),
        Batch("refused: another method", [post], 300, status=b"405"),
        Batch("refused: unknown path", [elsewhere], 300, status=b"404"),
    )


def costly_batches() -> tuple[Batch, ...]:
    """Return a batch for each of the requests that cost most, on new connections, since refusals end some of them."""
    return tuple(
        Batch(name, [data], 3, close=True, status=str(status).encode(), warm_up=2)
        for name, (status, data) in COSTLY.items()
    )


class BatchClient:
    """Client that sends a batch's rounds, one per pass of the loop, and asserts that each response is as expected."""

    def __init__(self, address: tuple[str, int], batch: Batch) -> None:
        self.address = address
        self.batch = batch
        self.turns = 0
        self._left = 0
        self._next = 0
        self._sockets: list[socket.socket] = []
        self._pending: list[int] = []
        self._sizes: dict[bytes, int] = {}
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    async def send(self, rounds: int) -> int:
        """Send this number of rounds. Return the number of passes of the loop."""
        self._left = rounds
        self.turns = 0
        self._ended = self._loop.create_future()
        self._loop.call_soon(self._begin)
        await self._ended
        return self.turns

    def connect(self) -> None:
        """Connect each socket from the address of another pod."""
        for number in range(self.batch.connections):
            sock = socket.socket()
            sock.bind((pod_address(number), 0))
            sock.connect(self.address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._sockets.append(sock)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def _begin(self) -> None:
        if not self._sockets:
            self.connect()
        for sock in self._sockets:
            text = self.batch.texts[self._next % len(self.batch.texts)]
            self._next += 1
            sock.send(text * self.batch.pipelined)
        self._pending = [self.batch.pipelined] * len(self._sockets)
        self._loop.call_soon(self._turn)
        marks.begin()

    def _turn(self) -> None:
        marks.end()
        try:
            self._read_responses()
        except BaseException as error:  # noqa: BLE001  a callback's would only be logged
            self._ended.set_exception(error)

    def _read_responses(self) -> None:
        self.turns += 1
        assert self.turns < TURNS_MAX, "no responses arrive"
        for number, sock in enumerate(self._sockets):
            if self._pending[number]:
                try:
                    responses = sock.recv(1 << 20)
                except BlockingIOError:
                    continue
                self._pending[number] -= self._count(responses)
        if any(self._pending):
            self._loop.call_soon(self._turn)
            marks.begin()
            return
        if self.batch.close:
            self.close()
        self._left -= 1
        if self._left:
            self._begin()
        else:
            self._ended.set_result(None)

    def _count(self, responses: bytes) -> int:
        """Return the number of complete responses. Raises AssertionError for any other data."""
        count = 0
        while responses:
            head, _, rest = responses.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 " + self.batch.status), head + rest
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert len(rest) >= length
            responses = rest[length:]
            count += 1
        return count


async def count_all(chosen: Sequence[Batch], times: int) -> dict[str, list[dict[str, int]]]:
    """Run each *chosen* batch *times* times after a warm-up, and mark the end of each run."""
    served = Served()
    counted: dict[str, list[dict[str, int]]] = {}
    with socket.create_server((NODE, 0), backlog=128) as listener:
        listener.setblocking(False)
        await served.server.start(listener)
        gc.collect()
        gc.freeze()
        gc.disable()
        marks.instrument()
        for batch in chosen:
            client = BatchClient(listener.getsockname(), batch)
            await client.send(batch.warm_up)
            marks.done(b"warm-up")
            for _ in range(times):
                turns = await client.send(batch.rounds)
                allocations = marks.done(batch.name.encode())
                figures = {"requests": batch.requests, "turns": turns, "allocations": allocations}
                counted.setdefault(batch.name, []).append(figures)
            client.close()
            await asyncio.sleep(0)
            marks.done(b"between")
        await served.server.aclose()
    return counted


def main() -> None:
    """`batches.py TIMES traced|untraced OUTPUT [NAME …]`: the batches of the baseline, or the named ones."""
    times, traced, output, *names = sys.argv[1:]
    if traced == "traced":
        marks.trace()
    every = (*batches(), *costly_batches())
    chosen = [batch for batch in every if batch.name in names] if names else batches()
    counted = uvloop.run(count_all(chosen, int(times)))
    Path(output).write_text(json.dumps(counted))


if __name__ == "__main__":
    main()
