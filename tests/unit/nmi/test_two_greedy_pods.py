"""Two pods that keep their queues full and start the fetches that another pod needs: they delay it by half a second.

Tokens from IMDS, sign-ins, whose pods are of one namespace, and instance metadata. The real parts run in virtual time,
without sockets, threads and processes. Further requests of that time, of the same pod or of others, wait for the end of
calls as well. A refresh ahead of expiry, which no pod is charged for, delays none of another namespace. Excluded:
limits between namespaces (tokens/test_service_principals.py).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from nmi.identity.request import TokenRequest
from nmi.server.metadata_cache import MetadataCache
from nmi.server.passthrough import MetadataProxy
from nmi.server.policy import ServerPolicy
from nmi.server.request import Request
from nmi.server.responses import PlainResponse
from nmi.server.target import ProxiedPaths, resolve
from nmi.subprocesses import Finished
from nmi.tokens.assertions import Assertion, Assertions
from nmi.tokens.broker import TokenBroker
from nmi.tokens.endpoints import Application, SignInPolicy
from nmi.tokens.entra_loader import Loader
from nmi.tokens.federated import FederatedSource
from nmi.tokens.governor import Governor
from nmi.tokens.metrics import TokenMetrics
from nmi.tokens.secrets import ClientSecret, KeyStore, Secrets
from nmi.tokens.service_principal import ServicePrincipalSource
from nmi.tokens.sign_in import SignIn, SignInResult
from nmi.tokens.sign_ins import SignIns
from nmi.tokens.source import Workload
from podidentity.azure.clouds import PUBLIC
from podidentity.azure.errors import Unreachable
from podidentity.azure.federation import Exchange
from podidentity.resources import AzureIdentity, AzureIdentitySpec, Meta, SecretReference
from tests.support.nmi.imds import Reply
from tests.support.nmi.server.fakes import Pieces
from tests.support.nmi.tokens import fakes
from tests.support.nmi.tokens.fakes import REQUEST, wall
from tests.support.virtual_time import now

ADDED_SECONDS = 0.5
"""The time by which the attack may delay another pod's request."""
FILLERS = 62
"""Requests of one attacker that wait at the same time, next to the one for the other pod's token."""
READ_SECONDS = 0.01
"""The API server's response."""
SIGNING_SECONDS = 0.2
"""The signing program: 0.14 s of CPU time for a file with 2,048 to 20,000 rounds."""
POPULAR = "/metadata/instance?api-version=2021-02-01"
TYPES = [1, 2, 3]
ATTACKERS = ("evil/a", "evil/b")

Ask = Callable[[str], Awaitable[object]]


@contextmanager
def flooding(*requests: Ask) -> Iterator[None]:
    """Keep a request of each of *requests* in progress for both attackers."""

    async def repeat(ask: Ask, pod: str) -> None:
        while True:
            await asyncio.gather(ask(pod), return_exceptions=True)

    tasks = [asyncio.create_task(repeat(ask, pod)) for pod in ATTACKERS for ask in requests]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def seconds_of(ask: Ask, pod: str = "shop/cart") -> float:
    begun = now()
    await ask(pod)
    return now() - begun


class ImdsNode:
    """Tokens from IMDS, which responds after *seconds*."""

    def __init__(self, seconds: float) -> None:
        self.node = fakes.Node()
        self.node.imds.behave = lambda _call: Reply(seconds=seconds)
        self.seconds = seconds
        """The duration of *shared* without the attack."""
        self._numbers = count()

    async def shared(self, pod: str) -> object:
        """Request what all pods need."""
        return await self.node.token(REQUEST, pod)

    async def fill(self, pod: str) -> object:
        """Request what no pod has requested before."""
        return await self.node.token(TokenRequest(f"https://{next(self._numbers)}"), pod)


class MetadataNode:
    """Instance metadata: the cache and the proxy with NMI's own limits."""

    def __init__(self, seconds: float) -> None:
        async def respond(*_args: object, **_rest: object) -> SimpleNamespace:
            await asyncio.sleep(seconds)
            pieces = [b"{}", b""]

            async def readany() -> bytes:
                return pieces.pop(0)

            return SimpleNamespace(status=200, headers={}, content_length=2, readany=readany, close=lambda: None)

        session: Any = SimpleNamespace(request=respond)
        proxy = MetadataProxy(session, "http://imds", ServerPolicy())
        self.cache = MetadataCache(proxy, 10.0, now_ns=lambda: int(now() * 1e9))
        self.seconds = seconds
        self._numbers = count()

    async def shared(self, pod: str, target: str = POPULAR) -> None:
        request = Request("GET", target, (("metadata", "true"),), http_1_0=False, keep_alive=True)
        response = await self.cache.forward(pod, request, resolve(target, ProxiedPaths()), Pieces())
        assert isinstance(response, PlainResponse)

    async def fill(self, pod: str) -> None:
        await self.shared(pod, f"{POPULAR}&a={next(self._numbers)}")


