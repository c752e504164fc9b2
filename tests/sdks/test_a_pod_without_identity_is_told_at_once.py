"""In a pod that nothing is bound to each SDK gives up by its own error, in seconds, after a single request for a token.

That is what the 400 with "Identity not found" is for. What an SDK makes of it is pinned here, since operators see it.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import pytest

from tests.sdks.applications import Application
from tests.sdks.stage import Stage

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]
AT_ONCE_SECONDS: Final = 30.0
"""A runtime's start on a busy machine, Java's is the longest; a try that is held takes 45 s, one try more a second."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The SDK's own name for it."""

    unnamed: str
    """When no identity was named."""
    named: str
    """When one was, of whatever kind."""
    chain: str = ""
    says: str = "Identity not found"
    """What its message must hold for whoever looks for the reason."""
    probes: int = 0
    """How many requests without the header precede the one for a token; each is a 400 too."""


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
    "java-azure-identity": Failure(JAVA, JAVA, "CredentialUnavailableException", says=""),
    "rust-azure-identity": Failure("ErrorKind::Credential", "ErrorKind::Credential", says="has not been assigned"),
}
SAYS_IN_CHAIN: Final = {"java-azure-identity": "Managed Identity authentication is not available"}


async def test_naming_nothing_fails_after_one_request(application: Application, stage: Stage) -> None:
    failure = FAILURES[application.name]
    pod = await stage.pod(labelled=False)
    said = await stage.run(application, pod)
    assert (said.tokens, said.error) == ((), failure.unnamed)
    assert failure.says in said.message
    assert said.seconds < AT_ONCE_SECONDS
    assert await stage.answers(pod) == Counter({400: 1 + failure.probes})


async def test_naming_an_identity_of_others_fails_after_one_request(
    application: Application, selector: str, stage: Stage
) -> None:
    failure = FAILURES[application.name]
    others = await stage.identity("others")
    await stage.pod("others")
    pod = await stage.pod(labelled=False)
    said = await stage.run(application, pod, selector, stage.ids(others)[selector])
    assert (said.tokens, said.error) == ((), failure.named)
    assert failure.says in said.message
    assert said.seconds < AT_ONCE_SECONDS
    assert await stage.answers(pod) == Counter({400: 1 + failure.probes})


@pytest.mark.needs("chain")
async def test_the_chain_says_that_it_went_through_all_its_links(application: Application, stage: Stage) -> None:
    said = await stage.run(application, await stage.pod(labelled=False), kind="chain")
    assert (said.tokens, said.error) == ((), FAILURES[application.name].chain)
    assert SAYS_IN_CHAIN.get(application.name, "Identity not found") in said.message
    assert said.seconds < AT_ONCE_SECONDS


@pytest.mark.needs("full_chain")
async def test_the_chain_goes_on_to_its_next_link(application: Application, az: dict[str, str], stage: Stage) -> None:
    said = await stage.run(application, await stage.pod(labelled=False), kind="chain", environment=az)
    assert said.tokens == ("token-of-az",), said.message
    assert said.seconds < AT_ONCE_SECONDS


@pytest.mark.needs("full_chain")
async def test_the_chain_goes_on_also_when_an_identity_was_named(
    application: Application, az: dict[str, str], stage: Stage
) -> None:
    """But for Go's, which takes the refusal of a named identity for an answer; it does so on a VM without NMI too."""
    others = await stage.identity("others")
    named = {**az, "AZURE_CLIENT_ID": others.client_id}
    said = await stage.run(application, await stage.pod(labelled=False), kind="chain", environment=named)
    if application.name == "go-azidentity":
        assert (said.tokens, said.error) == ((), GO)
    else:
        assert said.tokens == ("token-of-az",), said.message
    assert said.seconds < AT_ONCE_SECONDS
