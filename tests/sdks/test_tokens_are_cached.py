"""Test of the caches: an application sends NMI one request for two tokens, and the next application causes no call to
IMDS.
"""

import pytest

from tests.sdks.applications import Application
from tests.sdks.sdk_sandbox import SdkSandbox

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]


async def test_sdk_and_nmi_cache_a_token(application: Application, sdk_sandbox: SdkSandbox) -> None:
    """Also show that the SDK understands expires_in and expires_on; otherwise it would request a token each time."""
    name = f"cached-for-{application.name.replace('.', '-')}"
    await sdk_sandbox.identity(name)
    pod, imds = await sdk_sandbox.pod(name), sdk_sandbox.sandbox.azure.imds
    before = len(imds.token_calls)
    result = await sdk_sandbox.run(application, pod, times=2)
    assert len(set(result.tokens)) == 1
    assert len(result.tokens) == 2
    assert (await sdk_sandbox.answers(pod))[200] == 1
    assert len(imds.token_calls) == before + 1
    again = await sdk_sandbox.run(application, pod)
    assert again.tokens == result.tokens[:1]
    assert (await sdk_sandbox.answers(pod))[200] == 2
    assert len(imds.token_calls) == before + 1
