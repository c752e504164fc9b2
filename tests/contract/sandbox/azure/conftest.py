"""A sandbox's Azure for each test: one VM, one scale set, three identities, a controller's service principal."""

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from podidentity_sandbox.aad import Aad
from podidentity_sandbox.arm import Arm
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.directory import Directory, ManagedIdentity, ServicePrincipal
from podidentity_sandbox.imds import TOKEN_PATH, Imds
from podidentity_sandbox.tokens import TokenMint

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
GROUP = "MC_demo"
COMPUTE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Compute"
VM = f"{COMPUTE}/virtualMachines/vm-0"
SET = f"{COMPUTE}/virtualMachineScaleSets/set-0"
MINT = TokenMint()  # making a key takes a tenth of a second: one serves all tests


def encoded(data: bytes) -> str:
    """Return a part of a JWT."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def identity_id(name: str) -> str:
    return (
        f"/subscriptions/{SUBSCRIPTION}/resourceGroups/ids/providers/Microsoft.ManagedIdentity"
        f"/userAssignedIdentities/{name}"
    )


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Azure:
    """The three running emulators and their content."""

    authority: Authority = field(default_factory=Authority)
    directory: Directory = field(default_factory=Directory)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.aad = Aad(self.directory, MINT)
        self.arm = Arm(self.directory, MINT, clock=self.clock)
        self.imds = Imds(MINT, monotonic=self.clock)
        self.vm = self.arm.add_vm(VM)
        self.set = self.arm.add_vmss(SET)
        self.one, self.two, self.three = (self.directory.add_identity(identity_id(name)) for name in ("1", "2", "3"))
        self.controller: ServicePrincipal = self.directory.add_principal()
        self.directory.grant(self.controller.object_id, "Contributor")

    async def start(self) -> None:
        context = self.authority.server_context()
        await self.aad.start(ssl_context=context)
        await self.arm.start(ssl_context=context)
        await self.imds.start_on_loopback(lambda: self.arm.identities_seen_by_imds(VM))
        connector = aiohttp.TCPConnector(ssl=self.authority.client_context())
        self.session = aiohttp.ClientSession(connector=connector)

    async def stop(self) -> None:
        await self.session.close()
        for service in (self.imds, self.arm, self.aad):
            await service.stop()

    def token(self, who: ManagedIdentity | ServicePrincipal, audience: str = "https://management.azure.com/") -> str:
        return MINT.mint(audience=audience, client_id=who.client_id, object_id=who.object_id, tenant_id=who.tenant_id)

    async def ask_imds(
        self, query: str = "", *, headers: dict[str, str] | None = None, path: str = TOKEN_PATH, method: str = "GET"
    ) -> tuple[int, dict[str, Any], aiohttp.ClientResponse]:
        """Request a token for ARM, or with *query*, by default with the header that IMDS requires."""
        query = query or "api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"
        given = {"Metadata": "true"} if headers is None else headers
        async with self.session.request(method, f"{self.imds.url}{path}?{query}", headers=given) as response:
            return response.status, await response.json(), response

    async def ask_aad(
        self, *, tenant: str = "", endpoint: str = "oauth2/v2.0/token", **form: str
    ) -> tuple[int, dict[str, Any]]:
        """Request a token as the controller with its secret, or with another *form*. Return status and body.

        Fields without a value are not sent.
        """
        fields = {
            "grant_type": "client_credentials",
            "client_id": self.controller.client_id,
            "scope": "https://vault.azure.net/.default",
            **({} if "client_assertion" in form else {"client_secret": self.controller.secret}),
            **form,
        }
        url = f"{self.aad.url}/{tenant or self.directory.tenant_id}/{endpoint}"
        async with self.session.post(url, data={name: value for name, value in fields.items() if value}) as response:
            return response.status, await response.json()

    async def call_arm(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        token: str | None = None,
        query: str = "?api-version=2024-11-01",
    ) -> tuple[int, dict[str, Any], aiohttp.ClientResponse]:
        """Call ARM as the controller, or with another *token* ("" for none)."""
        bearer = self.token(self.controller) if token is None else token
        given = {**(headers or {}), **({"Authorization": f"Bearer {bearer}"} if bearer else {})}
        async with self.session.request(method, f"{self.arm.url}{path}{query}", json=body, headers=given) as response:
            return response.status, await response.json(), response


@pytest.fixture
async def azure() -> AsyncIterator[Azure]:
    running = Azure()
    await running.start()
    yield running
    await running.stop()
