"""Test of an application that starts with its pod, before Azure has attached the identity to the VM.

Its first request succeeds. No SDK needs a retry: NMI holds the request until the assignment exists, and then answers.
The token is cached: an application sends NMI one request for two tokens, and the next one causes no call to IMDS.
"""

import asyncio
from typing import Final

import pytest

from tests.support.waiting import until
from tests.system.sdks.applications import Application
from tests.system.sdks.sdk_sandbox import NODE, SdkSandbox

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]
NEVER_SECONDS: Final = 3600.0


async def test_the_first_request_is_held_and_succeeds_without_a_retry(
    application: Application, sdk_sandbox: SdkSandbox
) -> None:
    name = f"late-for-{application.name.replace('.', '-')}"
    late = await sdk_sandbox.identity(name)
    machine = sdk_sandbox.sandbox.azure.arm.vm(sdk_sandbox.sandbox.vm_id(NODE))
    usual, machine.operation_seconds = machine.operation_seconds, NEVER_SECONDS
    try:
        pod = await sdk_sandbox.pod(name, assigned=False)
        running = asyncio.create_task(sdk_sandbox.run(application, pod))
        await until(sdk_sandbox.count_held_requests, "NMI holds the request", holds=(1).__eq__)
        assert not running.done()
        assert await sdk_sandbox.assigned(pod.name) == set()
    finally:
        machine.operation_seconds = usual
        if machine.operation is not None:
            machine.operation.ends = min(machine.operation.ends, machine.clock())  # lets Azure finish the operation
    result = await running
    assert result.claims["appid"] == late.client_id
    counts = await sdk_sandbox.count_responses(pod)
    assert (counts[200], counts[404], counts[503]) == (1, 0, 0)


async def test_sdk_and_nmi_cache_a_token(application: Application, sdk_sandbox: SdkSandbox) -> None:
    """Also show that the SDK understands expires_in and expires_on; otherwise it would request a token each time."""
    name = f"cached-for-{application.name.replace('.', '-')}"
    await sdk_sandbox.identity(name)
    pod, imds = await sdk_sandbox.pod(name), sdk_sandbox.sandbox.azure.imds
    before = len(imds.token_calls)
    result = await sdk_sandbox.run(application, pod, times=2)
    assert len(set(result.tokens)) == 1
    assert len(result.tokens) == 2
    assert (await sdk_sandbox.count_responses(pod))[200] == 1
    assert len(imds.token_calls) == before + 1
    again = await sdk_sandbox.run(application, pod)
    assert again.tokens == result.tokens[:1]
    assert (await sdk_sandbox.count_responses(pod))[200] == 2
    assert len(imds.token_calls) == before + 1
