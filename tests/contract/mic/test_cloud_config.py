"""MIC's credentials for Azure from azure.json or the environment, and their replacement while MIC runs."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.credentials_async import AsyncTokenCredential
from azure.identity.aio import ClientSecretCredential, ManagedIdentityCredential
from typing_extensions import override

from mic.startup.cloud_config import CloudConfig, ConfigError, RotatingCredential, cloud_of, credential_for, read
from podidentity.azure.clouds import PUBLIC, Cloud
from podidentity_sandbox.directory import Directory, ManagedIdentity
from podidentity_sandbox.imds import HostIdentities, Imds
from podidentity_sandbox.tokens import TokenMint, read_claims
from tests.support.objects import identity_id, vm_id

FILE = {"cloud": "AzurePublicCloud", "tenantId": "t", "aadClientId": "c", "aadClientSecret": "hush"}


def written(folder: Path, **fields: Any) -> str:
    path = folder / "azure.json"
    path.write_text(json.dumps(fields))
    return str(path)


@pytest.mark.parametrize("byte_order_mark", [b"", b"\xef\xbb\xbf"])
def test_a_service_principal_is_read_from_the_file(tmp_path: Path, byte_order_mark: bytes) -> None:
    path = tmp_path / "azure.json"
    path.write_bytes(byte_order_mark + json.dumps(FILE).encode())
    config = read(str(path), {"TENANT_ID": "another"})
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


async def test_a_client_secret_selects_its_credential_unless_cloud_or_tenant_are_invalid() -> None:
    secret = credential_for(CloudConfig("", "t", "c", "s"), PUBLIC)
    assert isinstance(secret, ClientSecretCredential)
    await secret.close()
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


@pytest.mark.parametrize(
    ("fields", "environ", "speaker"),
    [
        ({"aadClientId": "msi", "aadClientSecret": "msi", "userAssignedIdentityID": "client-1"}, {}, "object-1"),
        ({"useManagedIdentityExtension": True, "userAssignedIdentityID": identity_id("mic1")}, {}, "object-1"),
        (None, {"USE_MSI": "true"}, "object-system"),
    ],
)
async def test_a_managed_identity_signs_in_at_imds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: Mapping[str, Any] | None,
    environ: Mapping[str, str],
    speaker: str,
) -> None:
    """A node with two user-assigned identities and its own."""
    directory = Directory()
    system = ManagedIdentity(vm_id("mic"), "client-system", "object-system", directory.tenant_id)
    users = tuple(
        directory.add_identity(identity_id(f"mic{number}"), client_id=f"client-{number}", object_id=f"object-{number}")
        for number in range(2)
    )
    imds = Imds(await asyncio.to_thread(TokenMint))
    await imds.start_on_loopback(lambda: HostIdentities(users, system))
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", imds.url)
    path = written(tmp_path, **fields) if fields is not None else ""
    credential = credential_for(await asyncio.to_thread(read, path, environ), PUBLIC)
    assert isinstance(credential, ManagedIdentityCredential)
    try:
        token = await credential.get_token("https://management.azure.com/.default")
    finally:
        await credential.close()
        await imds.stop()
    assert read_claims(token.token)["oid"] == speaker
    assert len(imds.token_calls) == 1


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


async def test_a_rotated_secret_is_logged_and_then_used_without_a_restart(tmp_path: Path) -> None:
    path = written(tmp_path, **FILE)
    made: list[Credential] = []

    def make(config: CloudConfig, cloud: Cloud) -> Credential:
        made.append(Credential(config, cloud))
        return made[-1]

    rotating = await follow(path, make)
    changes: list[tuple[str, str]] = []
    assert not await rotating.reread()
    written(tmp_path, **FILE | {"aadClientSecret": "newer"})
    assert await rotating.reread(lambda config: changes.append((config.client_secret, rotating.config.client_secret)))
    assert changes == [("newer", "hush")]
    assert rotating.config.client_secret == "newer"
    assert (await rotating.get_token("scope")).token == "newer"
    assert [session.closed for session in made] == [True, False]


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
