"""The credentials with which `python -m mic` signs in, for each way to configure them."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.imds import HostIdentities, Imds
from tests.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.support.objects import identity_id, vm_id

SHORT_SECONDS = 200.0
"""MIC requests a token with less than five minutes left again before each request."""


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        made.node("n0")
        made.node("n1")
        made.identity()
        yield made


def config(cloud: EmulatedCloud, **changed: Any) -> None:
    """Change fields of azure.json."""
    path = cloud.folder / "azure.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(json.loads(path.read_text()) | changed))
    fresh.rename(path)


async def assigned(cloud: EmulatedCloud, pod: str, node: str) -> None:
    cloud.pod(pod, node)
    await cloud.until(lambda: cloud.assigned().get(f"{pod}-default-demo") == "Assigned", pod)


async def test_a_secret_rotated_while_mic_runs_is_used_for_the_next_token(cloud: EmulatedCloud) -> None:
    cloud.aad.token_seconds = SHORT_SECONDS
    client_id = json.loads((cloud.folder / "azure.json").read_text())["aadClientId"]
    application = cloud.directory.application(client_id)
    assert application is not None
    mic = await cloud.mic()
    await assigned(cloud, "first", "n0")

    application.secrets["second"] = float("-inf")
    config(cloud, aadClientSecret="second")
    await cloud.until(lambda: mic.read_log().count("using the new credentials") == 1)
    (first,) = application.secrets.keys() - {"second"}
    del application.secrets[first]
    await assigned(cloud, "second", "n1")
    assert {call.status for call in cloud.aad.calls} == {200}

    good = (cloud.folder / "azure.json").read_text()
    (cloud.folder / "azure.json").write_text(good[:20])
    await cloud.until(lambda: "still using the previous one" in mic.read_log())
    cloud.remove_pod("second")
    await cloud.until(lambda: not cloud.on(vm_id("n1")))

    application.secrets["third"] = float("-inf")
    del application.secrets["second"]
    (cloud.folder / "azure.json").write_text(json.dumps(json.loads(good) | {"aadClientSecret": "third"}))
    await assigned(cloud, "third", "n1")
    assert await mic.stop() == 0
    assert first not in mic.read_log()


async def test_the_environment_is_used_without_a_file(cloud: EmulatedCloud) -> None:
    principal = cloud.directory.add_principal()
    cloud.directory.grant(principal.object_id, "Contributor")
    await cloud.mic(
        "--cloudconfig=",
        environ={
            "CLOUD": "azurestackcloud",
            "TENANT_ID": cloud.directory.tenant_id,
            "CLIENT_ID": principal.client_id,
            "CLIENT_SECRET": principal.secret,
            "SUBSCRIPTION_ID": "sub",
            "RESOURCE_GROUP": "rg",
            "VM_TYPE": "standard",
        },
    )
    await assigned(cloud, "web", "n0")
    assert {call.caller for call in cloud.arm.calls} == {principal.object_id}


@pytest.fixture
async def imds(cloud: EmulatedCloud) -> AsyncIterator[Imds]:
    """The IMDS of MIC's own node, which has two user-assigned identities and its own."""
    served = Imds(cloud.mint)
    system = ManagedIdentity(vm_id("mic"), "client-system", "object-system", cloud.directory.tenant_id)
    users = tuple(cloud.directory.add_identity(identity_id(f"mic{number}")) for number in range(2))
    await served.start_on_loopback(lambda: HostIdentities(users, system))
    yield served
    await served.stop()


@pytest.mark.parametrize(
    ("fields", "environ", "speaks"),
    [
        ({"aadClientId": "msi", "aadClientSecret": "msi", "userAssignedIdentityID": "CLIENT"}, {}, "user"),
        ({"useManagedIdentityExtension": True, "userAssignedIdentityID": "RESOURCE"}, {}, "user"),
        (None, {"USE_MSI": "true"}, "system"),
    ],
)
async def test_a_managed_identity_signs_in_at_imds(
    cloud: EmulatedCloud, imds: Imds, fields: Mapping[str, Any] | None, environ: Mapping[str, str], speaks: str
) -> None:
    user = cloud.directory.identity(identity_id("mic1"))
    assert user is not None
    ids = {"CLIENT": user.client_id, "RESOURCE": user.resource_id}
    speaker = user.object_id if speaks == "user" else "object-system"
    cloud.directory.grant(speaker, "Contributor")
    flags: list[str] = []
    if fields is None:
        flags = ["--cloudconfig="]
        environ = {"CLOUD": "AzureStackCloud", **environ}
    else:
        config(cloud, **{name: ids.get(value, value) for name, value in fields.items()})
    environ = {name: ids.get(value, value) for name, value in environ.items()}
    await cloud.mic(*flags, environ={"AZURE_POD_IDENTITY_AUTHORITY_HOST": imds.url, **environ})
    await assigned(cloud, "web", "n0")
    assert {call.caller for call in cloud.arm.calls} == {speaker}
    assert len(imds.token_calls) == 1
    assert not cloud.aad.calls


@pytest.mark.parametrize("spelled", ["client-demo", identity_id("demo").upper()])
async def test_an_identity_that_becomes_the_clusters_own_while_mic_runs_is_never_detached(
    cloud: EmulatedCloud, spelled: str
) -> None:
    cloud.identity("other")
    mic = await cloud.mic()
    await assigned(cloud, "web", "n0")
    cloud.pod("neighbour", "n0", label="other")
    await cloud.until(lambda: cloud.on(vm_id("n0")) == {"demo", "other"})
    config(cloud, userAssignedIdentityID=spelled)
    await cloud.until(lambda: "using the new credentials" in mic.read_log())
    cloud.remove_pod("web")
    cloud.remove_pod("neighbour")
    await cloud.until(lambda: not cloud.assigned())
    assert cloud.on(vm_id("n0")) == {"demo"}
