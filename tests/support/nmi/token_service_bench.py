"""A token service for tests in virtual time: the cluster cache, the broker, and IMDS, in memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import pytest
from prometheus_client import CollectorRegistry

from nmi.identity.decide import DecisionPolicy
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.pod_entry import PodEntry
from nmi.identity.request import TokenRequest
from nmi.identity.watches import Watches
from nmi.refusal import Refusal
from nmi.token_service import TokenService
from nmi.tokens.broker import TokenBroker
from nmi.tokens.governor import Governor
from nmi.tokens.metrics import TokenMetrics
from nmi.tokens.source import Issued, TokenSource
from nmi.tokens.user_assigned import NodeIdentitySource, UserAssignedSource
from podidentity.azure.imds import ImdsSource, RawResponse
from tests.support.nmi.identity.cluster import Clock, Cluster, running_cluster
from tests.support.nmi.imds import Imds, running_imds
from tests.support.nmi_objects import ADDRESS, CLIENT_ID, REQUEST, resource_id
from tests.support.virtual_time import now


class ServiceBench:
    """Everything between a request and its token."""

    def __init__(
        self,
        cluster: Cluster,
        imds: Imds,
        broker: TokenBroker,
        service: TokenService,
        measures: IdentityMetrics,
    ) -> None:
        self.cluster = cluster
        self.imds = imds
        self.broker = broker
        self.service = service
        self._measures = measures

    @property
    def held_requests(self) -> int:
        """Requests that wait for a change of their pod."""
        return self._measures.held

    async def issue(self, request: TokenRequest = REQUEST, peer: str = ADDRESS) -> Issued | RawResponse | Refusal:
        return await self.service.issue(peer, request)

    async def issue_for(self, name: str = "web", request: TokenRequest = REQUEST) -> Issued | RawResponse | Refusal:
        return await self.service.issue_for("ns", name, request)

    async def issued(self, request: TokenRequest = REQUEST, peer: str = ADDRESS) -> Issued:
        response = await self.issue(request, peer)
        assert isinstance(response, Issued), response
        return response

    async def refused(self, request: TokenRequest = REQUEST, peer: str = ADDRESS) -> Refusal:
        response = await self.issue(request, peer)
        assert isinstance(response, Refusal), response
        return response

    async def refused_after(self, request: TokenRequest = REQUEST, peer: str = ADDRESS) -> tuple[Refusal, float]:
        """Return the refusal, and the seconds until it."""
        return await refused_after(self.issue(request, peer))

    async def refused_within(self, seconds: float, request: TokenRequest = REQUEST) -> Refusal | None:
        """Return the refusal that a client with this time limit receives; None if it disconnects before."""
        try:
            async with asyncio.timeout(seconds):
                return await self.refused(request)
        except TimeoutError:
            return None

    async def with_pod(self, *, assigned: bool = True, **changes: Any) -> PodEntry:
        """A pod at ADDRESS, with its identity unless not *assigned*, as the cluster cache has seen it."""
        return await self.cluster.with_pod(assigned=assigned, **changes)


async def refused_after(issuing: Awaitable[Issued | RawResponse | Refusal]) -> tuple[Refusal, float]:
    """Return the refusal, and the seconds until it."""
    began = now()
    response = await issuing
    assert isinstance(response, Refusal), response
    return response, round(now() - began, 3)


@asynccontextmanager
async def running_token_service(
    *,
    caching: bool = True,
    retry_delays: tuple[float, ...] = (),
    policy: DecisionPolicy | None = None,
    sources: Mapping[int, TokenSource] | None = None,
    **cluster_cache: Any,
) -> AsyncIterator[ServiceBench]:
    """*retry_delays*: how often, and after how long, IMDS is tried again; here, once by default.

    *sources*: in addition to that of type 0.
    """
    clock = Clock()
    async with running_imds() as imds, imds.session() as session:
        imds.client_ids[resource_id("id").lower()] = CLIENT_ID
        registry = CollectorRegistry()
        source = ImdsSource(session, imds.url, retry_delays=retry_delays)
        governor = Governor()
        broker = TokenBroker(
            {0: UserAssignedSource(source, by_resource_id=bool(cluster_cache.get("managed"))), **(sources or {})},
            governor,
            TokenMetrics(registry),
            caching=caching,
            clock=clock,
            wall_clock=imds.wall,
        )
        measures = IdentityMetrics(CollectorRegistry())
        forgetting = running_cluster(clock=clock, on_gone=lambda entry: broker.forget_pod(entry.uid), **cluster_cache)
        try:
            async with forgetting as cluster:
                service = TokenService(
                    cluster.cluster_cache,
                    broker,
                    policy or DecisionPolicy(),
                    measures,
                    NodeIdentitySource(source, governor),
                    clock=clock,
                )
                yield ServiceBench(cluster, imds, broker, service, measures)
        finally:
            await broker.aclose()


@asynccontextmanager
async def token_service_without_reads(
    policy: DecisionPolicy | None = None, *, managed: bool = False
) -> AsyncIterator[ServiceBench]:
    """Run that of a node whose watches are current and report what the test delivers. Reads find no pod."""

    async def finds_nothing(_address: str) -> bool:
        return False

    policy = policy or DecisionPolicy(managed=managed)
    with patch.object(Watches, "silent", lambda _watches: []):
        async with running_token_service(policy=policy, managed=managed, watching=False) as bench:
            cache = bench.cluster.cluster_cache
            with patch.object(cache.ownership_reads, "find_owner", finds_nothing):
                cache.check()
                yield bench
                assert bench.cluster.reads() == []


@pytest.fixture
async def bench() -> AsyncIterator[ServiceBench]:
    """Yield the token service of a node that follows its cluster."""
    async with running_token_service() as running:
        yield running


@pytest.fixture
async def service() -> AsyncIterator[ServiceBench]:
    """Yield a token service that knows what the test delivers."""
    async with token_service_without_reads() as running:
        yield running
