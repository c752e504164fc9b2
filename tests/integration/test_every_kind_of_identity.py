"""Tests that pods get tokens of every kind of identity from the real programs.

They cover service principals with a secret and with a certificate, several tenants in one request, the node's own
identities under an exception, and the host endpoint. Excluded: user-assigned identities, which the test of the demo
covers, and managed mode.
"""

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from podidentity.resources import EXCEPTIONS
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ServicePrincipal
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from podidentity_sandbox.tokens import read_claims
from tests.integration.identity_requests import (
    AUDIENCE,
    Answer,
    ask,
    ask_at,
    attach,
    binding,
    exception,
    identity,
    run_bound_pod,
    run_pod,
    secret,
)
from tests.nmi.tokens.sign_in_bench import certificate_of, pfx_of, rsa_key
from tests.support.waiting import until

FLAGS = ("--host-token-types=0,1,2",)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["loopback", pytest.param("namespaces", marks=pytest.mark.root)]
)
async def shared_sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    settings = Settings(namespaces=request.param == "namespaces", environment=os.environ, nmi_flags=FLAGS)
    async with Sandbox(settings) as sandbox:
        yield sandbox


def of_principal(principal: ServicePrincipal, kind: int, reference: dict[str, str]) -> dict[str, Any]:
    """Return the spec of an AzureIdentity for *principal*, with its Secret at *reference*."""
    ids = {"clientID": principal.client_id, "tenantID": principal.tenant_id}
    return {"type": kind, **ids, "clientPassword": reference}


async def test_a_service_principal_with_a_secret_and_its_rotation(shared_sandbox: Sandbox) -> None:
    principal = shared_sandbox.azure.directory.add_principal()
    await shared_sandbox.cluster.apply(secret("by-secret", {"clientSecret": principal.secret.encode()}))
    reference = {"name": "by-secret", "namespace": "default"}
    spec = of_principal(principal, 1, reference)
    context = await run_pod(shared_sandbox, "by-secret", {"aadpodidbinding": "by-secret"})
    await shared_sandbox.cluster.apply(identity("by-secret", **spec))
    await shared_sandbox.cluster.apply(binding("by-secret", "by-secret"))
    answer = await ask(shared_sandbox, context)
    assert answer.status == 200, answer.text
    assert (answer.claims["appid"], answer.claims["aud"]) == (principal.client_id, AUDIENCE)
    assert answer.body["client_id"] == principal.client_id
    application = shared_sandbox.azure.directory.application(principal.client_id)
    assert application is not None
    application.secrets = {"another-secret-of-enough-length": float("-inf")}
    await shared_sandbox.cluster.apply(secret("by-secret", {"clientSecret": b"another-secret-of-enough-length"}))
    refreshed = await ask(shared_sandbox, context, bypass_cache="true")
    assert refreshed.status == 200, refreshed.text


async def test_a_service_principal_with_a_certificate(shared_sandbox: Sandbox) -> None:
    certificate = certificate_of(rsa_key())
    principal = shared_sandbox.azure.directory.add_principal(certificate=certificate)
    pfx = pfx_of(rsa_key(), certificate, b"open sesame")
    await shared_sandbox.cluster.apply(secret("by-certificate", {"certificate": pfx, "password": b"open sesame"}))
    reference = {"name": "by-certificate", "namespace": "default"}
    spec = of_principal(principal, 2, reference)
    context = await run_pod(shared_sandbox, "by-certificate", {"aadpodidbinding": "by-certificate"})
    await shared_sandbox.cluster.apply(identity("by-certificate", **spec))
    await shared_sandbox.cluster.apply(binding("by-certificate", "by-certificate"))
    answer = await ask(shared_sandbox, context)
    assert answer.status == 200, answer.text
    assert answer.claims["appid"] == principal.client_id


