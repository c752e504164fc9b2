"""The sandbox's token proxy with the real client library of applications, which shows that it implements AKS's
protocol.

Excluded: NMI's exchange (`tests/nmi/tokens/test_identity_bindings.py`), where each refusal of the proxy occurs.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from azure.core.exceptions import AzureError
from azure.identity import WorkloadIdentityCredential, aio

from nmi.tokens.assertions import Assertions
from podidentity.azure.federation import BINDING_AUDIENCE, DIRECT_AUDIENCE
from podidentity_sandbox.tokens import read_claims
from tests.nmi.tokens.binding_bench import BindingBench, binding_bench
from tests.nmi.tokens.sign_in_bench import RESOURCE

SCOPE = f"{RESOURCE}/.default"


@pytest.fixture
async def bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[BindingBench]:
    """A pod's environment, as AKS's webhook makes it."""
    # A captured log record would refer to the library's exception, and with it to an open connection.
    caplog.set_level(logging.CRITICAL + 1, "azure")
    async with binding_bench(tmp_path, loopback=True) as made:
        token_file = tmp_path / "token"
        token_file.write_text((await Assertions(made.bench.client, BINDING_AUDIENCE).of(made.workload)).token)
        for name, value in {
            "AZURE_TENANT_ID": made.bench.directory.tenant_id,
            "AZURE_CLIENT_ID": made.managed.client_id,
            "AZURE_FEDERATED_TOKEN_FILE": str(token_file),
            "AZURE_KUBERNETES_TOKEN_PROXY": made.settings.url,
            "AZURE_KUBERNETES_SNI_NAME": made.settings.server_name,
            "AZURE_KUBERNETES_CA_FILE": str(made.ca_file),
        }.items():
            monkeypatch.setenv(name, value)
        yield made


def token() -> str:
    """Return a token by the blocking credential. Block."""
    with WorkloadIdentityCredential(
        enable_azure_proxy=True, retry_total=0, disable_instance_discovery=True
    ) as credential:
        return str(credential.get_token(SCOPE).token)


def refusal() -> str:
    """Return the blocking credential's error, without the connection that the exception refers to. Block."""
    said = "a token was issued"
    try:
        token()
    except AzureError as error:
        said = f"{type(error).__name__}: {error}"
    gc.collect()  # the library's exception is part of a cycle, and keeps the connection open
    return said


async def test_the_blocking_credential_gets_a_token_through_the_proxy(bound: BindingBench) -> None:
    assert read_claims(await asyncio.to_thread(token))["appid"] == bound.managed.client_id
    assert [call.status for call in bound.proxy.calls] == [200]
    assert bound.bench.aad.calls == []


async def test_the_asynchronous_credential_gets_a_token_through_the_proxy(bound: BindingBench) -> None:
    async with aio.WorkloadIdentityCredential(enable_azure_proxy=True, retry_total=0) as credential:
        got = await credential.get_token(SCOPE)
    assert read_claims(got.token)["appid"] == bound.managed.client_id
    assert [call.status for call in bound.proxy.calls] == [200]


async def test_without_the_permission_the_credential_is_refused(bound: BindingBench) -> None:
    bound.forbid("builder")
    said = await asyncio.to_thread(refusal)
    assert said.startswith("ClientAuthenticationError: ")
    assert "use-managed-identity" in said


async def test_a_token_for_entra_id_is_refused(bound: BindingBench, tmp_path: Path) -> None:
    assertion = await Assertions(bound.bench.client, DIRECT_AUDIENCE).of(bound.workload)
    (tmp_path / "token").write_text(assertion.token)
    said = await asyncio.to_thread(refusal)
    assert said.startswith("ClientAuthenticationError: ")
    assert "audience" in said


async def test_another_server_name_is_not_the_proxy(bound: BindingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_KUBERNETES_SNI_NAME", "other.ests.aks")
    assert "CERTIFICATE_VERIFY_FAILED" in await asyncio.to_thread(refusal)
    assert bound.proxy.calls == []
