"""Settings of the sign-in endpoint and of its certificate authorities; an unusable one ends the start with one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from nmi.policies import sign_in_policy, sign_in_trust
from nmi.settings import parse
from nmi.tokens.source import PolicyError
from podidentity.exits import StartError
from podidentity.resources import AzureIdentity, AzureIdentitySpec, Meta, SecretReference

NODE = "--node=n1"


def authority(args: list[str], environ: dict[str, str], **changed: Any) -> str:
    spec = AzureIdentitySpec(
        type=1,
        client_id="c",
        tenant_id="t",
        client_password=SecretReference(name="sp", namespace=changed.pop("namespace", "ns")),
        **changed,
    )
    identity = AzureIdentity(metadata=Meta(name="id", namespace="ns"), spec=spec)
    return sign_in_policy(parse([NODE, *args], environ)).application(identity).authority.url


def test_the_cloud_of_the_environment_is_the_default_and_the_public_cloud_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "stack.json"
    urls = {"activeDirectoryEndpoint": "https://login.stack.example/", "resourceManagerEndpoint": "https://arm.example"}
    file.write_text(json.dumps(urls))
    assert authority([], {}) == "https://login.microsoftonline.com"
    assert authority([], {"AZURE_ENVIRONMENT_FILEPATH": str(file)}) == "https://login.stack.example"


def test_each_flag_permits_what_it_names() -> None:
    with pytest.raises(PolicyError):
        authority([], {}, ad_endpoint="https://mine.example")
    allowed = ["--allowed-ad-endpoints=https://mine.example/"]
    assert authority(allowed, {}, ad_endpoint="https://mine.example") == "https://mine.example"
    with pytest.raises(PolicyError):
        authority(allowed, {}, namespace="other")
    assert authority(["--allow-cross-namespace-secrets"], {}, namespace="other")


def test_an_unusable_cloud_description_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="AZURE_ENVIRONMENT_FILEPATH"):
        sign_in_policy(parse([NODE], {"AZURE_ENVIRONMENT_FILEPATH": str(tmp_path / "nowhere.json")}))
    file = tmp_path / "odd.json"
    urls = {"activeDirectoryEndpoint": "https://a b.example/?x", "resourceManagerEndpoint": "https://arm.example"}
    file.write_text(json.dumps(urls))
    with pytest.raises(StartError, match="https://host/"):
        sign_in_policy(parse([NODE], {"AZURE_ENVIRONMENT_FILEPATH": str(file)}))


def test_an_unusable_ca_bundle_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    settings = parse([NODE, f"--ca-bundle={file}"], {})
    with pytest.raises(StartError, match=r"cannot read --ca-bundle .*; check the name and the key"):
        sign_in_trust(settings)
    file.write_text("nothing")
    with pytest.raises(StartError, match="contains no certificate; write PEM certificates"):
        sign_in_trust(settings)
    assert sign_in_trust(parse([NODE], {})) is None