async def test_tokens_of_several_tenants_are_an_array_with_the_primary_first(shared_sandbox: Sandbox) -> None:
    directory = shared_sandbox.azure.directory
    principal = directory.add_principal()
    other = directory.add_tenant()
    directory.consent(principal.client_id, other)
    await shared_sandbox.cluster.apply(secret("tenants", {"clientSecret": principal.secret.encode()}))
    await shared_sandbox.cluster.apply(
        identity(
            "tenants",
            type=1,
            clientID=principal.client_id,
            tenantID=principal.tenant_id,
            auxiliaryTenantIDs=[other],
            clientPassword={"name": "tenants", "namespace": "default"},
        )
    )
    await shared_sandbox.cluster.apply(binding("tenants", "tenants"))
    context = await run_pod(shared_sandbox, "tenants", {"aadpodidbinding": "tenants"})
    answer = await ask(shared_sandbox, context)
    assert answer.status == 200, answer.text
    assert [read_claims(each["access_token"])["tid"] for each in answer.body] == [principal.tenant_id, other]


async def test_a_secret_of_another_namespace_is_not_read(shared_sandbox: Sandbox) -> None:
    principal = shared_sandbox.azure.directory.add_principal()
    await shared_sandbox.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "vault"}})
    await shared_sandbox.cluster.apply(secret("foreign", {"clientSecret": principal.secret.encode()}, "vault"))
    reference = {"name": "foreign", "namespace": "vault"}
    spec = of_principal(principal, 1, reference)
    await shared_sandbox.cluster.apply(identity("foreign", **spec))
    await shared_sandbox.cluster.apply(binding("foreign", "foreign"))
    context = await run_pod(shared_sandbox, "foreign", {"aadpodidbinding": "foreign"})
    calls = len(shared_sandbox.azure.aad.calls)
    answer = await ask(shared_sandbox, context)
    assert answer.status == 403
    assert "--allow-cross-namespace-secrets" in answer.body["error_description"]
    assert [call for call in shared_sandbox.azure.aad.calls[calls:] if call.client_id == principal.client_id] == []


async def test_an_exception_gives_the_nodes_own_identities_until_it_is_deleted(shared_sandbox: Sandbox) -> None:
    context = await run_pod(shared_sandbox, "exempt", {"team": "platform"})
    own = shared_sandbox.azure.directory.add_identity(identity_id("nodes-own"))
    attach(shared_sandbox, own)
    assert (await ask(shared_sandbox, context, client_id=own.client_id)).status == 400
    await shared_sandbox.cluster.apply(exception("platform", {"team": "Platform"}))
    answers: list[Answer] = []

    async def granted() -> bool:
        answers.append(await ask(shared_sandbox, context, client_id=own.client_id))
        return answers[-1].status == 200

    await until(granted)
    assert answers[-1].claims["appid"] == own.client_id
    await shared_sandbox.cluster.client.delete(EXCEPTIONS, "default", "platform")

    async def refused() -> bool:
        return (await ask(shared_sandbox, context, client_id=own.client_id)).status == 400

    await until(refused)


async def test_a_node_process_requests_a_pods_token_and_a_pod_cannot(shared_sandbox: Sandbox) -> None:
    known, context = await run_bound_pod(shared_sandbox, "hosted")
    target = f"/host/token/?resource={AUDIENCE}"
    named = {"podns": "default", "podname": "hosted"}
    node = shared_sandbox.contexts["node-0"]
    answer = await ask_at(
        shared_sandbox, node, shared_sandbox.nmis["node-0"].url.removeprefix("http://"), target, named
    )
    assert answer.status == 200, answer.text
    assert answer.body["clientid"] == known.client_id
    assert read_claims(answer.body["token"]["access_token"])["appid"] == known.client_id
    refused = await ask(shared_sandbox, context, path="/host/token/", headers=named, resource=AUDIENCE)
    assert refused.status == 403
    assert "access_token" not in refused.text


async def test_a_refusal_is_reported_by_an_event_on_its_pod(shared_sandbox: Sandbox) -> None:
    context = await run_pod(shared_sandbox, "unbound", {})
    assert (await ask(shared_sandbox, context)).status == 400

    async def event_exists() -> bool:
        found = await shared_sandbox.cluster.client.request("GET", "/api/v1/namespaces/default/events")
        return b'"unbound"' in found and b"label it aadpodidbinding" in found

    await until(event_exists)
