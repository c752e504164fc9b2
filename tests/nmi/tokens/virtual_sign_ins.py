"""Sign-ins in virtual time: the real broker, sources and limits, without sockets, threads and processes.

`tests/nmi/tokens/sign_in_bench.py` has the requests on the wire in real time.
"""

import asyncio
import json
from dataclasses import dataclass
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
from podidentity.azure.federation import Exchange
from podidentity.resources import AzureIdentity, AzureIdentitySpec, Meta, SecretReference
from tests.nmi.tokens.fakes import REQUEST, wall
from tests.virtual_time import now

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
