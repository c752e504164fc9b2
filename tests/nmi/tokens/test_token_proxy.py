"""The address of the token proxy and its authority, from the four variables."""

from pathlib import Path

import pytest

from nmi.tokens.token_proxy import CA_BYTES_MAX, ProxySettings, ProxyUnreachable, TokenProxy, TokenProxyError
from podidentity_sandbox.certificates import Authority

PEM = Authority("a").pem
GOOD = ProxySettings("https://10.0.0.1:6443/prefix", "name.ests.aks", ca_data=PEM)


@pytest.mark.parametrize(
    "settings",
    [
        GOOD,
        GOOD._replace(url="https://aks.example/"),
        GOOD._replace(url="https://aks.example"),
        GOOD._replace(server_name=""),
        GOOD._replace(url="https://[fd00::1]:443/prefix"),
        GOOD._replace(url="https://[fd00::1]", server_name=""),
        GOOD._replace(ca_data="", ca_file="/ca.crt"),
    ],
)
def test_valid_settings(settings: ProxySettings) -> None:
    assert TokenProxy(settings).endpoint.url.startswith("https://")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ProxySettings(), "AZURE_KUBERNETES_TOKEN_PROXY is missing"),
        (GOOD._replace(url="http://10.0.0.1"), "AZURE_KUBERNETES_TOKEN_PROXY"),
        (GOOD._replace(url="https://user@10.0.0.1"), "AZURE_KUBERNETES_TOKEN_PROXY"),
        (GOOD._replace(url="https://user:secret@10.0.0.1"), "AZURE_KUBERNETES_TOKEN_PROXY"),
        (GOOD._replace(url="https://10.0.0.1?x=1"), "AZURE_KUBERNETES_TOKEN_PROXY"),
        (GOOD._replace(url="https://10.0.0.1/#x"), "AZURE_KUBERNETES_TOKEN_PROXY"),
        (GOOD._replace(url="https://10.0.0.1/../x"), "AZURE_KUBERNETES_TOKEN_PROXY"),
        (GOOD._replace(url="https://10.0.0.1:70000"), "AZURE_KUBERNETES_TOKEN_PROXY"),
        (GOOD._replace(url="https://[fd00::1%eth0]"), "without a zone"),
        (GOOD._replace(url="https://user:secret@[fd00::1]"), "AZURE_KUBERNETES_TOKEN_PROXY"),
        (GOOD._replace(url="https://[fd00::1]?x=1"), "AZURE_KUBERNETES_TOKEN_PROXY"),
        (GOOD._replace(url="https://[fd00::1]/#x"), "AZURE_KUBERNETES_TOKEN_PROXY"),
        (GOOD._replace(server_name="a b"), "AZURE_KUBERNETES_SNI_NAME"),
        (GOOD._replace(server_name="https://name"), "AZURE_KUBERNETES_SNI_NAME"),
        (GOOD._replace(ca_file="/ca.crt"), "both set"),
        (GOOD._replace(ca_data=""), "both missing"),
    ],
)
def test_invalid_settings_name_the_variable_but_not_its_secret(settings: ProxySettings, message: str) -> None:
    with pytest.raises(TokenProxyError, match=message) as error:
        TokenProxy(settings)
    assert "secret" not in str(error.value)


async def test_the_server_name_defaults_to_the_host() -> None:
    target = await TokenProxy(GOOD._replace(server_name="")).target()
    assert (target.server_name, target.endpoint.url) == ("10.0.0.1", "https://10.0.0.1:6443/prefix")


@pytest.mark.parametrize("content", ["", "text", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_an_unusable_authority_is_named(content: str, tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    file.write_text(content)
    proxy = TokenProxy(GOOD._replace(ca_data="", ca_file=str(file)))
    with pytest.raises(ProxyUnreachable, match="AZURE_KUBERNETES_CA_FILE"):
        await proxy.target()
    file.write_text(PEM)
    assert (await proxy.target()).trust.get_ca_certs()


async def test_a_missing_file_may_appear_later(tmp_path: Path) -> None:
    proxy = TokenProxy(GOOD._replace(ca_data="", ca_file=str(tmp_path / "ca.crt")))
    with pytest.raises(ProxyUnreachable, match="No such file"):
        await proxy.target()
    (tmp_path / "ca.crt").write_text(PEM)
    assert (await proxy.target()).trust.get_ca_certs()


async def test_the_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    file.write_text(PEM + " " * CA_BYTES_MAX)
    with pytest.raises(ProxyUnreachable, match="more than"):
        await TokenProxy(GOOD._replace(ca_data="", ca_file=str(file))).target()


async def test_an_unchanged_file_keeps_its_connections_and_a_replaced_one_does_not(tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    file.write_text(PEM)
    proxy = TokenProxy(GOOD._replace(ca_data="", ca_file=str(file)))
    first = (await proxy.target()).trust
    assert (await proxy.target()).trust is first
    other = tmp_path / "other"
    other.write_text(Authority("b").pem)
    other.replace(file)
    second = (await proxy.target()).trust
    assert second is not first
    (authority,) = second.get_ca_certs()
    assert authority["subject"] == ((("commonName", "b"),),)
