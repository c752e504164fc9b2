"""The sign-in of the Azure CLI, with which `podidctl explain --roles` reads Azure."""

import json
import shlex
from pathlib import Path

import pytest

from mic.azure.errors import SignInFailed
from mic.startup.azure_reader import azure_reader
from mic.startup.settings import MicSettings
from tests.support.mic.arm_client import AUDIENCE, serving_arm
from tests.support.objects import vm_id


def write_az(folder: Path, script: str) -> None:
    (folder / "az").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "az").chmod(0o755)


async def test_resource_manager_of_the_named_cloud_gets_the_token_of_the_sign_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description, bundle = tmp_path / "environment.json", tmp_path / "ca.pem"
    settings = MicSettings(
        namespace="n",
        environment={"CLOUD": "AzureStackCloud"},
        azure_environment_file=description,
        ca_bundle=bundle,
    )
    async with serving_arm() as azure:
        token = {"accessToken": azure.credential.token, "expires_on": 2**40, "tokenType": "Bearer"}
        write_az(tmp_path, f'echo "$@" > {tmp_path}/words; echo {shlex.quote(json.dumps(token))}')
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        description.write_text(
            json.dumps(
                {
                    "activeDirectoryEndpoint": "https://login.cloud.example/",
                    "resourceManagerEndpoint": azure.arm.url,
                    "tokenAudience": f"{AUDIENCE}/",
                }
            )
        )
        bundle.write_text(azure.authority.pem)
        async with azure_reader(settings, by_cli=True) as (_, reader):
            resource = json.loads(await reader.read(vm_id(), {"api-version": "2024-07-01"}))
    assert resource["id"] == vm_id()
    assert (tmp_path / "words").read_text() == f"account get-access-token --output json --resource {AUDIENCE}\n"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("", "Azure CLI not found on path"),
        ("echo \"Please run 'az login' to setup account.\" >&2; exit 1", "Please run 'az login' to set up an account"),
        ("echo rubbish", "Unexpected output from Azure CLI"),
    ],
    ids=["no-program", "not-signed-in", "no-token"],
)
async def test_without_a_sign_in_a_read_fails_with_the_next_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    if program:
        write_az(tmp_path, program)
    monkeypatch.setenv("PATH", str(tmp_path))
    async with azure_reader(MicSettings(namespace="n"), by_cli=True) as (own, azure):
        assert own == ""
        with pytest.raises(SignInFailed, match="no token for Resource Manager; run az login, or pass") as refused:
            await azure.read("/subscriptions/s", {})
    assert reason in refused.value.message
