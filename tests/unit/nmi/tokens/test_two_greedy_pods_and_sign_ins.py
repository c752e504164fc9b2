"""Sign-ins while two pods of the same namespace keep their queues full: they delay a third pod by half a second.

The real broker, sources and limits run in virtual time, without sockets, threads and processes. A refresh ahead of
expiry, which no pod is charged for, delays none of another namespace. Excluded: IMDS (`test_two_greedy_pods.py`), and
limits between namespaces (`test_service_principals.py`).
"""

import asyncio
import json
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from nmi.identity.request import TokenRequest
from nmi.subprocesses import Finished
from nmi.tokens.assertions import Assertion, Assertions
from nmi.tokens.broker import TokenBroker
from nmi.tokens.cache import CachedToken
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
from tests.support.nmi.tokens.fakes import REQUEST, wall
from tests.support.virtual_time import now
from tests.unit.nmi.tokens.test_two_greedy_pods import ADDED_SECONDS, FILLERS, Ask, flooding

NAMESPACE = "shop"
READ_SECONDS = 0.01
"""The API server's response."""
SIGNING_SECONDS = 0.2
"""The signing program: 0.14 s of CPU time for a file with 2,048 to 20,000 rounds."""


@dataclass
class _Entra:
    """A replacement of `nmi.tokens.entra.Entra`, and of the class itself: calling it returns it."""

    seconds: float

    def __call__(self, *_args: object, **_settings: object) -> "_Entra":
        return self

    async def load(self) -> "_Entra":
        return self

    async def token(self, sign_in: SignIn) -> SignInResult:
        await asyncio.sleep(self.seconds)
        return SignInResult(f"token for {sign_in.resource}", int(wall()) + 86400, 86400, "86400", "Bearer")


class _Secrets(Secrets):
    async def client_secret(self, application: Application) -> ClientSecret:  # type: ignore[explicit-override]
        await asyncio.sleep(READ_SECONDS)
        return ClientSecret("x", f"{application.secret}/1")

    async def key_store(self, application: Application) -> KeyStore:  # type: ignore[explicit-override]
        await asyncio.sleep(READ_SECONDS)
        return KeyStore(b"x", b"", f"{application.secret}/1")


class _Assertions:
    async def of(self, workload: Workload) -> Assertion:
        await asyncio.sleep(READ_SECONDS)
        return Assertion("x", "issuer", workload.service_account, "audience")


async def _sign(_arguments: object, *, given: str, seconds: float) -> Finished:
    """Replace `nmi.subprocesses.run` for the signing program."""
    assert seconds > SIGNING_SECONDS
    await asyncio.sleep(SIGNING_SECONDS)
    return Finished(0, json.dumps({"assertions": ["x" for _ in json.loads(given)["audiences"]]}), "")


