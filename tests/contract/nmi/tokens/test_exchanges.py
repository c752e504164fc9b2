"""The choice between the exchanges, by the installation or an annotation; the token proxy and its authority."""

from pathlib import Path

import pytest

from nmi.policies import exchanges
from nmi.settings import parse
from nmi.tokens.source import PolicyError
from nmi.tokens.token_proxy import CA_BYTES_MAX, Exchanges, ProxySettings, ProxyUnreachable, TokenProxy, TokenProxyError
from podidentity.azure.federation import Exchange
from podidentity.resources import EXCHANGE_ANNOTATION, AzureIdentity
from podidentity_sandbox.certificates import Authority
from tests.support.nmi_objects import identity

ENVIRONMENT = {
    "AZURE_KUBERNETES_TOKEN_PROXY": "https://10.0.0.1/prefix",
    "AZURE_KUBERNETES_SNI_NAME": "name.ests.aks",
    "AZURE_KUBERNETES_CA_FILE": "/ca.crt",
}
BINDINGS = "--federated-exchange=identityBindings"
BY_ANNOTATION = "--federated-exchange-annotation"


def of_node(*flags: str, environ: dict[str, str] | None = None) -> Exchanges:
    return exchanges(parse(["--node=n", "--federated-identities", *flags], ENVIRONMENT if environ is None else environ))


def annotated(annotation: str = "") -> AzureIdentity:
    return identity(annotations={EXCHANGE_ANNOTATION: annotation} if annotation else None)


@pytest.mark.parametrize(
    ("flags", "annotation", "chosen"),
    [
        ((), "", Exchange.DIRECT),
        ((), "direct", Exchange.DIRECT),
        ((BINDINGS,), "", Exchange.IDENTITY_BINDINGS),
        ((BINDINGS,), "identityBindings", Exchange.IDENTITY_BINDINGS),
        ((BY_ANNOTATION,), "identityBindings", Exchange.IDENTITY_BINDINGS),
        ((BINDINGS, BY_ANNOTATION), "direct", Exchange.DIRECT),
    ],
)
def test_the_exchange_is_that_of_the_installation_or_of_a_permitted_annotation(
    flags: tuple[str, ...], annotation: str, chosen: Exchange
) -> None:
    assert of_node(*flags).of(annotated(annotation)) is chosen


@pytest.mark.parametrize(
    ("flags", "annotation", "message"),
    [
        ((), "identityBindings", "federated.exchangeAnnotation"),
        ((BINDINGS,), "direct", "federated.exchangeAnnotation"),
        ((BY_ANNOTATION,), "IdentityBindings", "write direct or identityBindings"),
        ((BY_ANNOTATION,), "\x1b[2J", "write direct or identityBindings"),
    ],
)
def test_another_annotation_is_refused(flags: tuple[str, ...], annotation: str, message: str) -> None:
    with pytest.raises(PolicyError) as refused:
        of_node(*flags).of(annotated(annotation))
    assert message in refused.value.detail
    assert refused.value.detail.isprintable()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "AKS's webhook"),
        ({"AZURE_KUBERNETES_TOKEN_PROXY": "http://10.0.0.1"}, "without user, query and fragment"),
        ({**ENVIRONMENT, "AZURE_KUBERNETES_CA_DATA": "x"}, "set exactly one"),
    ],
)
def test_without_a_usable_proxy_only_identities_with_bindings_are_refused(
    environ: dict[str, str], message: str
) -> None:
    node = of_node(BY_ANNOTATION, environ=environ)
    with pytest.raises(PolicyError) as refused:
        node.of(annotated("identityBindings"))
    assert message in refused.value.detail
    assert node.of(annotated()) is Exchange.DIRECT


def test_the_variables_have_no_effect_without_identity_bindings() -> None:
    assert of_node(environ={"AZURE_KUBERNETES_TOKEN_PROXY": "nonsense"}) == Exchanges()


PEM = Authority("a").pem
GOOD = ProxySettings("https://10.0.0.1:6443/prefix", "name.ests.aks", ca_data=PEM)


@pytest.mark.parametrize("url", ["https://aks.example/", "https://aks.example", "https://[fd00::1]:443/prefix"])
def test_a_valid_url_of_the_proxy_is_accepted(url: str) -> None:
    assert TokenProxy(GOOD._replace(url=url)).endpoint.url.startswith("https://")
    assert TokenProxy(GOOD._replace(url=url, server_name="")).endpoint.url.startswith("https://")


@pytest.mark.parametrize(
    "url",
    [
        *("http://10.0.0.1", "https://user@10.0.0.1", "https://user:secret@10.0.0.1", "https://10.0.0.1?x=1"),
        *("https://10.0.0.1/#x", "https://10.0.0.1/../x", "https://10.0.0.1:70000"),
        *("https://user:secret@[fd00::1]", "https://[fd00::1]?x=1", "https://[fd00::1]/#x"),
    ],
)
def test_an_invalid_url_of_the_proxy_is_named_by_its_variable_and_without_its_secret(url: str) -> None:
    with pytest.raises(TokenProxyError, match="AZURE_KUBERNETES_TOKEN_PROXY") as error:
        TokenProxy(GOOD._replace(url=url))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ProxySettings(), "AZURE_KUBERNETES_TOKEN_PROXY is missing"),
        (GOOD._replace(url="https://[fd00::1%eth0]"), "without a zone"),
        (GOOD._replace(server_name="a b"), "AZURE_KUBERNETES_SNI_NAME"),
        (GOOD._replace(server_name="https://name"), "AZURE_KUBERNETES_SNI_NAME"),
        (GOOD._replace(ca_file="/ca.crt"), "both set"),
        (GOOD._replace(ca_data=""), "both missing"),
    ],
)
def test_invalid_settings_name_the_variable(settings: ProxySettings, message: str) -> None:
    with pytest.raises(TokenProxyError, match=message):
        TokenProxy(settings)


async def test_the_server_name_defaults_to_the_host() -> None:
    target = await TokenProxy(GOOD._replace(server_name="")).target()
    assert (target.server_name, target.endpoint.url) == ("10.0.0.1", "https://10.0.0.1:6443/prefix")


@pytest.mark.parametrize(
    "content", [None, "", "text", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
async def test_an_unusable_authority_is_named_and_may_be_replaced(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)
    proxy = TokenProxy(GOOD._replace(ca_data="", ca_file=str(file)))
    with pytest.raises(ProxyUnreachable, match="AZURE_KUBERNETES_CA_FILE" if content is not None else "No such file"):
        await proxy.target()
    file.write_text(PEM)
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
