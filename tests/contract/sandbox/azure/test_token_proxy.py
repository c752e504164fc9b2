"""The sandbox's token proxy with the real client library of applications, which shows that it implements AKS's
protocol, and its faults as NMI sees them.

Excluded: NMI's exchange (`tests/contract/nmi/tokens/test_identity_bindings.py`), where each refusal of the proxy
occurs, and what a user sees of the faults (`tests/support/podidctl/faults`).
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from azure.core.exceptions import AzureError as LibraryError
from azure.identity import WorkloadIdentityCredential

from nmi.tokens.assertions import Assertions
from nmi.tokens.proxy_refusals import MissingStep, NotBoundError
from nmi.tokens.token_proxy import ProxyFailed, ProxyUnreachable
from podidentity.azure.errors import AzureError
from podidentity.azure.federation import BINDING_AUDIENCE, DIRECT_AUDIENCE
from podidentity.exits import StartError
from podidentity_sandbox.fault_control import FaultControl, Service, proxy_error
from podidentity_sandbox.tokens import read_claims
from tests.support.nmi.tokens.binding_bench import BindingBench, binding_bench
from tests.support.nmi.tokens.sign_in_bench import RESOURCE

SCOPE = f"{RESOURCE}/.default"


@pytest.fixture
async def bound(tmp_path: Path) -> AsyncIterator[BindingBench]:
    async with binding_bench(tmp_path, loopback=True) as made:
        yield made


@pytest.fixture
async def pod(
    bound: BindingBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> BindingBench:
    """A pod's environment, as AKS's webhook makes it."""
    # A captured log record would refer to the library's exception, and with it to an open connection.
    caplog.set_level(logging.CRITICAL + 1, "azure")
    (tmp_path / "token").write_text((await Assertions(bound.bench.client, BINDING_AUDIENCE).of(bound.workload)).token)
    for name, value in {
        "AZURE_TENANT_ID": bound.bench.directory.tenant_id,
        "AZURE_CLIENT_ID": bound.managed.client_id,
        "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token"),
        "AZURE_KUBERNETES_TOKEN_PROXY": bound.settings.url,
        "AZURE_KUBERNETES_SNI_NAME": bound.settings.server_name,
        "AZURE_KUBERNETES_CA_FILE": str(bound.ca_file),
    }.items():
        monkeypatch.setenv(name, value)
    return bound


def token() -> str:
    """Return a token by the blocking credential. Block."""
    with WorkloadIdentityCredential(
        enable_azure_proxy=True, retry_total=0, disable_instance_discovery=True
    ) as credential:
        return str(credential.get_token(SCOPE).token)


def refusal() -> str:
    """Return the blocking credential's error, without the connection that the exception refers to. Block."""
    message = "a token was issued"
    try:
        token()
    except LibraryError as error:
        message = f"{type(error).__name__}: {error}"
    gc.collect()  # the library's exception is part of a cycle, and keeps the connection open
    return message


async def test_the_credential_gets_a_token_through_the_proxy(pod: BindingBench) -> None:
    assert read_claims(await asyncio.to_thread(token))["appid"] == pod.managed.client_id
    assert [call.status for call in pod.proxy.calls] == [200]
    assert pod.bench.aad.calls == []


async def test_without_the_permission_the_credential_is_refused(pod: BindingBench) -> None:
    pod.forbid("builder")
    message = await asyncio.to_thread(refusal)
    assert message.startswith("ClientAuthenticationError: ")
    assert "use-managed-identity" in message


async def test_a_token_for_entra_id_is_refused(pod: BindingBench, tmp_path: Path) -> None:
    assertion = await Assertions(pod.bench.client, DIRECT_AUDIENCE).of(pod.workload)
    (tmp_path / "token").write_text(assertion.token)
    message = await asyncio.to_thread(refusal)
    assert message.startswith("ClientAuthenticationError: ")
    assert "audience" in message


async def test_another_server_name_is_not_the_proxy(pod: BindingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_KUBERNETES_SNI_NAME", "other.ests.aks")
    assert "CERTIFICATE_VERIFY_FAILED" in await asyncio.to_thread(refusal)
    assert pod.proxy.calls == []


def control_of(bound: BindingBench) -> FaultControl:
    return FaultControl({"proxy": Service(bound.proxy, proxy_error)})


async def failure(bound: BindingBench) -> AzureError:
    """Return the error of an exchange."""
    with pytest.raises(AzureError) as error:
        await bound.fetch()
    return error.value


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        ("unbound", NotBoundError, MissingStep.IDENTITY_BINDING),
        ("audience", NotBoundError, MissingStep.AUDIENCE),
        ("server-name", NotBoundError, MissingStep.ADDRESS),
        ("403", NotBoundError, MissingStep.PERMISSION),
        ("certificate", ProxyUnreachable, "certificate is not trusted"),
        ("certificate-name", ProxyUnreachable, "certificate is not trusted"),
        ("500", ProxyFailed, "podidctl sandbox fault proxy=500"),
    ],
)
async def test_a_failure_has_its_cause_or_missing_step_until_the_fault_is_cleared(
    bound: BindingBench, value: str, kind: type[AzureError], text: str
) -> None:
    control = control_of(bound)
    await bound.fetch()  # the connection is open
    control.set({"proxy": value})
    assert control.active == {"proxy": value}
    error = await failure(bound)
    assert isinstance(error, kind)
    if isinstance(error, NotBoundError):
        assert error.step is text
    else:
        assert text in error.message
    control.clear(["proxy"])
    assert (await bound.fetch()).token.access_token


async def test_another_fault_replaces_a_condition(bound: BindingBench) -> None:
    control = control_of(bound)
    control.set({"proxy": "unbound"})
    control.set({"proxy": "0.01s"})
    assert (await bound.fetch()).token.access_token
    control.set({"proxy": "audience"})
    assert isinstance(await failure(bound), NotBoundError)


async def test_an_unknown_value_lists_the_conditions_and_changes_nothing(bound: BindingBench) -> None:
    control = control_of(bound)
    control.set({"proxy": "unbound"})
    with pytest.raises(StartError, match="unbound, audience, server-name, certificate, certificate-name, hang"):
        control.set({"proxy": "bound"})
    assert control.active == {"proxy": "unbound"}
