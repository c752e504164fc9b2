"""A scriptable IMDS: it records each call and its time, and replies as a test determines, by default with a token.

It is a server in memory or on loopback; or it replaces a session without HTTP, which takes less time.
"""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from podidentity.http_client.errors import ServerDisconnectedError
from podidentity.http_client.session import HttpSession
from podidentity_sandbox.serving import restartable_listener
from tests.support.memory_network import MemoryNetwork
from tests.support.virtual_time import now

URL = "http://imds"
TOKEN_PATH = "/metadata/identity/oauth2/token"
SECRET = "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0"


@dataclass
class Reply:
    """How one call ends, *seconds* after it was sent; None: after the seconds that IMDS takes for each."""

    status: int = 200
    body: bytes | None = None
    """None: a token."""
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    lost: bool = False
    """The connection breaks instead."""


HANG = Reply(seconds=1e6)


@dataclass
class Call:
    query: dict[str, str]
    headers: dict[str, str]
    begun: float

    @property
    def client_id(self) -> str:
        return self.query.get("client_id", "")


@dataclass
class _Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    async def readany(self) -> bytes:
        body, self.body = self.body, b""
        return body

    def close(self) -> None: ...


class Imds:
    """Returns the replies of *script* in order, and then those of *behave*."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.calls: list[Call] = []
        self.script: list[Reply] = []
        self.behave: Callable[[Call], Reply] = lambda _call: Reply()
        self.seconds = 0.0
        self.gate = asyncio.Event()
        """Replies wait for it."""
        self.gate.set()
        self.arrived = asyncio.Event()
        """Set by each call."""
        self._closing = asyncio.Event()
        self.lifetime = 86400
        self.client_ids: dict[str, str] = {}
        """Resource id in lower case to the client id of its token."""
        self.wall: Callable[[], float] = lambda: 1_700_000_000.0
        self.url = URL
        self.in_the_air: Counter[frozenset[tuple[str, str]]] = Counter()
        self.most_of_one = 0
        """Calls for the same thing at the same time."""
        self.most_in_the_air = 0
        self.call_of: dict[str, Call] = {}
        """The call that each token answers."""

    def close(self) -> None:
        """Reply to all calls now."""
        self.gate.set()
        self._closing.set()

    def session(self) -> HttpSession:
        """Return a session that finds this IMDS in memory. The caller closes it."""
        return self.network.http_session(connections=16, headers={})

    def token_body(self, query: Mapping[str, str]) -> bytes:
        claims = {"oid": "0b000000-0000-0000-0000-000000000001", "n": len(self.call_of)}
        text = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        expires_on = int(self.wall()) + self.lifetime
        client_id = self.client_ids.get(query.get("msi_res_id", "").lower(), "c11e0000-0000-0000-0000-000000000000")
        return json.dumps(
            {
                "access_token": f"{SECRET}.{text}.c2ln",
                "client_id": query.get("client_id", client_id),
                "expires_in": str(self.lifetime),
                "expires_on": str(expires_on),
                "ext_expires_in": str(self.lifetime),
                "not_before": str(expires_on - self.lifetime - 300),
                "resource": query["resource"],
                "token_type": "Bearer",
                "refresh_token": "",
            }
        ).encode()

    async def _result(self, call: Call) -> tuple[Reply, bytes]:
        """Record the call. Return its reply and the body, after its time."""
        self.calls.append(call)
        self.arrived.set()
        reply = self.script.pop(0) if self.script else self.behave(call)
        key = frozenset(call.query.items())
        self.in_the_air[key] += 1
        self.most_of_one = max(self.most_of_one, self.in_the_air[key])
        self.most_in_the_air = max(self.most_in_the_air, self.in_the_air.total())
        try:
            await self.gate.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.seconds if reply.seconds is None else reply.seconds):
                    await self._closing.wait()
        finally:
            self.in_the_air[key] -= 1
        if reply.body is not None:
            return reply, reply.body
        body = self.token_body(call.query)
        self.call_of[json.loads(body)["access_token"]] = call
        return reply, body

    async def request(self, _method: str, url: str, **_rest: Any) -> _Response:
        """Replace the method of a session."""
        reply, body = await self._result(Call(dict(parse_qsl(urlsplit(url).query)), {}, now()))
        if reply.lost:
            raise ServerDisconnectedError
        return _Response(reply.status, {name.lower(): value for name, value in reply.headers.items()}, body)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        reply, body = await self._result(Call(dict(request.query), dict(request.headers), now()))
        headers = {"Content-Type": "application/json; charset=utf-8", **reply.headers}
        return web.Response(status=reply.status, body=body, headers=headers)


@asynccontextmanager
async def running_imds(*, loopback: bool = False) -> AsyncIterator[Imds]:
    """Run IMDS in memory, where `Imds.session` finds it; or with *loopback* on a socket, at its url."""
    imds = Imds()
    app = web.Application()
    app.router.add_get(TOKEN_PATH, imds.handle)
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
        imds.close()
        imds.network.cut(URL)
        await runner.cleanup()


def error_body(error: str, description: str) -> bytes:
    return json.dumps({"error": error, "error_description": description}).encode()
