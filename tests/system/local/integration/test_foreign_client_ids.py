"""Tests of an AzureIdentity with a tenant's own resource id and the kubelet's client id, with the real programs.

In both modes, no pod gets the kubelet's token through it, and the corrected object is served. In managed mode, MIC does
not run: the bindings of the pod's namespace count.
"""

import os

from podidentity.resources import ASSIGNED_IDENTITIES, MESSAGE_ANNOTATION
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import SandboxSettings
from tests.support.identity_requests import ask, attach, binding, identity, run_pod, start_again
from tests.support.waiting import until


class Attack:
    """A pod `web` whose identity object names its own resource id and the client id of the kubelet."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        add = sandbox.azure.directory.add_identity
        self.kubelet, self.own = add(identity_id("kubelet")), add(identity_id("own"))
        attach(sandbox, self.kubelet)

    async def begin(self) -> ExecutionContext:
        await self.name_client_id(self.kubelet)
        await self.sandbox.cluster.apply(binding("own", "own"))
        return await run_pod(self.sandbox, "web", {"aadpodidbinding": "own"})

    async def name_client_id(self, named: ManagedIdentity) -> None:
        spec = identity("own", type=0, resourceID=self.own.resource_id, clientID=named.client_id)
        await self.sandbox.cluster.apply(spec)

    async def fails(self, context: ExecutionContext, status: int) -> str:
        """Assert that a request without and one with the kubelet's client id are refused. Return the first body."""
        responses = [
            await ask(self.sandbox, context),
            await ask(self.sandbox, context, client_id=self.kubelet.client_id),
        ]
        assert [response.status for response in responses] == [status, status]
        return responses[0].text

    async def correct(self, context: ExecutionContext) -> None:
        await self.name_client_id(self.own)
        response = await until(lambda: ask(self.sandbox, context), holds=lambda response: response.status == 200)
        assert response.claims["appid"] == self.own.client_id


async def test_standard_mode_assigns_nothing_until_the_object_is_corrected() -> None:
    settings = SandboxSettings(namespaces=False, environment=os.environ, nmi_flags=["--max-hold=3s"])
    async with Sandbox(settings) as sandbox:
        attack = Attack(sandbox)
        context = await attack.begin()

        async def message_exists() -> bool:
            assigned = await sandbox.cluster.client.list(ASSIGNED_IDENTITIES)
            messages = [item.metadata.annotation(MESSAGE_ANNOTATION) for item in assigned if item.spec.pod == "web"]
            return any(attack.own.client_id in message and attack.kubelet.client_id in message for message in messages)

        await attack.fails(context, 404)
        await until(message_exists)
        await attack.fails(context, 404)
        await attack.correct(context)


async def test_managed_mode_refuses_and_serves_the_corrected_object() -> None:
    flags = ["--operation-mode=managed", "--forceNamespaced"]
    async with Sandbox(
        SandboxSettings(namespaces=False, programs=False, environment=os.environ, nmi_flags=flags)
    ) as sandbox:
        await start_again(sandbox)
        attack = Attack(sandbox)
        attach(sandbox, attack.own)
        context = await attack.begin()
        text = await attack.fails(context, 403)
        assert "is not that of the identity on Azure (other_identity" in text
        assert attack.kubelet.client_id not in text
        await attack.correct(context)
        assert await sandbox.cluster.client.list(ASSIGNED_IDENTITIES) == []
