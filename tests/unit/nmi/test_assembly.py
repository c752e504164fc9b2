"""The assembly of the token server: a removed pod's tokens and assertions are dropped in all parts that keep some.

Excluded: what each of these parts drops (`tokens/test_separate_tokens.py`, `tokens/test_federated_identities.py`).
"""

import asyncio
import json
from base64 import urlsafe_b64encode
from contextlib import AsyncExitStack
from unittest.mock import AsyncMock, Mock

from prometheus_client import CollectorRegistry

import nmi.tokens.entra  # noqa: F401  urllib3, which it imports, binds a socket: not in a test in virtual time
from _native.index import Index
from nmi.assembly import TokenParts, TokenServerAssembly
from nmi.identity.metrics import IdentityMetrics
from nmi.settings import NmiSettings
from nmi.tokens.source import Token, Workload
from nmi.tokens.transfer import PassedToken, packets_of
from podidentity.kube.client import Client
from podidentity.resources import AzureIdentity, IdentityType, Pod
from podidentity.telemetry.log_limit import LogLimit
from tests.support.nmi.identity.cluster import OTHER, deliver, handler_of
from tests.support.nmi_objects import NODE, REQUEST, RESOURCE, identity, pod

FEDERATED = identity(type_=IdentityType.FEDERATED, resource_id="", tenant_id="5a4db0c5-0000-4000-8000-000000000001")
CLAIMS = urlsafe_b64encode(b'{"iss": "https://issuer"}').decode().rstrip("=")


async def keep_tokens_of(tokens: TokenParts, owner: Pod, federated: AzureIdentity) -> None:
    """Have the broker keep a token of *owner* alone, and each exchange an assertion."""
    workload = Workload(owner.metadata.namespace, owner.metadata.name, owner.metadata.uid, "builder")
    key = tokens.broker.key_of(federated, RESOURCE, "", workload)
    token = Token("the-token", 10**10, 0, RESOURCE, key.client_id)
    tokens.broker.receive_tokens(packets_of([PassedToken(key, (token,), 3600.0, 1800.0)]))
    await tokens.broker.token(federated, REQUEST, f"{workload.namespace}/{workload.pod}", workload=workload)
    for assertions in tokens.assertions:
        await assertions.of(workload)


def kept(tokens: TokenParts) -> list[object]:
    """Return the numbers of tokens, of timers for their refreshes, and of assertions of each exchange."""
    return [tokens.broker.state()["tokens_in_all"], len(tokens.broker._timers), *map(len, tokens.assertions)]


async def test_a_removed_pod_leaves_neither_tokens_nor_assertions() -> None:
    settings, registry = NmiSettings(node_name=NODE, federated_identities=True), CollectorRegistry()
    response = json.dumps({"status": {"token": f"e30.{CLAIMS}.c2ln"}}).encode()
    client = Mock(spec=Client, request=AsyncMock(return_value=response))
    removed, other = pod(), pod("other", uid="uid-2", addresses=(OTHER,))
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        assembly, identities = TokenServerAssembly(settings, stack, registry, tasks), IdentityMetrics(registry)
        tokens = await assembly.build_tokens(client, identities)
        cluster_cache = assembly.build_cluster_cache(client, tokens, Index(), identities, log_limit=LogLimit())
        deliver(cluster_cache, removed, other)
        for running in (removed, other):
            await keep_tokens_of(tokens, running, FEDERATED)
        assert kept(tokens) == [2, 2, 2, 2]
        handler_of(cluster_cache, removed).deleted(removed)
        assert kept(tokens) == [1, 1, 1, 1]
        handler_of(cluster_cache, other).deleted(other)
        assert kept(tokens) == [0, 0, 0, 0]