class _Secrets(Secrets):
    async def client_secret(self, application: Application) -> ClientSecret:  # type: ignore[explicit-override]
        await asyncio.sleep(READ_SECONDS)
        return ClientSecret("x", f"{application.secret}/1")

    async def key_store(self, application: Application) -> KeyStore:  # type: ignore[explicit-override]
        await asyncio.sleep(READ_SECONDS)
        return KeyStore(b"x", b"", f"{application.secret}/1")


async def _assertion_of(workload: Workload) -> Assertion:
    await asyncio.sleep(READ_SECONDS)
    return Assertion("x", "issuer", workload.service_account, "audience")


@pytest.fixture(autouse=True)
def _signing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sign(_arguments: object, *, given: str, seconds: float) -> Finished:
        assert seconds > SIGNING_SECONDS
        await asyncio.sleep(SIGNING_SECONDS)
        return Finished(0, json.dumps({"assertions": ["x" for _ in json.loads(given)["audiences"]]}), "")

    monkeypatch.setattr("nmi.tokens.service_principal.run", sign)


def identity_of_type(
    type_: int, name: str = "id", auxiliary: tuple[str, ...] = (), namespace: str = "shop"
) -> AzureIdentity:
    """Return the identity *name*, which has a Secret of the same name in its namespace."""
    return AzureIdentity(
        metadata=Meta(name=name, namespace=namespace),
        spec=AzureIdentitySpec(
            type=type_,
            client_id=f"client-of-{name}",
            tenant_id="tenant",
            auxiliary_tenant_ids=list(auxiliary) or None,
            client_password=SecretReference(name=name, namespace=namespace) if type_ != 3 else None,
        ),
    )


class SignInNode:
    """Tokens by sign-ins: everything between the token service and Entra ID, which responds after *seconds*."""

    def __init__(self, type_: int, seconds: float) -> None:
        """*type_*: of the identity that all pods use."""

        async def respond(sign_in: SignIn) -> SignInResult:
            await asyncio.sleep(seconds)
            return SignInResult(f"token for {sign_in.resource}", int(wall()) + 86400, 86400, "86400", "Bearer")

        async def load() -> Callable[..., SimpleNamespace]:
            return lambda *_args, **_settings: SimpleNamespace(token=respond)

        policy = SignInPolicy(PUBLIC)
        sign_ins = SignIns(lambda: cast("Any", None), clock=now, wall_clock=wall, random=lambda: 0.5)
        sign_ins._loader = cast("Loader", SimpleNamespace(load=load))
        principals = ServicePrincipalSource(policy, _Secrets(cast("Any", None)), sign_ins)
        assertions = {Exchange.DIRECT: cast("Assertions", SimpleNamespace(of=_assertion_of))}
        federated = FederatedSource(policy, assertions, sign_ins, enabled=True)
        self.broker = TokenBroker(
            {1: principals, 2: principals, 3: federated},
            Governor(clock=now),
            TokenMetrics(CollectorRegistry()),
            clock=now,
            wall_clock=wall,
            random=lambda: 0.5,
        )
        self.identity = identity_of_type(type_)
        self.seconds = READ_SECONDS + (SIGNING_SECONDS if type_ == 2 else 0.0) + seconds
        self._numbers = count()

    async def token(
        self, identity: AzureIdentity, pod: str, request: TokenRequest = REQUEST, within: float = 45.0
    ) -> object:
        workload = Workload("shop", pod, pod, "default")
        return await self.broker.token(identity, request, pod, within=within, workload=workload)

    async def shared(self, pod: str) -> object:
        return await self.token(self.identity, pod)

    async def fill(self, pod: str) -> object:
        return await self.filling(self.identity)(pod)

    def filling(self, *identities: AzureIdentity) -> Ask:
        """Return requests for ever new tokens, of each of *identities* in turn."""

        async def ask(pod: str) -> object:
            number = next(self._numbers)
            return await self.token(identities[number % len(identities)], pod, TokenRequest(f"https://{number}"))

        return ask


Node = ImdsNode | MetadataNode | SignInNode
KINDS: dict[str, Callable[[float], Node]] = {
    "tokens of IMDS": ImdsNode,
    "metadata": MetadataNode,
    **{f"sign-ins of type {type_}": partial(SignInNode, type_) for type_ in TYPES},
}
kinds = pytest.mark.parametrize("node_of", KINDS.values(), ids=KINDS)


