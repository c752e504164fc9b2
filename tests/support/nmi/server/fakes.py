"""A connection, a token service, a proxy and the parts of a server around them, for tests of the general lane."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from _native.index import Index, PodRecord
from _native.ready_responses import ReadyResponse, Usage
from nmi.identity.pod_entry import PodEntry
from nmi.identity.request import TokenRequest
from nmi.refusal import Limit, Reason, Refusal
from nmi.server.decisions import Decisions
from nmi.server.general import GeneralLane, WaitingRequests
from nmi.server.handlers import Handlers
from nmi.server.metrics import ServerMetrics
from nmi.server.policy import ServerPolicy
from nmi.server.request import Call, Request, Stream
from nmi.server.responses import PlainResponse, StreamedResponse
from nmi.server.target import Destination
from nmi.tokens.fair_queue import Charged
from nmi.tokens.source import Issued, Token
from podidentity.azure.imds import RawResponse
from podidentity.resources import Pod, PodMeta
from tests.support.waiting import LIMIT_SECONDS

PEER = "10.0.0.7"
SECRET = "secret-token"
TOKEN_PATH = "/metadata/identity/oauth2/token"
RESOURCE = "https://management.azure.com/"
QUERY = "api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"
TARGET = f"{TOKEN_PATH}?{QUERY}"


def request_bytes(
    target: str = TARGET,
    *,
    method: str = "GET",
    headers: tuple[str, ...] = ("Metadata: true",),
    version: str = "HTTP/1.1",
    body: bytes = b"",
) -> bytes:
    lines = [f"{method} {target} {version}", "Host: 169.254.169.254", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def pod_entry(namespace: str = "shop", name: str = "cart", uid: str = "") -> PodEntry:
    return PodEntry(Pod(metadata=PodMeta(namespace=namespace, name=name, uid=uid or f"uid-{name}")))


def token(life_seconds: int = 3600, access_token: str = SECRET) -> Token:
    return Token(
        access_token=access_token,
        expires_on=1_900_000_000 + life_seconds,
        not_before=1_900_000_000,
        resource=RESOURCE,
        client_id="11111111-2222-3333-4444-555555555555",
    )


def grant(record: PodRecord, *, access_token: str = SECRET, cacheable: bool = True, life: int = 3600) -> Issued:
    now = time.monotonic_ns()
    return Issued(
        token=token(life, access_token),
        record=record,
        generation=record.generation,
        expires_ns=now + life * 10**9,
        fresh_until_ns=now + 60 * 10**9,
        usage=Usage(),
        cacheable=cacheable,
        identity="shop/cart-identity",
        uid="uid-cart",
    )


ServiceResult = Issued | RawResponse | Refusal


class FakeTokenService:
    """A token service that returns the configured responses and records the requests."""

    def __init__(self, respond: Callable[[TokenRequest], Awaitable[ServiceResult] | ServiceResult]) -> None:
        self.respond = respond
        self.requests: list[tuple[str, TokenRequest]] = []
        """By a pod's address, or for a pod's `namespace/name`."""
        self.unanswered = Refusal(Reason.STILL_ASSIGNING, "Not yet.", "see MIC's log")
        """The refusal at the end of a wait."""
        self.entry: PodEntry | None = None
        """The pod that the service found for a request whose client disconnects."""

    async def issue(self, peer: str, request: TokenRequest, record: Call | None = None) -> ServiceResult:
        self.requests.append((peer, request))
        response = self.respond(request)
        try:
            return response if isinstance(response, Issued | RawResponse | Refusal) else await response
        except asyncio.CancelledError:
            if record is not None:
                record.unanswered, record.entry = self.unanswered, self.entry
            raise

    async def issue_for(self, namespace: str, name: str, request: TokenRequest) -> ServiceResult:
        return await self.issue(f"{namespace}/{name}", request)


@dataclass
class FakeProxy:
    forwarded: list[tuple[Charged, Request, Destination]] = field(default_factory=list)
    response: PlainResponse | Refusal = field(default_factory=lambda: PlainResponse(200, b'{"compute":{}}'))

    async def forward(
        self, charged: Charged, request: Request, destination: Destination, stream: Stream
    ) -> PlainResponse | StreamedResponse | Refusal:
        self.forwarded.append((charged, request, destination))
        return self.response


@dataclass(slots=True)
class Pieces:
    """A stream that stores its input."""

    begun: list[StreamedResponse] = field(default_factory=list)
    body: bytes = b""

    def begin(self, response: StreamedResponse) -> None:
        self.begun.append(response)

    def send(self, piece: bytes) -> None:
        self.body += piece


class FakeConnection:
    """A fake of `_native.connection.Connection` with its contract. It fails if its caller violates the contract."""

    def __init__(self, peer: str = PEER, meant: tuple[str, int] | None = None, *, redirected: bool = True) -> None:
        self._peer = peer
        self.meant = meant
        self._redirected = redirected
        self.looked = 0
        """The number of reads of the original destination from the kernel."""
        self.written = bytearray()
        self.state = "handed over"
        self.resumed = 0

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def open(self) -> bool:
        return self.state != "finished"

    def was_redirected(self) -> bool:
        return self._redirected

    def original_destination(self) -> tuple[str, int] | None:
        self.looked += 1
        return self.meant

    def write(self, data: bytes) -> None:
        assert self.open, "written to after finish()"
        self.written += data

    def finish(self) -> None:
        self.state = "finished"

    def pause(self) -> None:
        assert self.open, "paused after finish()"
        self.state = "held"

    def resume(self) -> None:
        assert self.open, "resumed after finish()"
        self.resumed += 1
        self.state = "idle"


@dataclass(frozen=True, slots=True)
class Reply:
    """One parsed response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, str]:
        parsed = json.loads(self.body)
        assert isinstance(parsed, dict)
        return parsed


