"""Test that a pod that had tokens gets none after the deletion of its binding.

Each SDK makes its usual number of attempts and then reports an error. NMI answers 404 at the end of its hold, because a
pod with a label may be bound again at any time, and SDKs retry after a 404. --max-hold is a second here, because Java's
SDK makes 24 attempts. All SDKs run concurrently, because they mostly wait.
"""

import asyncio
import os
from pathlib import Path
from typing import Final

import pytest

from podidentity.resources import BINDINGS
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import SandboxSettings
from tests.support.waiting import until
from tests.system.sdks.applications import APPLICATIONS, Application
from tests.system.sdks.sdk_sandbox import SdkSandbox

pytestmark = [pytest.mark.root, pytest.mark.nightly, pytest.mark.asyncio(loop_scope="session")]
ERRORS: Final = {
    "python-azure-identity-1.0.0": "ClientAuthenticationError",
    "python-azure-identity": "CredentialUnavailableError",
    "python-msal": "not_found",
    "javascript-azure-identity": "CredentialUnavailableError",
    "go-azidentity": "*azidentity.AuthenticationFailedError",
    "java-azure-identity": "ClientAuthenticationException",
    "rust-azure-identity": "ErrorKind::Credential",
}


async def test_each_sdk_fails_with_its_own_error(tmp_path: Path) -> None:
    settings = SandboxSettings(namespaces=True, environment=os.environ, nmi_flags=["--max-hold=1s"])
    async with Sandbox(settings) as sandbox:
        stage = SdkSandbox(sandbox, tmp_path)
        await stage.identity("taken-away")
        errors = await asyncio.gather(*(error_without_binding(stage, application) for application in APPLICATIONS))
    assert dict(zip((application.name for application in APPLICATIONS), errors, strict=True)) == ERRORS


async def error_without_binding(stage: SdkSandbox, application: Application) -> str:
    """Return the error of the application in a pod whose binding is deleted after its first token."""
    pod = await stage.pod("taken-away")
    bound = await stage.run(application, pod)
    assert len(bound.tokens) == 1, bound.message
    before = await stage.count_responses(pod)
    assert before[200] == 1
    assert set(before) <= {200, 400, 404, 503}, "503: a busy machine's IMDS did not answer within --max-hold"
    await stage.sandbox.cluster.client.delete(BINDINGS, "default", f"{pod.name}-taken-away")
    await until(lambda: stage.assigned(pod.name), "a revocation", holds=set().__eq__)
    unbound = await stage.run(application, pod)
    assert unbound.tokens == ()
    counts = (await stage.count_responses(pod)) - before
    assert counts[404] >= 1
    assert set(counts) <= {400, 404}
    return unbound.error