@kinds
@pytest.mark.parametrize("call_seconds", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("arrival", [0.001, 0.3, 0.65, 0.96, 3.0, 7.3])
async def test_a_request_that_joins_an_attackers_queued_fetch_is_hardly_delayed(
    node_of: Callable[[float], Node], arrival: float, call_seconds: float
) -> None:
    node = node_of(call_seconds)
    with flooding(*[node.fill] * FILLERS):
        await asyncio.sleep(arrival)
        first = [asyncio.ensure_future(node.shared(pod)) for pod in ATTACKERS]
        await asyncio.sleep(0.001)
        assert await seconds_of(node.shared) <= node.seconds + ADDED_SECONDS
        await asyncio.gather(*first)


@pytest.mark.parametrize("call_seconds", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("arrival", [0.001, 0.3, 0.96, 3.0])
@pytest.mark.parametrize("type_", TYPES)
async def test_a_request_with_another_identity_of_the_namespace_is_hardly_delayed(
    type_: int, arrival: float, call_seconds: float
) -> None:
    node = SignInNode(type_, call_seconds)
    theirs = [identity_of_type(type_, f"of-the-attackers-{type_}") for type_ in TYPES]
    with flooding(*[node.filling(*theirs)] * FILLERS):
        await asyncio.sleep(arrival)
        assert await seconds_of(node.shared) <= node.seconds + ADDED_SECONDS


@kinds
async def test_an_attacker_that_joins_and_leaves_does_not_cost_the_other_pod_its_turn(
    node_of: Callable[[float], Node],
) -> None:
    node = node_of(0.02)

    async def join_and_leave(pod: str) -> None:
        joined = asyncio.ensure_future(node.shared(pod))
        await asyncio.sleep(0.01)
        joined.cancel()

    with flooding(*[node.fill] * FILLERS, join_and_leave):
        await asyncio.sleep(3.0)
        assert await seconds_of(node.shared) <= node.seconds + ADDED_SECONDS


@pytest.mark.parametrize("pods", [1, 4], ids=["one-pod", "four-pods"])
@pytest.mark.parametrize("call_seconds", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("arrival", [0.3, 1.7, 3.0])
async def test_each_further_request_waits_at_most_for_one_call_more(
    arrival: float, call_seconds: float, pods: int
) -> None:
    node = ImdsNode(call_seconds)
    with flooding(*[node.fill] * FILLERS):
        await asyncio.sleep(arrival)
        durations = await asyncio.gather(*(seconds_of(node.fill, f"shop/{number % pods}") for number in range(4)))
    for number, seconds in enumerate(durations):
        assert seconds - call_seconds <= number * call_seconds + ADDED_SECONDS


@pytest.mark.parametrize("exempt", [False, True], ids=["ordinary", "exempt"])
async def test_exempt_pods_with_full_queues_hardly_delay_another_pod(exempt: bool) -> None:
    node = ImdsNode(0.02)

    async def ask(pod: str) -> object:
        return await node.node.node_identities.token(REQUEST, pod, within=45.0)

    with flooding(*[ask] * (FILLERS // 2)):  # no call is refused, even if both attackers shared one queue
        await asyncio.sleep(3.0)
        assert await seconds_of(ask if exempt else node.shared) <= 0.02 + ADDED_SECONDS


async def test_polling_a_document_whose_reads_an_attacker_always_starts_is_hardly_delayed() -> None:
    node, slowest = MetadataNode(0.02), 0.0

    async def poll(pod: str) -> None:
        await asyncio.sleep(0.01)
        await node.shared(pod)

    with flooding(*[node.fill] * FILLERS, poll):
        for _ in range(300):
            await asyncio.sleep(0.35)
            slowest = max(slowest, await seconds_of(node.shared))
    assert slowest <= 0.02 + ADDED_SECONDS


async def test_an_identity_with_auxiliary_tenants_is_hardly_delayed() -> None:
    node = SignInNode(1, 0.3)
    node.identity = identity_of_type(1, auxiliary=("second", "third"))
    with flooding(*[node.filling(identity_of_type(1, "of-the-attackers"))] * FILLERS):
        await asyncio.sleep(3.0)
        assert await seconds_of(node.shared) <= node.seconds + ADDED_SECONDS


async def test_a_request_whose_sign_in_gets_no_turn_in_its_time_does_not_blame_imds() -> None:
    node = SignInNode(1, 30.0)
    with flooding(*[node.fill] * FILLERS):
        await asyncio.sleep(3.0)
        with pytest.raises(Unreachable, match="within the time of the request"):
            await node.token(node.identity, "evil/a", within=10.0)


async def test_a_slow_refresh_of_one_namespace_delays_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With certificates: two of them are read at the same time."""
    node = SignInNode(2, 0.3)
    slow, ordinary = (identity_of_type(2, name, namespace=name) for name in ("evil", "shop"))
    for identity in (slow, slow, ordinary, ordinary):  # a token that is requested once is not refreshed
        await node.token(identity, f"{identity.metadata.namespace}/a")
    began: list[float] = []

    async def hang(_arguments: object, *, given: str, seconds: float) -> Finished:
        assert "client-of-" in given
        began.append(now())
        await asyncio.sleep(seconds)
        return Finished(1, "", "")

    monkeypatch.setattr("nmi.tokens.service_principal.run", hang)
    await asyncio.sleep(43_202.0)  # half of the lifetime, and two seconds
    assert len(began) == 2
    assert began[1] - began[0] < 1.0
