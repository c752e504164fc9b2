"""Tests that each SDK, in a pod without a binding, fails with its own error after a single token request.

This is the purpose of the 400 with "Identity not found"; a held request gets a 404, and SDKs repeat it. The tests fix
the resulting error of each SDK, because operators see it.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import pytest

from tests.system.sdks.applications import Application
from tests.system.sdks.sdk_sandbox import SdkSandbox

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]


@dataclass(frozen=True, slots=True)
class Failure:
    """Names that the SDK uses for the failure."""

    unnamed: str
    """The error without a named identity."""
    named: str
    """The error with a named identity, for every kind of selector."""
    chain: str = ""
    message: str = "Identity not found"
    """Text that the message must contain, so that an operator finds the reason."""
    probes: int = 0
    """Number of requests without the header before the token request; each also gets a 400."""


OLD_PYTHON: Final = "ClientAuthenticationError"
PYTHON: Final = "CredentialUnavailableError"
JAVASCRIPT: Final = "CredentialUnavailableError"
GO: Final = "*azidentity.AuthenticationFailedError"
JAVA: Final = "ClientAuthenticationException"
FAILURES: Final = {
    "python-azure-identity-1.0.0": Failure(OLD_PYTHON, OLD_PYTHON, OLD_PYTHON, probes=1),
    "python-azure-identity": Failure(PYTHON, PYTHON, OLD_PYTHON),
    "python-msal": Failure("invalid_request", "invalid_request"),
    "javascript-azure-identity": Failure(JAVASCRIPT, JAVASCRIPT, "AggregateAuthenticationError"),
    "go-azidentity": Failure("*azidentity.credentialUnavailableError", GO, "*azidentity.credentialUnavailableError"),
    "java-azure-identity": Failure(JAVA, JAVA, "CredentialUnavailableException", message=""),
    "rust-azure-identity": Failure("ErrorKind::Credential", "ErrorKind::Credential", message="has not been assigned"),
}
SAYS_IN_CHAIN: Final = {"java-azure-identity": "Managed Identity authentication is not available"}


async def fail_once(application: Application, sdk_sandbox: SdkSandbox, error: str, *named: str) -> None:
    failure, pod = FAILURES[application.name], await sdk_sandbox.pod(labelled=False)
    result = await sdk_sandbox.run(application, pod, *named)
    assert (result.tokens, result.error) == ((), error)
    assert failure.message in result.message
    assert await sdk_sandbox.count_responses(pod) == Counter({400: 1 + failure.probes})


async def test_a_request_without_a_selector_fails_after_one_attempt(
    application: Application, sdk_sandbox: SdkSandbox
) -> None:
    await fail_once(application, sdk_sandbox, FAILURES[application.name].unnamed)


async def test_a_request_for_a_foreign_identity_fails_after_one_attempt(
    application: Application, selector: str, sdk_sandbox: SdkSandbox
) -> None:
    others = await sdk_sandbox.identity("others")
    await sdk_sandbox.pod("others")
    named = FAILURES[application.name].named
    await fail_once(application, sdk_sandbox, named, selector, sdk_sandbox.id(others, selector))


@pytest.mark.needs("chain")
async def test_the_chain_reports_that_it_tried_all_its_credentials(
    application: Application, sdk_sandbox: SdkSandbox
) -> None:
    pod = await sdk_sandbox.pod(labelled=False)
    result = await sdk_sandbox.run(application, pod, kind="chain")
    assert (result.tokens, result.error) == ((), FAILURES[application.name].chain)
    assert SAYS_IN_CHAIN.get(application.name, "Identity not found") in result.message
    assert set(await sdk_sandbox.count_responses(pod)) == {400}


@pytest.mark.needs("full_chain")
@pytest.mark.parametrize("selected", [False, True], ids=["no identity", "an identity of another pod"])
async def test_the_chain_continues_with_its_next_credential(
    application: Application, az: dict[str, str], sdk_sandbox: SdkSandbox, selected: bool
) -> None:
    """Expect an error from Go only: its chain stops when a named identity is refused, also on a VM without NMI."""
    named = {"AZURE_CLIENT_ID": (await sdk_sandbox.identity("others")).client_id} if selected else {}
    pod = await sdk_sandbox.pod(labelled=False)
    result = await sdk_sandbox.run(application, pod, kind="chain", environment={**az, **named})
    if selected and application.name == "go-azidentity":
        assert (result.tokens, result.error) == ((), GO)
    else:
        assert result.tokens == ("token-of-az",), result.message
    assert set(await sdk_sandbox.count_responses(pod)) == {400}
