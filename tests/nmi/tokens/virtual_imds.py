"""IMDS in virtual time: the real source, governor, breaker and broker with a session that has no sockets.

This fake does not use HTTP, because the clock of sockets cannot be virtual. `tests/podidentity/azure_imds` tests the
requests on the wire in real time.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from prometheus_client import CollectorRegistry

from nmi.identity.request import TokenRequest
from nmi.tokens.breaker import Breaker
from nmi.tokens.broker import TokenBroker
from nmi.tokens.cache import CachedToken
from nmi.tokens.governor import Governor
from nmi.tokens.metrics import TokenMetrics
from nmi.tokens.node_identity import NodeIdentitySource
from nmi.tokens.user_assigned import UserAssignedSource
from podidentity.azure.imds import ImdsSource
from podidentity.http_client.errors import ServerDisconnectedError
from podidentity.http_client.session import HttpSession
from tests.nmi.tokens.fakes import REQUEST, identity, wall
from tests.virtual_time import now


@dataclass
class Reply:
    """How one call ends, *seconds* after it was sent."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    seconds: float = 0.02
    lost: bool = False
    """The connection breaks instead."""


HANG = Reply(seconds=1e6)
Call = tuple[str, str, str, bool]
"""Client id, resource, capabilities, and whether the request skips caches."""


@dataclass
class _Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    async def readany(self) -> bytes:
        body, self.body = self.body, b""
        return body

    def close(self) -> None: ...


class VirtualImds:
    """A replacement of the session. *behave* determines the result of a call; by default it is a token."""

    def __init__(self) -> None:
        self.behave: Callable[[Call], Reply] = lambda _call: Reply()
        self.begun: list[float] = []
        self.calls: list[Call] = []
        self.in_the_air: Counter[Call] = Counter()
        self.most_of_one = 0
        """Calls for the same thing at the same time."""
        self.most_in_the_air = 0
        self.lifetime = 86400

    async def request(self, _method: str, url: str, **_rest: Any) -> _Response:
        query = dict(parse_qsl(urlsplit(url).query))
        call = (query.get("client_id", ""), query["resource"], query.get("xms_cc", ""), "bypass_cache" in query)
        self.calls.append(call)
        self.begun.append(now())
        self.in_the_air[call] += 1
        self.most_of_one = max(self.most_of_one, self.in_the_air[call])
        self.most_in_the_air = max(self.most_in_the_air, sum(self.in_the_air.values()))
        number = len(self.calls)
        try:
            reply = self.behave(call)
            await asyncio.sleep(reply.seconds)
            if reply.lost:
                raise ServerDisconnectedError
            body = reply.body if reply.body is not None else self._token(call, number)
            return _Response(reply.status, {name.lower(): value for name, value in reply.headers.items()}, body)
        finally:
            self.in_the_air[call] -= 1

    def _token(self, call: Call, number: int) -> bytes:
        client_id, resource, capabilities, _ = call
        return json.dumps(
            {
                "access_token": f"{client_id}|{resource}|{capabilities}|{number}",
                "client_id": client_id,
                "expires_in": str(self.lifetime),
                "expires_on": str(int(wall()) + self.lifetime),
                "resource": resource,
                "token_type": "Bearer",
            }
        ).encode()


class Node:
    """Everything between the issuer and IMDS, on the running loop's clock, without jitter."""

    def __init__(self, *, caching: bool = True) -> None:
        self.imds = VirtualImds()
        self.breaker = Breaker(clock=now, random=lambda: 0.5)
        self.governor = Governor(breaker=self.breaker, clock=now)
        self.measures = TokenMetrics(CollectorRegistry())
        source = ImdsSource(
            cast("HttpSession", self.imds),
            "http://imds",
            observe=self.measures.observe_imds,
            clock=now,
            wall_clock=wall,
            random=lambda: 0.5,
        )
        self.node_identities = NodeIdentitySource(source, self.governor)
        self.broker = TokenBroker(
            {0: UserAssignedSource(source, by_resource_id=False)},
            self.governor,
            self.measures,
            caching=caching,
            clock=now,
            wall_clock=wall,
            random=lambda: 0.5,
        )

    async def token(
        self,
        request: TokenRequest = REQUEST,
        pod: str = "ns/a",
        within: float = 45.0,
        client_id: str = "",
        namespace: str = "ns",
    ) -> CachedToken:
        whose = identity(client_id, namespace=namespace) if client_id else identity(namespace=namespace)
        return await self.broker.token(whose, request, pod, within=within)
