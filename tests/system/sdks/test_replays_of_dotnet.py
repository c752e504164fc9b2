"""Byte-for-byte replays of the requests of .NET's SDKs.

No registry that this project's machines reach has packages for .NET. A replay cannot show the next action of the SDK,
which its source defines (Azure.Identity's ImdsManagedIdentityProbeSource.cs; MSAL.NET's ImdsManagedIdentitySource.cs
and V2/ImdsV2ManagedIdentitySource.cs):
* Azure.Identity considers the endpoint present only after a 400 whose body does not contain "Identity not found";
* MSAL.NET considers a version of IMDS present after a 400 to a probe without the header, and would then request a
  certificate from version 2. NMI must never look like version 2. After the probe of version 1 it reads the type of the
  machine, and repeats this request for 7 s after a 404, 408, 410, 429 or 5xx.
"""

import json
from urllib.parse import quote

import pytest

from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.tokens import read_claims
from tests.system.sdks.sdk_sandbox import RESOURCE, SdkSandbox

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]
TOKEN = "/metadata/identity/oauth2/token?api-version=2018-02-01"
COMPUTE = "/metadata/instance/compute?api-version=2021-02-01"
V2 = "?cred-api-version=2.0"
AGENT = "User-Agent: azsdk-net-Identity/1.17.1 (.NET 9.0.10; Debian GNU/Linux 12 (bookworm))"
REQUEST_ID = "x-ms-client-request-id: 6d8f6f4e-2f0c-4f0b-9f53-0d8f1c1f6a55"
PRODUCT = "x-client-SKU: MSAL.NetCore\r\nx-client-Ver: 4.79.2"


def request(target: str, *headers: str) -> bytes:
    """Return a request as .NET's HttpClient writes it: the Host first, the SDK's headers in their order."""
    lines = [f"GET {target} HTTP/1.1", "Host: 169.254.169.254", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def named(identity: ManagedIdentity, selector: str, parameter: str = "") -> str:
    """Return the part of a query by which an SDK names *identity*; empty without a selector."""
    return f"&{parameter or selector}={quote(getattr(identity, selector), safe='')}" if selector else ""


@pytest.mark.parametrize("bound", ["bound", "unbound", "no-label"])
@pytest.mark.parametrize("selector", ["", "client_id", "resource_id", "object_id"])
async def test_replays_of_probes_get_the_answers_of_imds(selector: str, bound: str, sdk_sandbox: SdkSandbox) -> None:
    """A held request would get another status, after the SDK's timeout of a second."""
    identity = await sdk_sandbox.identity("one")
    pod = await sdk_sandbox.pod(*(["one"] if bound == "bound" else []), labelled=bound != "no-label")
    id_of_azure_identity = named(identity, selector, "msi-res-id" if selector == "resource_id" else "")
    target = f"{TOKEN}&resource={quote(RESOURCE, safe='')}{id_of_azure_identity}"
    probe = request(target, REQUEST_ID, "x-ms-return-client-request-id: true", AGENT)
    status, body = await sdk_sandbox.exchange(pod, probe)
    assert status == 400
    assert b"Identity not found" not in body
    assert json.loads(body)["error"] == "invalid_request"

    id_of_msal = named(identity, selector, "mi_res_id" if selector == "resource_id" else "")
    for path, expected in ((f"/metadata/identity/getplatformmetadata{V2}", 404), (TOKEN, 400)):
        status, _ = await sdk_sandbox.exchange(pod, request(f"{path}{id_of_msal}", REQUEST_ID))
        assert status == expected
    status, body = await sdk_sandbox.exchange(pod, request(COMPUTE, "Metadata: true"))
    assert (status, json.loads(body)["osType"]) == (200, "Linux")


@pytest.mark.parametrize("selector", ["", "client_id", "resource_id", "object_id"])
async def test_replay_of_msals_token_request(selector: str, sdk_sandbox: SdkSandbox) -> None:
    await sdk_sandbox.identity("first")
    second = await sdk_sandbox.identity("second")
    pod = await sdk_sandbox.pod(*(["first"] if selector else []), "second")
    query = named(second, selector, "msi_res_id" if selector == "resource_id" else "")
    sent = request(f"{TOKEN}&resource={quote(RESOURCE, safe='')}{query}", "Metadata: true", PRODUCT, REQUEST_ID)
    status, body = await sdk_sandbox.exchange(pod, sent)
    document = json.loads(body)
    assert status == 200
    assert read_claims(document["access_token"])["appid"] == second.client_id
    assert document["expires_on"].isdigit()
    name = {"resource_id": "msi_res_id"}.get(selector, selector or "client_id")
    assert document[name] == getattr(second, selector or "client_id")
    status, body = await sdk_sandbox.exchange(await sdk_sandbox.pod(labelled=False), sent)
    error = json.loads(body)
    assert (status, error["error_description"]) == (400, "Identity not found")
    assert error["correlationId"]
