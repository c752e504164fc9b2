"""Tests of --operation-mode=managed with the real NMI: bindings and identities of the pod's namespace, without MIC."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.sandbox import Sandbox, Settings
from tests.integration.walking import ask, attach, binding, eventually, identity, run_pod

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["loopback", pytest.param("namespaces", marks=pytest.mark.root)]
)
async def town(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
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


async def known(town: Sandbox, name: str, namespace: str) -> ManagedIdentity:
    """Attach an identity to the node's VM, create an AzureIdentity for it, and return the identity."""
    own = town.azure.directory.add_identity(identity_id(f"{namespace}-{name}"))
    attach(town, own)
    await town.cluster.apply(identity(name, namespace, type=0, resourceID=own.resource_id, clientID=own.client_id))
    return own


async def test_the_bindings_of_the_pods_own_namespace_count(town: Sandbox) -> None:
    own, foreign = await known(town, "web", "team-a"), await known(town, "web", "team-b")
    await town.cluster.apply(binding("web", "web", "team-a"))
    context = await run_pod(town, "web", {"aadpodidbinding": "web"}, namespace="team-a")
    granted = await ask(town, context)
    assert granted.status == 200, granted.text
    assert granted.claims["appid"] == own.client_id
    assert (await ask(town, context, client_id=own.client_id.upper())).status == 200
    assert (await ask(town, context, client_id=foreign.client_id)).status == 404
    assert await town.cluster.client.list(ASSIGNED_IDENTITIES) == []


async def test_a_deleted_binding_ends_the_grant(town: Sandbox) -> None:
    await known(town, "ends", "team-a")
    await town.cluster.apply(binding("ends", "ends", "team-a"))
    context = await run_pod(town, "ends", {"aadpodidbinding": "ends"}, namespace="team-a")
    assert (await ask(town, context)).status == 200
    await town.cluster.client.delete(BINDINGS, "team-a", "ends")

    async def refused() -> bool:
        return (await ask(town, context)).status == 404

    await eventually(refused)


async def test_a_binding_created_while_a_request_is_held_answers_it(town: Sandbox) -> None:
    own = await known(town, "late", "team-b")
    context = await run_pod(town, "late", {"aadpodidbinding": "late"}, namespace="team-b")
    asked = asyncio.create_task(ask(town, context))
    await asyncio.sleep(0.5)
    assert not asked.done()
    await town.cluster.apply(binding("late", "late", "team-b"))
    granted = await asked
    assert granted.status == 200, granted.text
    assert granted.claims["appid"] == own.client_id


async def test_a_pod_without_the_label_is_refused_immediately(town: Sandbox) -> None:
    context = await run_pod(town, "plain", {}, namespace="team-a")
    refused = await ask(town, context)
    assert (refused.status, refused.body["error_description"]) == (400, "Identity not found")
