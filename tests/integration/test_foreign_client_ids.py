"""Tests of an AzureIdentity with a tenant's own resource id and the kubelet's client id, with the real programs.

In both modes, no pod gets the kubelet's token through it. A mirror pod, which a kubelet creates, gets no token.
"""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    MESSAGE_ANNOTATION,
)
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.identity_requests import NODE, ask, attach, binding, identity, run_bound_pod, run_pod
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

NETWORKS = ["loopback", pytest.param("namespaces", marks=pytest.mark.root)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=NETWORKS)
async def standard(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    settings = Settings(namespaces=request.param == "namespaces", environment=os.environ, nmi_flags=["--max-hold=3s"])
    async with Sandbox(settings) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=NETWORKS)
async def managed(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    settings = Settings(
        namespaces=request.param == "namespaces",
        programs=False,
        environment=os.environ,
        nmi_flags=["--operation-mode=managed", "--forceNamespaced"],
    )
    async with Sandbox(settings) as sandbox:
        await sandbox.start_nmi(NODE)
        await sandbox.nmi_active(NODE)
        yield sandbox


def kubelets(sandbox: Sandbox) -> ManagedIdentity:
    """Attach an identity that is on the VM before all others, and return it."""
    known = sandbox.azure.directory.add_identity(identity_id("kubelet"))
    attach(sandbox, known)
    return known


async def never_the_kubelets(sandbox: Sandbox, context: ExecutionContext, kubelet: ManagedIdentity) -> list[int]:
    """Request a token without and with the kubelet's client id; return the statuses.

    Assert that no answer contains the kubelet's token.
    """
    answers = [await ask(sandbox, context), await ask(sandbox, context, client_id=kubelet.client_id)]
    for answer in answers:
        assert answer.status != 200 or answer.claims["appid"] != kubelet.client_id
    return [answer.status for answer in answers]


async def test_standard_mode_assigns_nothing_until_the_object_is_corrected(standard: Sandbox) -> None:
    kubelet, own = kubelets(standard), standard.azure.directory.add_identity(identity_id("own"))
    await standard.cluster.apply(identity("own", type=0, resourceID=own.resource_id, clientID=kubelet.client_id))
    await standard.cluster.apply(binding("own", "own"))
    context = await run_pod(standard, "web", {"aadpodidbinding": "own"})

    async def message_exists() -> bool:
        found = await standard.cluster.client.list(ASSIGNED_IDENTITIES)
        messages = [each.metadata.annotation(MESSAGE_ANNOTATION) for each in found if each.spec.pod == "web"]
        return any(own.client_id in message and kubelet.client_id in message for message in messages)

    assert await never_the_kubelets(standard, context, kubelet) == [404, 404]
    await until(message_exists)
    assert await never_the_kubelets(standard, context, kubelet) == [404, 404]

    await standard.cluster.apply(identity("own", type=0, resourceID=own.resource_id, clientID=own.client_id))

    async def granted() -> bool:
        return (await ask(standard, context)).status == 200

    await until(granted)
    assert (await ask(standard, context)).claims["appid"] == own.client_id


async def test_standard_mode_revokes_an_object_whose_client_id_becomes_wrong(standard: Sandbox) -> None:
    kubelet = kubelets(standard)
    own, context = await run_bound_pod(standard, "turns")
    assert (await ask(standard, context)).claims["appid"] == own.client_id
    await standard.cluster.apply(
        identity("turns", type=0, resourceID=own.resource_id, clientID=kubelet.client_id.upper())
    )

    async def turned() -> bool:
        return await never_the_kubelets(standard, context, kubelet) == [404, 404]

    await until(turned)


async def test_managed_mode_refuses_and_serves_the_corrected_object(managed: Sandbox) -> None:
    kubelet, own = kubelets(managed), managed.azure.directory.add_identity(identity_id("own"))
    attach(managed, own)
    await managed.cluster.apply(identity("own", type=0, resourceID=own.resource_id, clientID=kubelet.client_id))
    await managed.cluster.apply(binding("own", "own"))
    context = await run_pod(managed, "web", {"aadpodidbinding": "own"})
    assert await never_the_kubelets(managed, context, kubelet) == [403, 403]
    refused = await ask(managed, context)
    assert "is not that of the identity on Azure (other_identity" in refused.body["error_description"]
    assert kubelet.client_id not in refused.text
    await managed.cluster.apply(identity("own", type=0, resourceID=own.resource_id, clientID=own.client_id))

    async def granted() -> bool:
        return (await ask(managed, context)).status == 200

    await until(granted)
    assert (await ask(managed, context)).claims["appid"] == own.client_id