class Node:
    """Everything between the issuer and Entra ID, which responds after *call_seconds*."""

    def __init__(self, call_seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("nmi.tokens.certificate.run", _sign)
        policy = SignInPolicy(PUBLIC)
        sign_ins = SignIns(lambda: cast("Any", None), clock=now, wall_clock=wall, random=lambda: 0.5)
        sign_ins._loader = cast("Loader", _Entra(call_seconds))
        principals = ServicePrincipalSource(policy, _Secrets(cast("Any", None)), sign_ins)
        assertions = {Exchange.DIRECT: cast("Assertions", _Assertions())}
        federated = FederatedSource(policy, assertions, sign_ins, enabled=True)
        self.broker = TokenBroker(
            {1: principals, 2: principals, 3: federated},
            Governor(clock=now),
            TokenMetrics(CollectorRegistry()),
            clock=now,
            wall_clock=wall,
            random=lambda: 0.5,
        )

    async def token(
        self, identity: AzureIdentity, pod: str, request: TokenRequest = REQUEST, within: float = 45.0
    ) -> CachedToken:
        workload = Workload(NAMESPACE, pod, pod, "default")
        return await self.broker.token(identity, request, pod, within=within, workload=workload)


def identity_of_type(
    type_: int, name: str = "id", auxiliary: tuple[str, ...] = (), namespace: str = NAMESPACE
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


TYPES = [1, 2, 3]


def audiences(node: Node, *identities: AzureIdentity) -> Ask:
    """Return requests for ever new tokens, of each of *identities* in turn."""
    numbers = count()

    async def ask(pod: str) -> object:
        number = next(numbers)
        return await node.token(identities[number % len(identities)], pod, TokenRequest(f"https://{number}"))

    return ask


async def added_seconds(node: Node, identity: AzureIdentity, call_seconds: float) -> float:
    """Return the delay of a request of the third pod."""
    begun = now()
    await node.token(identity, "shop/cart")
    signing = SIGNING_SECONDS if identity.spec.type == 2 else 0.0
    return now() - begun - READ_SECONDS - signing - call_seconds


@pytest.mark.parametrize("call_seconds", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("arrival", [0.001, 0.3, 0.96, 3.0])
@pytest.mark.parametrize("type_", TYPES)
async def test_a_request_that_joins_an_attackers_queued_fetch_is_hardly_delayed(
    type_: int, arrival: float, call_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, shared = Node(call_seconds, monkeypatch), identity_of_type(type_)
    with flooding(*[audiences(node, shared)] * FILLERS):
        await asyncio.sleep(arrival)
        first = [asyncio.create_task(node.token(shared, pod)) for pod in ("evil/a", "evil/b")]
        await asyncio.sleep(0.001)
        assert await added_seconds(node, shared, call_seconds) <= ADDED_SECONDS
    await asyncio.gather(*first)


@pytest.mark.parametrize("call_seconds", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("arrival", [0.001, 0.3, 0.96, 3.0])
@pytest.mark.parametrize("type_", TYPES)
async def test_a_request_with_another_identity_of_the_namespace_is_hardly_delayed(
    type_: int, arrival: float, call_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(call_seconds, monkeypatch)
    theirs = [identity_of_type(each, f"of-the-attackers-{each}") for each in TYPES]
    with flooding(*[audiences(node, *theirs)] * FILLERS):
        await asyncio.sleep(arrival)
        assert await added_seconds(node, identity_of_type(type_), call_seconds) <= ADDED_SECONDS


@pytest.mark.parametrize("type_", TYPES)
async def test_an_attacker_that_joins_and_leaves_does_not_cost_the_other_pod_its_turn(
    type_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, shared = Node(0.3, monkeypatch), identity_of_type(type_)

    async def join_and_leave(pod: str) -> None:
        joined = asyncio.create_task(node.token(shared, pod, REQUEST))
        await asyncio.sleep(0.01)
        joined.cancel()

    with flooding(*[audiences(node, shared)] * FILLERS, join_and_leave):
        await asyncio.sleep(3.0)
        assert await added_seconds(node, shared, 0.3) <= ADDED_SECONDS


async def test_an_identity_with_auxiliary_tenants_is_hardly_delayed(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(0.3, monkeypatch)
    with flooding(*[audiences(node, identity_of_type(1, "of-the-attackers"))] * FILLERS):
        await asyncio.sleep(3.0)
        own = identity_of_type(1, auxiliary=("second", "third"))
        assert await added_seconds(node, own, 0.3) <= ADDED_SECONDS


async def test_a_request_whose_sign_in_gets_no_turn_in_its_time_does_not_blame_imds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node, shared = Node(30.0, monkeypatch), identity_of_type(1)
    with flooding(*[audiences(node, shared)] * FILLERS):
        await asyncio.sleep(3.0)
        with pytest.raises(Unreachable, match="within the time of the request"):
            await node.token(shared, "evil/a", within=10.0)


HALF_LIFE = 43_200.0


async def test_a_slow_refresh_of_one_namespace_delays_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With certificates: two of them are read at the same time."""
    node = Node(0.3, monkeypatch)
    slow, other = (identity_of_type(2, name, namespace=name) for name in ("evil", "shop"))
    for identity in (slow, slow, other, other):  # a token that is requested once is not refreshed
        await node.token(identity, f"{identity.metadata.namespace}/a")
    began: list[float] = []

    async def hang(_arguments: object, *, given: str, seconds: float) -> Finished:
        assert "client-of-" in given
        began.append(now())
        await asyncio.sleep(seconds)
        return Finished(1, "", "")

    monkeypatch.setattr("nmi.tokens.certificate.run", hang)
    await asyncio.sleep(HALF_LIFE + 2.0)
    assert len(began) == 2
    assert began[1] - began[0] < 1.0
