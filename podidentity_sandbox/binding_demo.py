"""The demo of AKS identity bindings: unmodified pods use one identity with one federated credential.

The pod sends its request before the cluster has an identity binding, and NMI holds the request until it exists. NMI
refuses another pod, whose service account has no permission to use the identity, and serves it once it has. Entra ID
gets no request from NMI.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from typing_extensions import override

from podidentity.azure.federation import BINDING_VERB
from podidentity.azure.identity_permissions import permission_binding, permission_role
from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.demo_run import POLL_SECONDS, DemoError, Step
from podidentity_sandbox.federated_demo import STRANGER, TRUSTED, FederatedDemo
from podidentity_sandbox.settings import BINDING_FLAGS
from podidentity_sandbox.token_proxy import ProxyCall

NMI_FLAGS: Final = (*BINDING_FLAGS, "--max-hold=12s")
DELAY_SECONDS: Final = 2.0
"""The delay until Entra ID knows the credential of a new identity binding; the real one takes minutes."""


class BindingDemo(FederatedDemo):
    """The identity is of type 3, and NMI uses the sandbox's token proxy."""

    @override
    async def steps(self) -> AsyncIterator[Step]:
        try:
            yield await self._step(
                "start the sandbox, MIC and NMI with --federated-exchange=identityBindings", self._start
            )
            yield await self._step("look at the node's nat rule", self._rule_present)
            yield await self._step(
                "apply an identity of type 3, its binding, two service accounts with a pod each, and the permission "
                "of one",
                self._make,
            )
            yield await self._step("the pods run", self._run)
            yield await self._step("MIC assigns both: AzureAssignedIdentity", self._assigned)
            yield await self._step("the pod asks before the identity binding exists, and is held", self._held)
            yield await self._step("the token is the identity's", self._claims)
            yield await self._step("the response to the other pod names the missing permission", self._refused)
            yield await self._step("with the permission the other pod gets a token too", self._permitted)
            yield await self._step("delete pods, binding, identity, service accounts and permissions", self._unmake)
            yield await self._step("MIC revokes both: AzureAssignedIdentity", self._revoked)
            yield await self._step("no call of ARM and Entra ID, and none of IMDS for a token", self._untouched)
            yield await self._step("stop NMI: the node's nat table", self._rule_gone)
        finally:
            await self._sandbox.stop()

    @override
    async def _held(self) -> str:
        began = self._clock()
        asking = asyncio.create_task(self._ask(TRUSTED), name="the pod asks")
        try:
            while not self._calls():
                if asking.done():
                    raise DemoError(f"the pod was answered before the proxy was asked: {asking.result()}")
                await asyncio.sleep(POLL_SECONDS)
            self._sandbox.azure.token_proxy.bind(DEMO_CLIENT_ID, delay_seconds=DELAY_SECONDS)
            bound = self._clock() - began
            status, self._answer = await asking
        finally:
            asking.cancel()
        if status != 200:
            raise DemoError(f"the pod was answered {status} instead of being held: {self._answer}")
        statuses = ", ".join(str(call.status) for call in self._calls())
        return (
            f"the token proxy answered {statuses}; binding created after {bound:.1f} s, known {DELAY_SECONDS:g} s "
            f"later\nthe pod is answered 200 after {self._clock() - began:.1f} s"
        )

    @override
    async def _refused(self) -> str:
        status, answer = await self._ask(STRANGER)
        text = str(answer.get("error_description", answer))
        if status == 200 or BINDING_VERB not in text:
            raise DemoError(f"the other pod was answered {status} without {BINDING_VERB}: {answer}")
        return f"{status}: {text}"

    async def _permitted(self) -> str:
        await self._apply(_permission(STRANGER))
        while True:
            status, answer = await self._ask(STRANGER)
            if status == 200:
                break
            await asyncio.sleep(POLL_SECONDS)
        credentials = self._sandbox.azure.directory.federated(DEMO_CLIENT_ID, float("inf"))
        if len(credentials) != 1:
            raise DemoError(f"the identity has {len(credentials)} federated credentials instead of one: {answer}")
        return "200; the identity has 1 federated credential, for both service accounts"

    @override
    async def _untouched(self) -> str:
        azure = self._sandbox.azure
        signed_in = [call for call in azure.aad.calls if call.client_id == DEMO_CLIENT_ID]
        if azure.arm.calls or azure.imds.token_calls or signed_in:
            raise DemoError(f"ARM: {azure.arm.calls[:3]}; IMDS: {azure.imds.token_calls[:3]}; AAD: {signed_in[:3]}")
        granted = sum(call.status == 200 for call in self._calls())
        return f"ARM 0, IMDS 0, AAD 0; the token proxy granted {granted} of {len(self._calls())} exchanges"

    def _calls(self) -> list[ProxyCall]:
        return [call for call in self._sandbox.azure.token_proxy.calls if call.status]

    @override
    def _documents(self) -> list[dict[str, Any]]:
        return [*super()._documents(), *_permission(TRUSTED)]

    @override
    async def _unmake(self) -> str:
        _, binding = _permission(STRANGER)  # the role is the same one
        return await self._delete([*self._documents(), binding])


def _permission(account: str) -> list[dict[str, Any]]:
    """Return the objects that let a service account use the demo's identity, as `podidctl explain` prints them."""
    return [permission_role(DEMO_CLIENT_ID), permission_binding(DEMO_CLIENT_ID, "default", account)]
