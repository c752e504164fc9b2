"""What applications show of Azure's refusal in NMI's JSON. docs/migration.md has the results."""

import math
from typing import Final

import pytest

from podidentity_sandbox.serving import ResponseFault
from tests.system.sdks.applications import Application
from tests.system.sdks.sdk_sandbox import SdkSandbox

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

TEXT: Final = "AADSTS500011: The resource principal was not found"
SHOW_NOTHING: Final = {"java-azure-identity"}
"""Their message refers to the cause of the exception."""


async def test_the_explanation_in_nmis_json_is_shown(application: Application, sdk_sandbox: SdkSandbox) -> None:
    await sdk_sandbox.identity("refused")
    document = {"error": "invalid_resource", "error_description": TEXT}
    faults = sdk_sandbox.sandbox.azure.imds.faults
    pod = await sdk_sandbox.pod("refused")
    fault = faults.add(ResponseFault(status=400, document=document, times=math.inf))
    try:
        result = await sdk_sandbox.run(application, pod)
    finally:
        faults.remove(fault)
    assert result.tokens == ()
    assert (TEXT in result.message) is (application.name not in SHOW_NOTHING), result.message
    assert (await sdk_sandbox.count_responses(pod))[403] >= 1
