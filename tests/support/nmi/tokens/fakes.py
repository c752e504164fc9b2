"""Brokers on the running loop's clock, over a token source in memory or IMDS, and values that their tests share."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from prometheus_client import CollectorRegistry

from nmi.identity.request import TokenRequest
from nmi.tokens.breaker import Breaker
from nmi.tokens.broker import TokenBroker
from nmi.tokens.cache import CachedToken
from nmi.tokens.governor import Governor
from nmi.tokens.metrics import TokenMetrics
from nmi.tokens.source import (
    CallPermits,
    FetchContext,
    FetchedToken,
    FetchObserver,
    FetchRequest,
    IdentityKey,
    PolicyError,
    Token,
    TokenKey,
    Workload,
)
from nmi.tokens.user_assigned import NodeIdentitySource, UserAssignedSource
from podidentity.azure.errors import AzureError
from podidentity.azure.imds import ImdsSource
from podidentity.http_client.session import HttpSession
from podidentity.resources import EXCHANGE_ANNOTATION, AzureIdentity
from tests.support.nmi.imds import Imds
from tests.support.nmi_objects import CLIENT_ID, RESOURCE, identity
from tests.support.virtual_time import now, settle

REQUEST = TokenRequest(RESOURCE)
FORCE_REFRESH = TokenRequest(RESOURCE, force_refresh=True)


def key_of(client_id: str = CLIENT_ID, xms_cc: str = "") -> TokenKey:
    """The key of a token of RESOURCE."""
    return TokenKey.of(IdentityKey(0, client_id), RESOURCE, xms_cc)


def wall() -> float:
    """A wall clock that runs with the loop's."""
    return 1_700_000_000.0 + now()


@dataclass
class FakeSource:
    """A source that returns a numbered token per fetch. Calls wait for *gate*, and first raise *failures*."""

    lifetime: float = 86400.0
    sent: int = 0
    """The number of calls that have received a permit."""
    requests: list[FetchRequest] = field(default_factory=list)
    contexts: list[FetchContext] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    same: bool = False
    """Whether each fetch returns the same token with its decreasing lifetime."""
    first_expiry: float | None = None
    auxiliary: tuple[Token, ...] = ()
    forbidden: PolicyError | None = None
    version: str = ""
    """The version of the Secret that was read last."""
    stored_version: str = ""
    """The version of the Secret that the next fetch reads."""
    retry: Callable[[], bool] = lambda: False
    """Whether another call follows immediately."""

    per_pod: bool = False
    planned_failures: list[AzureError] = field(default_factory=list)
    """Errors that each fetch reports to its observer first."""
    signs_in: bool = False
    """Whether it calls a sign-in endpoint instead of IMDS, so that it needs no permit."""

    @property
    def workloads(self) -> list[Workload | None]:
        return [request.workload for request in self.requests]

    def __post_init__(self) -> None:
        self.gate.set()

    def check(self, identity: AzureIdentity) -> None:
        if self.forbidden is not None:
            raise self.forbidden

    def key(self, identity: AzureIdentity) -> IdentityKey:
        spec, exchange = identity.spec, identity.metadata.annotation(EXCHANGE_ANNOTATION)
        ids = spec.client_id.lower(), spec.resource_id.lower()
        return IdentityKey(spec.type, *ids, endpoint=exchange, credential=self.version)

    def accept(self, identity: AzureIdentity, credential: str) -> None:
        self.version = credential

    async def fetch(self, request: FetchRequest, context: FetchContext) -> FetchedToken:
        self.requests.append(request)
        self.contexts.append(context)
        for error in self.planned_failures:
            context.observer.retrying(error)
        permit = _permits_of(context.observer) if self.signs_in else context.call_permit
        self.version = version = self.stored_version
        while True:
            async with permit():
                self.sent += 1
                number = self.sent
                await self.gate.wait()
                if self.failures:
                    raise self.failures.pop(0)
            if not self.retry():
                break
        if self.first_expiry is None or not self.same:
            self.first_expiry = wall() + self.lifetime
        token = Token(
            access_token="the-same" if self.same else f"token-{number}",
            expires_on=int(self.first_expiry),
            not_before=0,
            resource=request.resource,
            client_id=request.identity.spec.client_id,
        )
        return FetchedToken(
            token,
            int(self.first_expiry - wall()),
            "0b000000-0000-0000-0000-000000000001",
            auxiliary=self.auxiliary,
            credential=version,
            correlation=f"call-{number}",
        )


def _permits_of(observer: FetchObserver) -> CallPermits:
    @asynccontextmanager
    async def sending() -> AsyncIterator[None]:
        with observer.sending():
            yield

    return sending


class Bench:
    """A broker over one FakeSource, on the running loop's clock."""

    def __init__(self, *, caching: bool = True, at_once: int = 5) -> None:
        self.source = FakeSource()
        self.registry = CollectorRegistry()
        self.measures = TokenMetrics(self.registry)
        self.governor = Governor(at_once=at_once, clock=now)
        self.unasked_seconds = 0.0
        """Seconds added to the age of a token's last use: `Usage` uses the machine's own clock."""
        self.broker = TokenBroker(
            {0: self.source, 3: self.source},
            self.governor,
            self.measures,
            caching=caching,
            clock=now,
            wall_clock=wall,
            usage_clock_ns=lambda: time.monotonic_ns() + round(self.unasked_seconds * 1e9),
            random=lambda: 0.5,
        )

    async def hold(self, request: TokenRequest = REQUEST, pod: str = "ns/a") -> asyncio.Task[str]:
        """Return a request whose fetch waits for the gate, which is closed from now on."""
        self.source.gate.clear()
        fetching = asyncio.create_task(self.token(request, pod))
        await settle()
        return fetching

    async def token(self, request: TokenRequest = REQUEST, pod: str = "ns/a") -> str:
        cached = await self.broker.token(identity(), request, pod)
        return cached.token.access_token


class Node:
    """Everything between the token service and IMDS, without jitter and HTTP. A call takes 0.02 s."""

    def __init__(self, *, caching: bool = True) -> None:
        self.imds = Imds()
        self.imds.seconds = 0.02
        self.imds.wall = wall
        self.breaker = Breaker(clock=now, random=lambda: 0.5)
        self.governor = Governor(breaker=self.breaker, clock=now)
        self.registry = CollectorRegistry()
        self.measures = TokenMetrics(self.registry)
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
        whose = identity(client_id=client_id or CLIENT_ID, namespace=namespace)
        return await self.broker.token(whose, request, pod, within=within)
