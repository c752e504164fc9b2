"""Byte-for-byte replays of the requests of .NET's SDKs.

No registry that this project's machines reach has packages for .NET. A replay cannot show the next action of the SDK,
which its source defines (Azure.Identity's ImdsManagedIdentityProbeSource.cs; MSAL.NET's ImdsManagedIdentitySource.cs
and V2/ImdsV2ManagedIdentitySource.cs):
* Azure.Identity considers the endpoint present only after a 400 whose body does not contain "Identity not found";
* MSAL.NET considers a version of IMDS present after a 400 to a probe without the header, and would then request a
  certificate from version 2. NMI must never look like version 2.
"""

import json
from urllib.parse import quote

import pytest

from podidentity_sandbox.tokens import read_claims
from tests.system.sdks.sdk_sandbox import RESOURCE, SdkSandbox

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]
TOKEN = "/metadata/identity/oauth2/token?api-version=2018-02-01"
V2 = "?cred-api-version=2.0"
AGENT = "User-Agent: azsdk-net-Identity/1.17.1 (.NET 9.0.10; Debian GNU/Linux 12 (bookworm))"
REQUEST_ID = "x-ms-client-request-id: 6d8f6f4e-2f0c-4f0b-9f53-0d8f1c1f6a55"
PRODUCT = "x-client-SKU: MSAL.NetCore\r\nx-client-Ver: 4.79.2"


def request(target: str, *headers: str, method: str = "GET", body: str = "") -> bytes:
    """Return a request as .NET's HttpClient writes it: the Host first, the SDK's headers in their order."""
    length = [f"Content-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}"] if body else []
    lines = [f"{method} {target} HTTP/1.1", "Host: 169.254.169.254", *headers, *length]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@pytest.fixture(params=["bound", "unbound", "no-label"])
def bound(request: pytest.FixtureRequest) -> str:
    """Return the state of the pod. In each state, a probe must get the same answer within its timeout of a second."""
    return str(request.param)


@pytest.mark.parametrize("selector", ["", "client_id", "msi-res-id", "object_id"])
async def test_replay_of_azure_identitys_probe(selector: str, bound: str, sdk_sandbox: SdkSandbox) -> None:
    one = await sdk_sandbox.identity("one")
    pod = await sdk_sandbox.pod(*(["one"] if bound == "bound" else []), labelled=bound != "no-label")
    ids = {"client_id": one.client_id, "msi-res-id": one.resource_id, "object_id": one.object_id}
    named = f"&{selector}={quote(ids[selector], safe='')}" if selector else ""
    target = f"{TOKEN}&resource={quote(RESOURCE, safe='')}{named}"
    status, body = await sdk_sandbox.probe(
        pod, request(target, REQUEST_ID, "x-ms-return-client-request-id: true", AGENT)
    )
    assert status == 400
    assert b"Identity not found" not in body
    assert json.loads(body)["error"] == "invalid_request"


@pytest.mark.parametrize("selector", ["", "client_id", "mi_res_id", "object_id"])
async def test_replay_of_msals_probes_for_both_versions(selector: str, bound: str, sdk_sandbox: SdkSandbox) -> None:
    one = await sdk_sandbox.identity("one")
    pod = await sdk_sandbox.pod(*(["one"] if bound == "bound" else []), labelled=bound != "no-label")
    ids = {"client_id": one.client_id, "mi_res_id": one.resource_id, "object_id": one.object_id}
    named = f"&{selector}={ids[selector]}" if selector else ""
    status, _ = await sdk_sandbox.probe(pod, request(f"/metadata/identity/getplatformmetadata{V2}{named}", REQUEST_ID))
    assert status == 404
    status, _ = await sdk_sandbox.probe(pod, request(f"{TOKEN}{named}", REQUEST_ID))
    assert status == 400


async def test_replay_of_imdsv2_requests_after_a_successful_probe_finds_nothing(sdk_sandbox: SdkSandbox) -> None:
    """Send the requests that follow a successful probe, with the header; they would create a credential of the VM."""
    await sdk_sandbox.identity("one")
    pod = await sdk_sandbox.pod("one")
    before = len(sdk_sandbox.sandbox.azure.imds.calls)
    metadata = request(f"/metadata/identity/getplatformmetadata{V2}", "Metadata: true", REQUEST_ID)
    credential = request(
        f"/metadata/identity/issuecredential{V2}",
        "Metadata: true",
        REQUEST_ID,
        method="POST",
        body='{"csr":"MIIC","attestation_token":""}',
    )
    for sent in (metadata, credential):
        status, body = await sdk_sandbox.exchange(pod, sent)
        assert status == 404
        assert json.loads(body)["error"] == "not_found"
    assert len(sdk_sandbox.sandbox.azure.imds.calls) == before


@pytest.mark.parametrize("selector", ["", "client_id", "msi_res_id", "object_id"])
async def test_replay_of_msals_token_request(selector: str, sdk_sandbox: SdkSandbox) -> None:
    await sdk_sandbox.identity("first")
    second = await sdk_sandbox.identity("second")
    pod = await sdk_sandbox.pod(*(["first"] if selector else []), "second")
    ids = {"client_id": second.client_id, "msi_res_id": second.resource_id, "object_id": second.object_id}
    named = f"&{selector}={quote(ids[selector], safe='')}" if selector else ""
    sent = request(f"{TOKEN}&resource={quote(RESOURCE, safe='')}{named}", "Metadata: true", PRODUCT, REQUEST_ID)
    status, body = await sdk_sandbox.exchange(pod, sent)
    document = json.loads(body)
    assert status == 200
    assert read_claims(document["access_token"])["appid"] == second.client_id
    assert document["expires_on"].isdigit()
    status, body = await sdk_sandbox.exchange(await sdk_sandbox.pod(labelled=False), sent)
    assert (status, json.loads(body)["error_description"]) == (400, "Identity not found")
