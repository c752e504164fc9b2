"""What applications show of Azure's refusal: in NMI's JSON, and in the Go implementation's plain text.

docs/migration.md has the results.
"""

import math
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from podidentity_sandbox.serving import ResponseFault
from tests.system.sdks.applications import Application
from tests.system.sdks.sdk_sandbox import SCOPE, SdkSandbox

pytestmark = pytest.mark.root

TEXT: Final = "AADSTS500011: The resource principal was not found"
PLAIN: Final = (
    "failed to refresh token, error: adal: Refresh request failed. Status Code = '400'. Response body: "
    f'{{"error":"invalid_resource","error_description":"{TEXT}"}}\n'
)
LOSE_PLAIN_TEXT: Final = {"python-azure-identity", "python-msal"}
SHOW_NEITHER: Final = {"java-azure-identity"}
"""Their message refers to the cause of the exception."""


@pytest.mark.asyncio(loop_scope="session")
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
    assert (TEXT in result.message) is (application.name not in SHOW_NEITHER), result.message
    assert (await sdk_sandbox.answers(pod))[403] >= 1


def test_the_go_implementations_plain_text_is_lost_in_some(application: Application) -> None:
    program = Path(__file__).with_name("static_imds.py")
    command = [sys.executable, str(program), PLAIN, *application.make(), "managed", SCOPE, "1"]
    done = subprocess.run(["unshare", "--net", *command], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    shown = TEXT in done.stdout + done.stderr
    assert shown is (application.name not in LOSE_PLAIN_TEXT | SHOW_NEITHER)
