"""IMDS for tests, in memory or on loopback: real HTTP, answers as scripted, every call kept."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from podidentity.azure.imds import RETRY_DELAYS, ImdsObserver, ImdsSource
from podidentity.http_client.session import HttpSession
from podidentity_sandbox.serving import restartable_listener
from tests.support.memory_network import MemoryNetwork

URL = "http://imds"
TOKEN_PATH = "/metadata/identity/oauth2/token"
SECRET = "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0"


@dataclass
class Answer:
    """One scripted answer; *hang* never answers."""

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False


@dataclass
class Call:
    query: dict[str, str]
    headers: dict[str, str]


class FakeImds:
    """Returns the scripted responses in order, then tokens for every request."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.calls: list[Call] = []
        self.script: list[Answer] = []
        self.gate = asyncio.Event()
        """Answers wait for it."""
        self.gate.set()
        self.arrived = asyncio.Event()
        """Set by each call."""
        self.closing = asyncio.Event()
        self.lifetime = 86400
        self.client_ids: dict[str, str] = {}
        """Resource id in lower case to the client id of its token."""
        self.wall: Callable[[], float] = lambda: 1_700_000_000.0
        self.url = URL

    def session(self) -> HttpSession:
        """Return a session that finds this IMDS in memory. The caller closes it."""
        return self.network.http_session(connections=16, headers={})

    def token_body(self, query: dict[str, str]) -> bytes:
        claims = base64.urlsafe_b64encode(
            json.dumps({"oid": "0b000000-0000-0000-0000-000000000001", "n": len(self.calls)}).encode()
        ).rstrip(b"=")
        expires_on = int(self.wall()) + self.lifetime
        known = self.client_ids.get(query.get("msi_res_id", "").lower(), "c11e0000-0000-0000-0000-000000000000")
        return json.dumps(
            {
                "access_token": f"{SECRET}.{claims.decode()}.c2ln",
                "client_id": query.get("client_id", known),
                "expires_in": str(self.lifetime),
                "expires_on": str(expires_on),
                "ext_expires_in": str(self.lifetime),
                "not_before": str(expires_on - self.lifetime - 300),
                "resource": query["resource"],
                "token_type": "Bearer",
                "refresh_token": "",
            }
        ).encode()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(Call(dict(request.query), dict(request.headers)))
        self.arrived.set()
        scripted = self.script.pop(0) if self.script else Answer()
        await self.gate.wait()
        if scripted.hang:
            await self.closing.wait()
        body = scripted.body if scripted.body is not None else self.token_body(dict(request.query))
        headers = {"Content-Type": "application/json; charset=utf-8", **scripted.headers}
        return web.Response(status=scripted.status, body=body, headers=headers)


@asynccontextmanager
async def running_imds(*, loopback: bool = False) -> AsyncIterator[FakeImds]:
    """Run IMDS in memory, where `FakeImds.session` finds it; or with *loopback* on a socket, at its url."""
    imds = FakeImds()
    app = web.Application()
    app.router.add_get(TOKEN_PATH, imds.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    try:
        if loopback:
            await web.SockSite(runner, restartable_listener("127.0.0.1")).start()
            host, port = runner.addresses[0][:2]
            imds.url = f"http://{host}:{port}"
        elif runner.server is not None:
            imds.network.serve(URL, runner.server)
        yield imds
    finally:
        imds.gate.set()
        imds.closing.set()
        imds.network.cut(URL)
        await runner.cleanup()


class Pauses:
    """A replacement of asyncio.sleep that records the duration of each pause and advances the clock by it."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.now = 5000.0

    async def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def clock(self) -> float:
        return self.now


@asynccontextmanager
async def source_of(
    imds: FakeImds,
    pauses: Pauses,
    *,
    attempt_seconds: float = 5.0,
    retry_delays: tuple[float, ...] = RETRY_DELAYS,
    observe: ImdsObserver = lambda _named, _seconds, _error: None,
) -> AsyncIterator[ImdsSource]:
    """Return an ImdsSource with its own session, whose pauses take no time."""
    async with imds.session() as session:
        yield ImdsSource(
            session,
            imds.url,
            attempt_seconds=attempt_seconds,
            retry_delays=retry_delays,
            observe=observe,
            clock=pauses.clock,
            wall_clock=imds.wall,
            random=lambda: 0.5,
            sleep=pauses.sleep,
        )


def error_body(error: str, description: str) -> bytes:
    return json.dumps({"error": error, "error_description": description}).encode()
