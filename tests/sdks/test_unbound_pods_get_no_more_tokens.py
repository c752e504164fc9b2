"""Test that a pod that had tokens gets none after the deletion of its binding.

Each SDK makes its usual number of attempts and then reports an error. NMI answers 404 at the end of its hold, because a
pod with a label may be bound again at any time, and SDKs retry after a 404. --max-hold is a second here, because Java's
SDK makes 24 attempts. All SDKs run concurrently, and alongside the other tests, because they mostly wait.
"""

from typing import Final

import pytest

from tests.sdks.applications import Application
from tests.sdks.conftest import Unbinding
from tests.sdks.sdk_sandbox import PATIENCE_SECONDS

pytestmark = [
    pytest.mark.root,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(PATIENCE_SECONDS + 60),
]
ERRORS: Final = {
    "python-azure-identity-1.0.0": "ClientAuthenticationError",
    "python-azure-identity": "CredentialUnavailableError",
    "python-msal": "not_found",
    "javascript-azure-identity": "CredentialUnavailableError",
    "go-azidentity": "*azidentity.AuthenticationFailedError",
    "java-azure-identity": "ClientAuthenticationException",
    "rust-azure-identity": "ErrorKind::Credential",
}


async def test_each_sdk_fails_with_its_own_error(application: Application, unbinding: Unbinding) -> None:
    outcome = (await unbinding)[application.name]
    assert len(outcome.bound.tokens) == 1
    assert (outcome.unbound.tokens, outcome.unbound.error) == ((), ERRORS[application.name])
    assert outcome.bound_answers[200] == 1
    assert set(outcome.bound_answers) <= {200, 400, 404, 503}, (
        "503: a busy machine's IMDS did not answer within --max-hold"
    )
    assert outcome.unbound_answers[404] >= 1
    assert set(outcome.unbound_answers) <= {400, 404}
