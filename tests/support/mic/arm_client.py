"""MIC's client of Resource Manager, and the sandbox's Resource Manager on loopback, which it reaches over TLS."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from azure.core.credentials import AccessToken

from mic.azure.compute import Compute
from mic.azure.identities import HostIdentities, change
from podidentity.azure.clouds import Cloud
from podidentity.azure.resource_ids import Host, parse_provider_id
from podidentity_sandbox.arm import Arm
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.directory import Directory
from podidentity_sandbox.tokens import TokenMint
from tests.support.objects import identity_id, set_id, vm_id

AUDIENCE = "https://management.azure.com"


class Token:
    """A credential that has its token already."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.scopes: list[str] = []

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        self.scopes.extend(scopes)
        return AccessToken(self.token, 2**40)

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


def token_of_mic(directory: Directory, mint: TokenMint) -> str:
    """Return the token of a service principal that may change everything."""
    principal = directory.add_principal()
    directory.grant(principal.object_id, "Contributor")
    return mint.mint(
        audience=AUDIENCE,
        client_id=principal.client_id,
        object_id=principal.object_id,
        tenant_id=directory.tenant_id,
    )


@dataclass
class ArmUnderTest:
    arm: Arm
    directory: Directory
    compute: Compute
    credential: Any
    observed: list[tuple[str, str]]
    authority: Authority

    def bodies(self) -> list[Any]:
        return [call.body for call in self.arm.writes()]

    async def put(self, on: Host, *names: str) -> HostIdentities:
        """Attach the identities to the host."""
        planned = change(await self.compute.get(on), [identity_id(name) for name in names], [])
        assert planned is not None
        return await self.compute.update(on, planned)


def host(text: str) -> Host:
    parsed = parse_provider_id(text)
    assert parsed is not None
    return parsed


@asynccontextmanager
async def serving_arm(credential: Callable[[str], Any] = Token, **options: Any) -> AsyncIterator[ArmUnderTest]:
    """A VM and a scale set without identities, three identities, and the client. *options* of Compute."""
    directory, mint, authority = Directory(), await asyncio.to_thread(TokenMint), await asyncio.to_thread(Authority)
    arm = Arm(directory, mint)
    await arm.start(ssl_context=await asyncio.to_thread(authority.server_context))
    for name in ("one", "two", "three"):
        directory.add_identity(identity_id(name), client_id=f"client-{name}")
    arm.add_vm(vm_id(), operation_seconds=0.0)
    arm.add_vmss(set_id(), operation_seconds=0.0)
    observed: list[tuple[str, str]] = []
    given = credential(token_of_mic(directory, mint))
    compute = Compute(
        given,
        Cloud("sandbox", arm.url, arm.url, f"{AUDIENCE}/", frozenset()),
        user_agent="test",
        ssl_context=authority.client_context(),
        observe=lambda kind, _seconds, outcome: observed.append((kind, outcome)),
        **options,
    )
    try:
        yield ArmUnderTest(arm, directory, compute, given, observed, authority)
    finally:
        await compute.aclose()
        await arm.stop()
