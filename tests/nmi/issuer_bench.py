"""An issuer for tests in virtual time: the cluster cache with a watch, the broker, and IMDS, in memory."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from nmi.identity.decide import DecisionPolicy
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.pods import PodEntry
from nmi.identity.request import TokenRequest
from nmi.issuer import Issued, Issuer
from nmi.refusal import Refusal
from nmi.tokens.broker import TokenBroker
from nmi.tokens.governor import Governor
from nmi.tokens.metrics import TokenMetrics
from nmi.tokens.node_identity import NodeIdentitySource
from nmi.tokens.source import TokenSource
from nmi.tokens.user_assigned import UserAssignedSource
from podidentity.azure.imds import ImdsSource, RawAnswer
from tests.nmi.fake_imds import FakeImds, running_imds
from tests.nmi.identity.cluster import Cluster, running_cluster
from tests.support.nmi_objects import ADDRESS, CLIENT_ID, REQUEST, resource_id


class IssuerBench:
    """Everything between a request and its token."""

    def __init__(
        self,
        cluster: Cluster,
        imds: FakeImds,
        broker: TokenBroker,
        issuer: Issuer,
        measures: IdentityMetrics,
    ) -> None:
        self.cluster = cluster
        self.imds = imds
        self.broker = broker
        self.issuer = issuer
        self._measures = measures

    @property
    def held_requests(self) -> int:
        """Requests that wait for a change of their pod."""
        return self._measures.held

    async def issue(self, request: TokenRequest = REQUEST, peer: str = ADDRESS) -> Issued | RawAnswer | Refusal:
        return await self.issuer.issue(peer, request)

    async def issue_for(
        self, name: str = "web", request: TokenRequest = REQUEST, namespace: str = "ns"
    ) -> Issued | RawAnswer | Refusal:
        return await self.issuer.issue_for(namespace, name, request)

    async def issued(self, request: TokenRequest = REQUEST, peer: str = ADDRESS) -> Issued:
        answer = await self.issue(request, peer)
        assert isinstance(answer, Issued), answer
        return answer

    async def refused(self, request: TokenRequest = REQUEST, peer: str = ADDRESS) -> Refusal:
        answer = await self.issue(request, peer)
        assert isinstance(answer, Refusal), answer
        return answer

    async def with_pod(self, *, assigned: bool = True, **changes: Any) -> PodEntry:
        """A pod at ADDRESS, with its identity unless not *assigned*, as the cluster cache has seen it."""
        return await self.cluster.with_pod(assigned=assigned, **changes)


@asynccontextmanager
async def running_issuer(
    *,
    caching: bool = True,
    retry_delays: tuple[float, ...] = (),
    policy: DecisionPolicy | None = None,
    sources: Mapping[int, TokenSource] | None = None,
    for_exempt: bool = True,
    **cluster_cache: Any,
) -> AsyncIterator[IssuerBench]:
    """*retry_delays*: how often, and after how long, IMDS is tried again; here, once unless said otherwise.

    *sources*: in addition to that of type 0. *for_exempt*: there is a source of the node's own identities.
    """
    async with (
        running_cluster(**cluster_cache) as cluster,
        running_imds() as imds,
        imds.session() as session,
    ):
        imds.client_ids[resource_id("id").lower()] = CLIENT_ID
        registry = CollectorRegistry()
        source = ImdsSource(session, imds.url, retry_delays=retry_delays)
        governor = Governor()
        broker = TokenBroker(
            {0: UserAssignedSource(source, by_resource_id=bool(cluster_cache.get("managed"))), **(sources or {})},
            governor,
            TokenMetrics(registry),
            caching=caching,
            clock=cluster.clock,
            wall_clock=imds.wall,
        )
        cluster.cluster_cache.when_gone(lambda entry: broker.forget_pod(entry.uid))
        measures = IdentityMetrics(CollectorRegistry())
        issuer = Issuer(
            cluster.cluster_cache,
            broker,
            policy or DecisionPolicy(),
            measures,
            node_identities=NodeIdentitySource(source, governor) if for_exempt else None,
            clock=cluster.clock,
        )
        try:
            yield IssuerBench(cluster, imds, broker, issuer, measures)
        finally:
            await broker.aclose()
