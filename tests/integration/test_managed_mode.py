"""Tests of --operation-mode=managed with the real NMI: bindings and identities of the pod's namespace, without MIC."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from podidentity.resources import ASSIGNED_IDENTITIES
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.identity_requests import (
    ask,
    attach,
    binding,
    identity,
    request_held,
    run_pod,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
"""Attempts that are each shorter than the hold of 1.5 s, until one is answered."""


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["loopback", pytest.param("namespaces", marks=pytest.mark.root)]
)
async def shared_sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    settings = Settings(
        namespaces=request.param == "namespaces",
        programs=False,
        environment=os.environ,
        nmi_flags=["--operation-mode=managed", "--forceNamespaced", "--max-hold=3s"],
    )
    async with Sandbox(settings) as sandbox:
        await sandbox.start_nmi("node-0")
        await sandbox.nmi_active("node-0")
        for name in ("team-a", "team-b"):
            await sandbox.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield sandbox


async def known(shared_sandbox: Sandbox, name: str, namespace: str) -> ManagedIdentity:
    """Attach an identity to the node's VM, create an AzureIdentity for it, and return the identity."""
    own = shared_sandbox.azure.directory.add_identity(identity_id(f"{namespace}-{name}"))
    attach(shared_sandbox, own)
    await shared_sandbox.cluster.apply(
        identity(name, namespace, type=0, resourceID=own.resource_id, clientID=own.client_id)
    )
    return own


async def test_the_bindings_of_the_pods_own_namespace_count(shared_sandbox: Sandbox) -> None:
    own, foreign = await known(shared_sandbox, "web", "team-a"), await known(shared_sandbox, "web", "team-b")
    await shared_sandbox.cluster.apply(binding("web", "web", "team-a"))
    context = await run_pod(shared_sandbox, "web", {"aadpodidbinding": "web"}, namespace="team-a")
    granted = await ask(shared_sandbox, context)
    assert granted.status == 200, granted.text
    assert granted.claims["appid"] == own.client_id
    assert (await ask(shared_sandbox, context, client_id=own.client_id.upper())).status == 200
    assert (await ask(shared_sandbox, context, client_id=foreign.client_id)).status == 404
    assert await shared_sandbox.cluster.client.list(ASSIGNED_IDENTITIES) == []


async def test_a_binding_created_while_a_request_is_held_answers_it(shared_sandbox: Sandbox) -> None:
    own = await known(shared_sandbox, "late", "team-b")
    context = await run_pod(shared_sandbox, "late", {"aadpodidbinding": "late"}, namespace="team-b")
    asked = asyncio.create_task(ask(shared_sandbox, context))
    await request_held(shared_sandbox)
    assert not asked.done()
    await shared_sandbox.cluster.apply(binding("late", "late", "team-b"))
    granted = await asked
    assert granted.status == 200, granted.text
    assert granted.claims["appid"] == own.client_id
