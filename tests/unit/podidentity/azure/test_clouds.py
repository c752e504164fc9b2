"""Clouds by name, the required content of a stack's environment file, and endpoints that secrets may be sent to.

An endpoint has one spelling and one host. Excluded: sign-in, and which endpoints are allowed
(tests/unit/nmi/tokens/test_sign_in_policy.py).
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from podidentity.azure import clouds
from podidentity.azure.clouds import CloudError, Endpoint, by_name, parse_endpoint

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


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("https://login.microsoftonline.com", Endpoint("login.microsoftonline.com")),
        ("https://login.microsoftonline.com/", Endpoint("login.microsoftonline.com")),
        ("HTTPS://LOGIN.MicrosoftOnline.COM/", Endpoint("login.microsoftonline.com")),
        ("https://login.microsoftonline.com:443", Endpoint("login.microsoftonline.com")),
        ("https://login.microsoftonline.com:0443/", Endpoint("login.microsoftonline.com")),
        ("https://adfs.local:8443/adfs/", Endpoint("adfs.local", 8443, "/adfs")),
        ("https://127.0.0.1:8443", Endpoint("127.0.0.1", 8443)),
        ("https://localhost", Endpoint("localhost")),
        ("https://xn--bcher-kva.example", Endpoint("xn--bcher-kva.example")),
    ],
)
def test_each_valid_spelling_is_accepted(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(endpoint.url) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "login.example",
        "//login.example",
        "http://login.example",
        "https:login.example",
        "https:/login.example",
        "https:///login.example",
        "https://",
        "https://.",
        "https://:443",
        "https://login.example.",
        "https://.login.example",
        "https://login..example",
        "https://login.example/../evil",
        "https://login.example/./",
        "https://login.example//evil.example",
        "https://login.example:",
        "https://login.example:0",
        "https://login.example:65536",
        "https://login.example:-1",
        "https://[::1]",
        "https://[::ffff:127.0.0.1]:443",
        "https://-login.example",
        "https://login_.example",
        "https://" + "a" * 64 + ".example",
        "https://" + "a." * 130 + "example",
    ],
)
def test_an_invalid_endpoint_is_rejected(text: str) -> None:
    assert parse_endpoint(text) is None


# Of user, escape, query, fragment and parameter; spaces and control characters; and letters that resemble ASCII ones.
@pytest.mark.parametrize("character", "@%?#;\\ \t\r\n\x00\u0456\uff4c\uff13\u3002\u200b\u017f\u212a")
@pytest.mark.parametrize("valid", ["https://login.key.example:443/adfs", "https://[fd00::1]:443/adfs"])
def test_an_endpoint_with_a_character_that_other_parsers_may_read_differently_is_rejected(
    valid: str, character: str
) -> None:
    for place in range(len(valid) + 1):
        for rest in (valid[place:], valid[place + 1 :]):
            assert parse_endpoint(valid[:place] + character + rest, ipv6="[" in valid) is None


IPV6 = [
    ("https://[fd00::1]:443/prefix", Endpoint("fd00::1", 443, "/prefix")),
    ("https://[FD00:0:0::1]", Endpoint("fd00::1")),
    ("https://[::1]:6443/", Endpoint("::1", 6443)),
]


@pytest.mark.parametrize(("text", "endpoint"), IPV6)
def test_an_ipv6_address_is_accepted_only_where_it_is_allowed(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text, ipv6=True) == endpoint
    assert parse_endpoint(endpoint.url, ipv6=True) == endpoint
    assert parse_endpoint(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "https://fd00::1",
        "https://[fd00::1",
        "https://fd00::1]",
        "https://[::ffff:10.0.0.1]",
        "https://[::ffff:a00:1]",
        "https://[10.0.0.1]",
        "https://[v1.a]",
        "https://[]",
        "https://[:]",
        "https://[fd00:::1]",
        "https://[fd00::1::2]",
        "https://[12345::1]",
        "https://[1:2:3:4:5:6:7:8:9]",
        "https://[fd00::1].evil.example",
        "https://[fd00::1]evil",
        "https://[fd00::1]/../x",
        "https://[fd00::1]:70000",
        "https://[fd00::1]:0",
        "http://[fd00::1]",
    ],
)
def test_an_invalid_ipv6_address_is_rejected(text: str) -> None:
    assert parse_endpoint(text, ipv6=True) is None


@pytest.mark.parametrize("start", ["https://", "https://["])
@given(tail=st.text(st.sampled_from("https:/.@\\%#?[]-_ aA0\n\t\x00é"), max_size=40))
def test_other_parsers_read_the_same_host_from_an_accepted_endpoint(start: str, tail: str) -> None:
    endpoint = parse_endpoint(start + tail, ipv6=start.endswith("["))
    if endpoint is not None:
        url = URL(start + tail)
        assert (url.host, url.port, url.path.rstrip("/")) == (endpoint.host, endpoint.port, endpoint.path)
        assert (url.user, url.query_string, url.fragment) == (None, "", "")
