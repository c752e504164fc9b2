"""MIC's credentials for Azure from azure.json or the environment, in the parser and in the program."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.credentials_async import AsyncTokenCredential
from azure.identity.aio import ClientSecretCredential, ManagedIdentityCredential
from typing_extensions import override

from mic.startup.cloud_config import CloudConfig, ConfigError, RotatingCredential, cloud_of, credential_for, read
from podidentity.azure.clouds import PUBLIC, Cloud
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.imds import HostIdentities, Imds
from tests.support.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.support.objects import identity_id, vm_id

FILE = {"cloud": "AzurePublicCloud", "tenantId": "t", "aadClientId": "c", "aadClientSecret": "hush"}


def written(folder: Path, **fields: Any) -> str:
    path = folder / "azure.json"
    path.write_text(json.dumps(fields))
    return str(path)


def test_a_service_principal_is_read_from_the_file(tmp_path: Path) -> None:
    config = read(written(tmp_path, **FILE), {"TENANT_ID": "another"})
    assert config == CloudConfig("AzurePublicCloud", "t", "c", "hush")
    assert not config.managed
    assert "hush" not in repr(config)


@pytest.mark.parametrize("second", ["tenantId", "TENANTID"])
def test_a_field_with_two_values_is_rejected_and_one_with_the_same_value_is_not(tmp_path: Path, second: str) -> None:
    path = tmp_path / "azure.json"
    text = json.dumps(FILE)
    path.write_text(text.replace("{", f'{{"{second}": "another", ', 1))
    with pytest.raises(ConfigError, match="is there twice") as rejected:
        read(str(path), {})
    assert "another" not in str(rejected.value)

    path.write_text(text.replace("{", f'{{"{second}": "t", ', 1))
    assert read(str(path), {}).tenant_id == "t"


def test_a_byte_order_mark_has_no_meaning(tmp_path: Path) -> None:
    path = tmp_path / "azure.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(FILE).encode())
    assert read(str(path), {}).tenant_id == "t"


def test_the_environment_is_used_without_a_file() -> None:
    config = read("", {"CLOUD": "AzureChinaCloud", "TENANT_ID": "t", "CLIENT_ID": "c", "CLIENT_SECRET": "s"})
    assert config == CloudConfig("AzureChinaCloud", "t", "c", "s")
    assert cloud_of(config, None).name == "AzureChinaCloud"


@pytest.mark.parametrize(
    "fields",
    [
        {"useManagedIdentityExtension": True},
        {"useManagedIdentityExtension": "true"},
        {"aadClientId": "msi"},
        {"aadClientId": "c", "aadClientSecret": "MSI"},
    ],
)
def test_a_managed_identity_can_be_configured_in_several_ways(tmp_path: Path, fields: dict[str, Any]) -> None:
    config = read(written(tmp_path, **fields, userAssignedIdentityID="cluster"), {})
    assert config.managed
    assert config.user_assigned_identity == "cluster"
    assert read("", {"USE_MSI": "True", "USER_ASSIGNED_MSI_CLIENT_ID": "id"}).user_assigned_identity == "id"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 60_000, "not JSON"),
        ("[]", "one JSON object"),
        ("{}", "tenantId, aadClientId, aadClientSecret"),
        (json.dumps({**FILE, "aadClientSecret": ""}), "aadClientSecret"),
        (None, "azure.json"),
    ],
)
def test_an_unusable_or_missing_file_is_rejected_in_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "azure.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message) as refused:
        read(str(path), {})
    assert "\n" not in str(refused.value)


def test_an_unknown_cloud_and_an_invalid_tenant_are_rejected() -> None:
    with pytest.raises(ConfigError, match="AzureMoonCloud"):
        cloud_of(CloudConfig("AzureMoonCloud"), None)
    with pytest.raises(ConfigError, match="tenant"):
        credential_for(CloudConfig("", "no tenant!", "c", "s"), PUBLIC)


@pytest.mark.parametrize("identity", ["/subscriptions/s", "group/name", identity_id("x") + "/more"])
def test_an_identity_that_is_neither_a_client_id_nor_a_resource_id_is_rejected(tmp_path: Path, identity: str) -> None:
    path = written(tmp_path, **FILE, userAssignedIdentityID=identity)
    with pytest.raises(ConfigError, match="userAssignedIdentityID must be"):
        read(path, {})
    with pytest.raises(ConfigError, match="USER_ASSIGNED_MSI_CLIENT_ID must be"):
        read("", {"USE_MSI": "true", "USER_ASSIGNED_MSI_CLIENT_ID": identity})
    assert read(written(tmp_path, **FILE, userAssignedIdentityID=identity_id("x")), {}).user_assigned_identity


async def test_each_configuration_selects_its_credential() -> None:
    secret = credential_for(CloudConfig("", "t", "c", "s"), PUBLIC)
    managed = credential_for(CloudConfig(use_managed_identity=True, user_assigned_identity="id"), PUBLIC)
    assert isinstance(secret, ClientSecretCredential)
    assert isinstance(managed, ManagedIdentityCredential)
    await secret.close()
    await managed.close()


class Credential(AsyncTokenCredential):
    """Gives its secret as the token, so that one sees which is in use."""

    def __init__(self, config: CloudConfig, _cloud: Cloud) -> None:
        self.secret = config.client_secret
        self.closed = False

    @override
    async def get_token(self, *_scopes: str, **_: Any) -> AccessToken:
        return AccessToken(self.secret, 0)

    @override
    async def close(self) -> None:
        self.closed = True

    @override
    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def follow(path: str, make: Callable[[CloudConfig, Cloud], AsyncTokenCredential]) -> RotatingCredential:
    """Made in a thread, as it reads the file."""
    return await asyncio.to_thread(RotatingCredential, path, {}, PUBLIC, make)


async def test_a_rotated_secret_is_used_without_a_restart(tmp_path: Path) -> None:
    path = written(tmp_path, **FILE)
    made: list[Credential] = []

    def make(config: CloudConfig, cloud: Cloud) -> Credential:
        made.append(Credential(config, cloud))
        return made[-1]

    rotating = await follow(path, make)
    assert not await rotating.reread()
    written(tmp_path, **FILE | {"aadClientSecret": "newer"})
    assert await rotating.reread()
    assert (await rotating.get_token("scope")).token == "newer"
    assert [each.closed for each in made] == [True, False]


async def test_a_file_that_becomes_unusable_changes_nothing_and_is_logged_once_until_it_recovers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, **FILE)
    rotating = await follow(path, Credential)
    written(tmp_path)
    assert not await rotating.reread()
    assert not await rotating.reread()
    assert len(caplog.records) == 1
    await asyncio.to_thread(Path(path).unlink)
    assert not await rotating.reread()
    assert not await rotating.reread()
    assert len(caplog.records) == 2
    assert (await rotating.get_token("scope")).token == "hush"
    written(tmp_path, **FILE | {"aadClientSecret": "newer"})
    assert await rotating.reread()
    assert (await rotating.get_token("scope")).token == "newer"


async def test_another_cloud_in_the_file_takes_effect_after_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rotating = await follow(written(tmp_path, **FILE), Credential)
    written(tmp_path, **FILE | {"cloud": "AzureChinaCloud", "aadClientSecret": "newer"})
    assert not await rotating.reread()
    assert "restart MIC" in str(caplog.records[0].__dict__["error"])
    assert (await rotating.get_token("scope")).token == "hush"


async def test_a_new_configuration_is_logged_before_it_is_used(tmp_path: Path) -> None:
    rotating = await follow(written(tmp_path, **FILE), Credential)
    written(tmp_path, **FILE | {"userAssignedIdentityID": "cluster"})
    changes: list[tuple[str, str]] = []
    assert await rotating.reread(
        lambda config: changes.append((config.user_assigned_identity, rotating.config.user_assigned_identity))
    )
    assert changes == [("cluster", "")]
    assert rotating.config.user_assigned_identity == "cluster"


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
    assert await mic.stop() == 0
    assert first not in mic.read_log()


async def test_the_program_uses_the_environment_without_a_file(cloud: EmulatedCloud) -> None:
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


async def test_the_clusters_own_identity_is_not_assigned_and_immutable_ones_stay_attached(cloud: EmulatedCloud) -> None:
    config(cloud, userAssignedIdentityID="CLIENT-Kubelet")
    for name in ("kubelet", "backup", "plain"):
        cloud.identity(name)
        cloud.pod(name, "n0", label=name)
    await cloud.mic("--immutable-user-msis=other,Client-BACKUP")
    statuses = {f"{name}-default-{name}": "Assigned" for name in ("backup", "plain")}
    await cloud.until(lambda: cloud.assigned() == {**statuses, "kubelet-default-kubelet": "Created"})
    assert cloud.on(vm_id("n0")) == {"backup", "plain"}
    for name in ("kubelet", "backup", "plain"):
        cloud.remove_pod(name)
    await cloud.until(lambda: not cloud.assigned())
    assert cloud.on(vm_id("n0")) == {"backup"}


async def test_an_identity_that_becomes_the_clusters_own_while_mic_runs_is_never_detached(
    cloud: EmulatedCloud,
) -> None:
    cloud.identity("other")
    mic = await cloud.mic()
    await assigned(cloud, "web", "n0")
    cloud.pod("neighbour", "n0", label="other")
    await cloud.until(lambda: cloud.on(vm_id("n0")) == {"demo", "other"})
    config(cloud, userAssignedIdentityID=identity_id("demo").upper())
    await cloud.until(lambda: "using the new credentials" in mic.read_log())
    cloud.remove_pod("web")
    cloud.remove_pod("neighbour")
    await cloud.until(lambda: not cloud.assigned())
    assert cloud.on(vm_id("n0")) == {"demo"}
