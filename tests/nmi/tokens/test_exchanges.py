"""The choice between the exchanges: by the installation, and by an annotation if the operator allows it."""

import pytest

from nmi.policies import exchanges
from nmi.settings import parse
from nmi.tokens.exchanges import Exchanges
from nmi.tokens.source import PolicyError
from podidentity.azure.federation import Exchange
from podidentity.resources import EXCHANGE_ANNOTATION, AzureIdentity, Meta

ENVIRONMENT = {
    "AZURE_KUBERNETES_TOKEN_PROXY": "https://10.0.0.1/prefix",
    "AZURE_KUBERNETES_SNI_NAME": "name.ests.aks",
    "AZURE_KUBERNETES_CA_FILE": "/ca.crt",
}
BINDINGS = "--federated-exchange=identityBindings"
BY_ANNOTATION = "--federated-exchange-annotation"


def of_node(*flags: str, environ: dict[str, str] | None = None) -> Exchanges:
    return exchanges(parse(["--node=n", "--federated-identities", *flags], ENVIRONMENT if environ is None else environ))


def identity(annotation: str = "") -> AzureIdentity:
    annotations = {EXCHANGE_ANNOTATION: annotation} if annotation else None
    return AzureIdentity(metadata=Meta(name="id", namespace="team", annotations=annotations))


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
    assert of_node(*flags).of(identity(annotation)) is chosen


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
        of_node(*flags).of(identity(annotation))
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
        node.of(identity("identityBindings"))
    assert message in refused.value.detail
    assert node.of(identity()) is Exchange.DIRECT


def test_the_variables_have_no_effect_without_identity_bindings() -> None:
    assert of_node(environ={"AZURE_KUBERNETES_TOKEN_PROXY": "nonsense"}) == Exchanges()
