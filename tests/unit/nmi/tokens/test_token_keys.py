"""The requests that may share a cached token: those that are equal in everything that determines the token.

The other direction bounds memory: a field that the source ignores, or another spelling of a value, gives an identity no
second token.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.federated import FederatedSource
from nmi.tokens.secrets import Secrets
from nmi.tokens.service_principal import ServicePrincipalSource
from nmi.tokens.sign_ins import SignIns
from nmi.tokens.source import IdentityKey, TokenKey
from nmi.tokens.token_proxy import Exchanges
from nmi.tokens.user_assigned import UserAssignedSource
from podidentity.azure.clouds import PUBLIC
from podidentity.azure.federation import Exchange
from podidentity.azure.imds import ImdsSource
from podidentity.kube.client import Client
from podidentity.resources import (
    EXCHANGE_ANNOTATION,
    AzureIdentity,
    AzureIdentitySpec,
    IdentityType,
    Meta,
    SecretReference,
)
from tests.support.examples import examples

HOSTS: Final = ("a.example", "b.example", "c.example", "login.microsoftonline.com")
POLICY: Final = SignInPolicy(
    PUBLIC, allowed_endpoints=[f"https://{host}/" for host in HOSTS], allow_cross_namespace=True
)
SIGN_INS: Final = cast("SignIns", None)
"""The key reads and sends nothing."""

IDS: Final = st.text("0123456789abcdef", min_size=1, max_size=36)
NAMES: Final = st.text("abcxyz0123456789", min_size=1, max_size=12)
AUDIENCES: Final = ("https://vault.azure.net", "https://vault.azure.net/", "https://VAULT.azure.net")
"""Azure compares audiences exactly."""
PARTS: Final[Mapping[str, st.SearchStrategy[object]]] = {
    "client_id": IDS,
    "resource_id": NAMES.map(lambda name: f"/subscriptions/s/{name}"),
    "tenant_id": IDS,
    "auxiliary_tenant_ids": st.lists(IDS, max_size=3),
    "ad_endpoint": st.sampled_from([f"https://{host}/" for host in HOSTS[:3]]),
    "secret_name": NAMES,
    "secret_namespace": NAMES,
    "exchange": st.sampled_from([str(exchange) for exchange in Exchange]),
    "credential": NAMES,
    "pod": NAMES,
    "resource": st.sampled_from(AUDIENCES) | st.text(min_size=1, max_size=20),
    "xms_cc": st.sampled_from(["", "cp1", "CP1", "cp1,cp2", "cp2,cp1"]),
}
REQUEST_PARTS: Final = ("pod", "resource", "xms_cc")
REQUESTS: Final = st.fixed_dictionaries(dict(PARTS))
Parts = Mapping[str, Any]


def identity_of(type_: int, parts: Parts) -> AzureIdentity:
    federated = type_ == IdentityType.FEDERATED
    annotations = {EXCHANGE_ANNOTATION: parts["exchange"]} if federated and parts["exchange"] else None
    return AzureIdentity(
        metadata=Meta(name="id", namespace="ns", annotations=annotations),
        spec=AzureIdentitySpec(
            type=type_,
            client_id=parts["client_id"],
            resource_id=parts["resource_id"],
            tenant_id=parts["tenant_id"],
            auxiliary_tenant_ids=None if federated else parts["auxiliary_tenant_ids"],
            ad_endpoint=parts["ad_endpoint"],
            client_password=SecretReference(name=parts["secret_name"], namespace=parts["secret_namespace"]),
        ),
    )


def user_assigned(parts: Parts, *, by_resource_id: bool = False) -> IdentityKey:
    source = UserAssignedSource(cast("ImdsSource", None), by_resource_id=by_resource_id)
    return source.key(identity_of(IdentityType.USER_ASSIGNED, parts))


def user_assigned_by_resource_id(parts: Parts) -> IdentityKey:
    return user_assigned(parts, by_resource_id=True)


def service_principal(parts: Parts, type_: int = IdentityType.SECRET) -> IdentityKey:
    secrets = Secrets(cast("Client", None))
    secrets.accept(POLICY.application(identity_of(type_, parts)), parts["credential"])
    return ServicePrincipalSource(POLICY, secrets, SIGN_INS).key(identity_of(type_, parts))


def certificate(parts: Parts) -> IdentityKey:
    return service_principal(parts, IdentityType.CERTIFICATE)


def federated(parts: Parts) -> IdentityKey:
    exchanges = Exchanges(by_annotation=True)
    source = FederatedSource(POLICY, {}, SIGN_INS, enabled=True, exchanges=exchanges)
    return source.key(identity_of(IdentityType.FEDERATED, parts))


KeyOf = Callable[[Parts], IdentityKey]
SIGN_IN: Final = ("tenant_id", "auxiliary_tenant_ids", "ad_endpoint", "secret_name", "secret_namespace", "credential")
USED: Final[Mapping[KeyOf, tuple[str, ...]]] = {
    user_assigned: ("client_id",),
    user_assigned_by_resource_id: ("client_id", "resource_id"),
    service_principal: ("client_id", *SIGN_IN),
    certificate: ("client_id", *SIGN_IN),
    federated: ("client_id", "tenant_id", "ad_endpoint", "exchange"),
}
"""The fields that each source uses."""
IGNORED: Final = {
    source: [part for part in PARTS if part not in {*used, *REQUEST_PARTS}] for source, used in USED.items()
}


def key(source: KeyOf, parts: Parts) -> TokenKey:
    """The key of a token request with *parts*."""
    return TokenKey.of(source(parts), parts["resource"], parts["xms_cc"], parts["pod"])


def each_of(fields: Mapping[KeyOf, tuple[str, ...] | list[str]]) -> pytest.MarkDecorator:
    pairs = [(source, part) for source, parts in fields.items() for part in parts]
    return pytest.mark.parametrize(
        ("source", "part"), pairs, ids=[f"{source_.__name__}-{part}" for source_, part in pairs]
    )


@each_of({source: (*used, *REQUEST_PARTS) for source, used in USED.items()})
@settings(max_examples=examples(50))
@given(data=st.data())
def test_requests_that_differ_in_one_part_share_no_token(source: KeyOf, part: str, data: st.DataObject) -> None:
    request = data.draw(REQUESTS)
    changed = data.draw(PARTS[part])
    assume(changed != request[part])
    assert key(source, {**request, part: changed}) != key(source, request)


@each_of(IGNORED)
@settings(max_examples=examples(20))
@given(data=st.data())
def test_a_field_that_the_source_ignores_gives_an_identity_no_second_token(
    source: KeyOf, part: str, data: st.DataObject
) -> None:
    request = data.draw(REQUESTS)
    assert key(source, {**request, part: data.draw(PARTS[part])}) == key(source, request)


def test_the_types_share_no_token() -> None:
    same = dict.fromkeys(PARTS, "x") | {"auxiliary_tenant_ids": None, "ad_endpoint": "", "exchange": "direct"}
    assert len({key(source, same) for source in USED if source is not user_assigned_by_resource_id}) == 4


@pytest.mark.parametrize("change", [str.upper, lambda text: f" {text}\n"], ids=["case", "blanks"])
@each_of({source: [field for field in used if field.endswith("_id")] for source, used in USED.items()})
@settings(max_examples=examples(20))
@given(request=REQUESTS)
def test_ids_that_differ_in_case_or_in_blanks_around_them_share_a_token(
    source: KeyOf, part: str, change: Callable[[str], str], request: Parts
) -> None:
    assert key(source, {**request, part: change(request[part])}) == key(source, request)


@pytest.mark.parametrize("source", [user_assigned, user_assigned_by_resource_id])
@pytest.mark.parametrize("letter", "\u03f4\u1e9e\u2126\u212a\u212b")
def test_no_two_resource_ids_that_azure_distinguishes_share_a_token(source: KeyOf, letter: str) -> None:
    """The Kelvin sign and k are two letters with one lower case."""
    parts: Parts = dict.fromkeys(PARTS, "") | {"auxiliary_tenant_ids": None}
    first, second = ({**parts, "resource_id": f"/subscriptions/s/{name}"} for name in (letter.lower(), letter))
    assert source(first) != source(second)


ENDPOINTS: Final = ("https://a.example", "https://A.Example/", "https://a.example:443/")
SPELLINGS: Final = [
    *(("ad_endpoint", endpoint, "https://a.example/") for endpoint in ENDPOINTS),
    ("ad_endpoint", "", "https://login.microsoftonline.com/"),
    ("exchange", "", "direct"),
]


@pytest.mark.parametrize("source", [service_principal, certificate, federated])
@pytest.mark.parametrize(("part", "form", "same"), SPELLINGS)
@settings(max_examples=examples(20))
@given(request=REQUESTS)
def test_spellings_of_one_endpoint_or_of_the_nodes_own_exchange_share_a_token(
    source: KeyOf, part: str, form: str, same: str, request: Parts
) -> None:
    assert key(source, {**request, part: form}) == key(source, {**request, part: same})


@pytest.mark.parametrize("source", [service_principal, certificate])
@settings(max_examples=examples(20))
@given(request=REQUESTS, names=st.tuples(NAMES, NAMES))
def test_a_secret_without_a_namespace_is_in_the_identitys_namespace(
    source: KeyOf, request: Parts, names: tuple[str, str]
) -> None:
    assert key(source, {**request, "secret_namespace": ""}) == key(source, {**request, "secret_namespace": "ns"})
    name, namespace = names
    assume(namespace != "ns")
    assert key(source, {**request, "secret_name": name, "secret_namespace": ""}) != key(
        source, {**request, "secret_name": name, "secret_namespace": namespace}
    )


def test_an_identity_without_a_client_id_is_known_by_its_resource_id() -> None:
    parts: Parts = dict.fromkeys(PARTS, "") | {"auxiliary_tenant_ids": None}
    named = [{**parts, "resource_id": name} for name in ("/a", "/b")]
    assert user_assigned(named[0]) != user_assigned(named[1])
    assert user_assigned(named[0]) == user_assigned_by_resource_id({**named[0], "resource_id": " /A "})
