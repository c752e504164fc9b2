"""Clouds by name, and the required content of a stack's environment file. Excluded: sign-in."""

import json
from pathlib import Path

import pytest

from podidentity.azure import clouds
from podidentity.azure.clouds import CloudError, by_name

STACK = {
    "name": "Contoso",
    "activeDirectoryEndpoint": "https://login.contoso.test:8443/",
    "resourceManagerEndpoint": "https://management.contoso.test/",
    "tokenAudience": "https://management.contoso.test/audience",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stack.json"
    path.write_text(json.dumps(STACK))
    return path


@pytest.mark.parametrize("name", ["AzurePublicCloud", "azurepubliccloud", "AZUREPUBLICCLOUD", ""])
def test_the_public_cloud_is_the_default_and_case_does_not_matter(name: str) -> None:
    assert by_name(name) is clouds.PUBLIC


@pytest.mark.parametrize(
    ("name", "manager"),
    [
        ("AzureUSGovernmentCloud", "https://management.usgovcloudapi.net"),
        ("AzureChinaCloud", "https://management.chinacloudapi.cn"),
        ("AzureGermanCloud", "https://management.microsoftazure.de"),
    ],
)
def test_each_sovereign_cloud_has_its_own_resource_manager(name: str, manager: str) -> None:
    assert by_name(name).resource_manager == manager


def test_an_unusable_name_is_rejected_with_the_next_action() -> None:
    with pytest.raises(CloudError, match="AzureStackCloud"):
        by_name("AzureMoonCloud")
    with pytest.raises(CloudError, match="AZURE_ENVIRONMENT_FILEPATH"):
        by_name("AzureStackCloud")


def test_azure_stack_is_read_from_its_file(file: Path) -> None:
    cloud = by_name("azurestackcloud", file)
    assert cloud.name == "Contoso"
    assert cloud.authority == "https://login.contoso.test:8443"
    assert cloud.resource_manager == "https://management.contoso.test"
    assert cloud.resource_manager_audience == "https://management.contoso.test/audience"
    assert cloud.known_hosts == {"login.contoso.test:8443"}


def test_without_an_audience_the_service_management_endpoint_is_used(file: Path) -> None:
    file.write_text(json.dumps(STACK | {"tokenAudience": "", "serviceManagementEndpoint": "https://sm.test/"}))
    assert by_name("AzureStackCloud", file).resource_manager_audience == "https://sm.test/"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 60_000,
        "[]",
        "{}",
        json.dumps(STACK | {"resourceManagerEndpoint": "http://management.contoso.test"}),
        json.dumps(STACK | {"resourceManagerEndpoint": "https://[management"}),
        json.dumps(STACK | {"resourceManagerEndpoint": "https://management.contoso.test:port"}),
    ],
    ids=["empty", "too-deep", "a-list", "nothing-said", "not-https", "no-address", "no-port"],
)
def test_an_unusable_stack_file_is_rejected_in_one_line(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(CloudError) as refused:
        by_name("AzureStackCloud", file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("second", ["resourceManagerEndpoint", "ResourceManagerEndpoint"])
def test_a_stack_file_with_a_field_of_two_values_is_rejected_and_a_byte_order_mark_is_not(
    file: Path, second: str
) -> None:
    text = json.dumps(STACK)
    file.write_text(text.replace("{", f'{{"{second}": "https://elsewhere.test", ', 1))
    with pytest.raises(CloudError, match="is there twice"):
        by_name("AzureStackCloud", file)

    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert by_name("AzureStackCloud", file).resource_manager == "https://management.contoso.test"


def test_a_missing_stack_file_is_rejected_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(CloudError, match="nowhere"):
        by_name("AzureStackCloud", tmp_path / "nowhere.json")


def test_the_sign_in_hosts_of_all_clouds_are_known() -> None:
    assert {"login.microsoftonline.com", "login.microsoftonline.us"} <= clouds.known_sign_in_hosts()


def test_an_environment_file_names_the_cloud(file: Path) -> None:
    assert clouds.of_environment(None) is clouds.PUBLIC
    assert clouds.of_environment(file).authority == "https://login.contoso.test:8443"
    with pytest.raises(CloudError, match="AZURE_ENVIRONMENT_FILEPATH"):
        clouds.of_environment(file.with_name("nowhere.json"))
