"""In a private cloud the demo reads Resource Manager and its authority from the files that NMI and MIC read too."""

import asyncio
import json
from pathlib import Path

import pytest

from podidentity_demo.settings import DemoSettings, parse
from podidentity_sandbox.certificates import Authority
from tests.contract.demo.conftest import names_of, one_run
from tests.contract.sandbox.azure.conftest import Azure

NAMES = ["--subscriptionid=s", "--clientid=c", "--resourcegroup=g"]


def cloud_file(folder: Path, content: object) -> dict[str, str]:
    """Write a description of a cloud. Return the environment that names it."""
    file = folder / "environment.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return {"AZURE_ENVIRONMENT_FILEPATH": str(file)}


def settings_of(azure: Azure, folder: Path, authority: Authority) -> DemoSettings:
    """Return the settings of a cloud whose Resource Manager is that of *azure*, with the bundle of *authority*."""
    environment = cloud_file(
        folder, {"resourceManagerEndpoint": azure.arm.url, "tokenAudience": "https://management.azure.com/"}
    )
    bundle = folder / "ca.crt"
    bundle.write_text(authority.pem)
    servers = {"AZURE_POD_IDENTITY_AUTHORITY_HOST": azure.imds.url}
    return parse([*names_of(azure), f"--ca-bundle={bundle}"], environment | servers)


@pytest.mark.parametrize("is_trusted", [True, False], ids=["its authority", "another authority"])
async def test_vms_are_counted_only_with_the_authority_of_the_cloud(
    is_trusted: bool, azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.imds.url)  # for Azure's library
    azure.directory.grant(azure.one.object_id, "Reader")
    azure.vm.attach(azure.one)
    authority = azure.authority if is_trusted else Authority()
    lines = await one_run(await asyncio.to_thread(settings_of, azure, tmp_path, authority))
    if is_trusted:
        assert lines[0] == "successfully doARMOperations vm count 1"
    else:
        assert "certificate verify failed" in lines[0]


@pytest.mark.parametrize(
    ("description", "audience"),
    [
        ({}, "https://management.cloud.example/"),
        ({"serviceManagementEndpoint": "https://service"}, "https://service"),
        ({"SERVICEMANAGEMENTENDPOINT": "https://service", "tokenAudience": "https://other"}, "https://other"),
    ],
    ids=["endpoint", "service management", "token audience"],
)
def test_the_audience_of_tokens_comes_from_the_description(
    description: dict[str, str], audience: str, tmp_path: Path
) -> None:
    environment = cloud_file(tmp_path, {"resourceManagerEndpoint": "https://management.cloud.example/"} | description)
    settings = parse(NAMES, environment)
    assert (settings.resource_manager, settings.resource) == ("https://management.cloud.example", audience)
    assert parse([*NAMES, "--resource-name=https://vault"], environment).resource == "https://vault"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([], "must contain one JSON object"),
        ({}, "resourceManagerEndpoint must be an https URL, but is ''"),
        ({"resourceManagerEndpoint": "http://plain"}, "must be an https URL, but is 'http://plain'"),
        ({"resourceManagerEndpoint": "https://["}, "must be an https URL"),
    ],
    ids=["cut", "deep", "list", "empty", "not encrypted", "no host"],
)
def test_an_unusable_description_ends_the_demo_with_the_reason(
    content: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(NAMES, cloud_file(tmp_path, content))
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), ("no certificate", "ca.crt' cannot be used")])
def test_an_unusable_bundle_ends_the_demo_with_the_reason(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "ca.crt"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(SystemExit) as exit_:
        parse([*NAMES, f"--ca-bundle={bundle}"], {})
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
