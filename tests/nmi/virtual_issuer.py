"""An issuer in virtual time: the cluster cache receives events without watches, and sends no reads."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from unittest.mock import patch

from prometheus_client import CollectorRegistry

from _native.index import Index
from nmi.identity.cluster_cache import ClusterCache
from nmi.identity.decide import DecisionPolicy
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.pods import PodEntry
from nmi.identity.request import TokenRequest
from nmi.identity.watches import Watches
from nmi.issuer import Issued, Issuer
from nmi.refusal import Refusal
from podidentity.azure.imds import RawAnswer
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.resources import Resource
from tests.nmi.identity.cluster import deliver, handler_of
from tests.nmi.tokens.fakes import Bench
from tests.support.nmi_objects import ADDRESS, NODE, REQUEST
from tests.virtual_time import now


class VirtualIssuer:
    """An issuer on the running loop's clock, and events of the watches of its cluster cache."""

    def __init__(self, cluster_cache: ClusterCache, index: Index, policy: DecisionPolicy) -> None:
        self.cluster_cache = cluster_cache
        self.measures = IdentityMetrics(CollectorRegistry())
        self._index = index
        self._issuer = Issuer(cluster_cache, Bench().broker, policy, self.measures, clock=now)

    def deliver(self, *resources: Resource) -> None:
        """Deliver them as events of their watches."""
        deliver(self.cluster_cache, *resources)

    def deliver_deletion(self, resource: Resource) -> None:
        """Deliver the removal of *resource* as an event of its watch."""
        handler_of(self.cluster_cache, resource).deleted(resource)

    def at(self, address: str = ADDRESS) -> PodEntry:
        record = self._index.get(address)
        assert record is not None
        assert isinstance(record.owner, PodEntry)
        return record.owner

    async def ask(self, request: TokenRequest = REQUEST, peer: str = ADDRESS) -> Issued | RawAnswer | Refusal:
        return await self._issuer.issue(peer, request)

    async def ask_for(self, name: str = "web") -> Issued | RawAnswer | Refusal:
        """Return the response to a process of the node that names the pod."""
        return await self._issuer.issue_for("ns", name, REQUEST)

    async def refused(self, request: TokenRequest = REQUEST, peer: str = ADDRESS) -> tuple[Refusal, float]:
        """Return the refusal, and the seconds until it."""
        return await refused_after(self.ask(request, peer))

    async def refused_within(self, seconds: float, request: TokenRequest = REQUEST) -> Refusal | None:
        """Return the refusal that a client with this time limit receives; None if it disconnects before."""
        try:
            async with asyncio.timeout(seconds):
                return (await self.refused(request))[0]
        except TimeoutError:
            return None


async def refused_after(asking: Awaitable[Issued | RawAnswer | Refusal]) -> tuple[Refusal, float]:
    """Return the refusal, and the seconds until it."""
    began = now()
    answer = await asking
    assert isinstance(answer, Refusal), answer
    return answer, round(now() - began, 3)


@asynccontextmanager
async def virtual_issuer(
    policy: DecisionPolicy | None = None, *, managed: bool = False
) -> AsyncIterator[VirtualIssuer]:
    """Run the issuer of a node whose watches are current."""

    async def authorization() -> str:
        raise AssertionError("a request to the API server")

    async def finds_nothing(_address: str) -> bool:
        return False

    client = Client(
        ClusterAccess("https://127.0.0.1:1", ssl.create_default_context(), authorization), user_agent="test"
    )
    index, registry = Index(), CollectorRegistry()
    cache = ClusterCache(client, index, IdentityMetrics(registry), node=NODE, managed=managed, clock=now)
    with (
        patch.object(Watches, "silent", lambda _watches: []),
        patch.object(cache.ownership_reads, "find_owner", finds_nothing),
    ):
        cache.check()
        try:
            yield VirtualIssuer(cache, index, policy or DecisionPolicy(managed=managed))
        finally:
            await cache.aclose()
            await client.aclose()