def replies(written: bytes | bytearray, *, heads_only: bool = False) -> list[Reply]:
    """Return the responses in *written*, which must contain complete responses only."""
    parsed = []
    while written:
        head, end, rest = bytes(written).partition(b"\r\n\r\n")
        assert end, f"no end of a head in {head!r}"
        status_line, *lines = head.decode("latin-1").split("\r\n")
        pairs = [line.partition(": ") for line in lines]
        headers = {name.lower(): value for name, _, value in pairs}
        assert len(headers) == len(lines), f"a field twice in {lines}"
        length = 0 if heads_only else int(headers["content-length"])
        assert len(rest) >= length
        parsed.append(Reply(int(status_line.split(" ")[1]), headers, rest[:length]))
        written = rest[length:]
    return parsed


class ServerUnderTest:
    """The parts of a token server around one or more fake connections, without a lane."""

    def __init__(
        self,
        policy: ServerPolicy | None = None,
        *,
        peer: str = PEER,
        meant: tuple[str, int] | None = None,
        registry: CollectorRegistry | None = None,
        decisions: Decisions | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.policy = policy or ServerPolicy()
        self.peer, self.meant = peer, meant
        self.draining = False
        self.now_ns = now_ns
        self.index = Index()
        self.entry = pod_entry()
        self.index.put(peer, self.entry.record)
        self.token_service = FakeTokenService(lambda _: grant(self.entry.record))
        self.token_service.entry = self.entry
        self.proxy = FakeProxy()
        self.measures = ServerMetrics(registry)
        self.decisions = decisions or Decisions()
        self.handlers = Handlers(
            policy=self.policy,
            index=self.index,
            token_service=self.token_service,
            proxy=self.proxy,
            measures=self.measures,
            decisions=self.decisions,
            now_ns=self.now_ns,
        )
        self.tasks: set[asyncio.Task[None]] = set()
        self.waiting = WaitingRequests(self.policy.response_seconds)
        self.connection = self._accepted()
        self.lane = GeneralLane(self.connection, self)

    def _accepted(self) -> FakeConnection:
        """Return a connection as the lane accepts it under this policy."""
        required = self.policy.redirected_from
        return FakeConnection(self.peer, self.meant, redirected=required is None or self.meant == required)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def settle(self) -> None:
        """Wait until no request is being answered."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while self.tasks:
                await asyncio.wait(set(self.tasks))

    def replies(self) -> list[Reply]:
        """Return the responses on the present connection."""
        return replies(self.connection.written)

    def limits(self) -> dict[Limit, int]:
        """Return how often each limit was exceeded that was."""
        return {limit: count for limit, count in self.measures.limits_hit().items() if count}

    def labels(self) -> set[tuple[str, ...]]:
        """Return the labels of the request metrics that have counted a request."""
        return {series.labels for series in self.measures.histogram.all_series() if sum(series.counts())}

    def ready(self) -> ReadyResponse | None:
        """Return the ready response for RESOURCE."""
        return self.entry.record.find(RESOURCE.encode(), 0, b"", b"", time.monotonic_ns())

    async def ask(self, data: bytes, **options: bool) -> Reply:
        """Return the one response to *data* on a new connection."""
        self.connection = self._accepted()
        self.lane = GeneralLane(self.connection, self)
        self.lane.data_received(data)
        await self.settle()
        (reply,) = replies(self.connection.written, **options)
        return reply


async def never(_: object) -> Refusal:
    """Answer no request, as a token service."""
    await asyncio.Event().wait()
    raise AssertionError


def refusing(reason: Reason, *, retry_after: float | None = None, sentence: str = "No.") -> Callable[..., Refusal]:
    return lambda _: Refusal(reason, sentence, retry_after=retry_after)
