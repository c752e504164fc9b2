"""The requests that may share a cached token: those that are equal in everything that determines the token."""

from collections.abc import Mapping
from typing import Final

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nmi.tokens.source import TokenKey, key_of
from podidentity.resources import AzureIdentity, AzureIdentitySpec, Meta, SecretReference
from tests.examples import examples

IDS: Final = st.text("0123456789abcdef-", min_size=1, max_size=36)
NAMES: Final = st.text("abcxyz0123456789-.", min_size=1, max_size=12)
AUDIENCES: Final = ("https://vault.azure.net", "https://vault.azure.net/", "https://VAULT.azure.net")
"""Azure compares audiences exactly."""
PARTS: Final[Mapping[str, st.SearchStrategy[object]]] = {
    "type": st.integers(0, 3),
    "client_id": IDS,
    "resource_id": NAMES.map(lambda name: f"/subscriptions/s/{name}"),
    "tenant": IDS,
    "auxiliary_tenants": st.lists(IDS, max_size=3),
    "endpoint": NAMES.map(lambda name: f"https://{name}/"),
    "secret_name": NAMES,
    "secret_namespace": NAMES,
    "credential": NAMES,
    "pod": NAMES,
    "resource": st.sampled_from(AUDIENCES) | st.text(min_size=1, max_size=20),
    "xms_cc": st.sampled_from(["", "cp1", "CP1", "cp1,cp2", "cp2,cp1"]),
}
REQUESTS: Final = st.fixed_dictionaries(dict(PARTS))


def key(parts: Mapping[str, object]) -> TokenKey:
    """The key of a token request with *parts*."""
    given: dict[str, object] = dict(parts)
    secret = SecretReference(name=str(given["secret_name"]), namespace=str(given["secret_namespace"]))
    auxiliary = given["auxiliary_tenants"]
    assert isinstance(auxiliary, list)
    assert isinstance(given["type"], int)
    identity = AzureIdentity(
        metadata=Meta(name="id", namespace="ns"),
        spec=AzureIdentitySpec(
            type=given["type"],
            client_id=str(given["client_id"]),
            resource_id=str(given["resource_id"]),
            tenant_id=str(given["tenant"]),
            auxiliary_tenant_ids=auxiliary,
            ad_endpoint=str(given["endpoint"]),
            client_password=secret,
        ),
    )
    asked = (str(given[name]) for name in ("resource", "xms_cc", "credential", "pod"))
    return key_of(identity, *asked)


@pytest.mark.parametrize("part", PARTS)
@settings(max_examples=examples(50))
@given(data=st.data())
def test_requests_that_differ_in_one_part_share_no_token(part: str, data: st.DataObject) -> None:
    request = data.draw(REQUESTS)
    other = data.draw(PARTS[part])
    assume(other != request[part])
    assert key({**request, part: other}) != key(request)


@given(REQUESTS)
def test_requests_that_are_equal_in_every_part_share_a_token(request: Mapping[str, object]) -> None:
    assert key(dict(request)) == key(request)


@pytest.mark.parametrize("part", ["client_id", "resource_id", "tenant", "endpoint"])
@given(request=REQUESTS)
def test_ids_that_differ_in_case_share_a_token(part: str, request: Mapping[str, object]) -> None:
    assert key({**request, part: str(request[part]).upper()}) == key(request)


@given(request=REQUESTS, names=st.tuples(NAMES, NAMES))
def test_a_secret_without_a_namespace_is_in_the_identitys_namespace(
    request: Mapping[str, object], names: tuple[str, str]
) -> None:
    assert key({**request, "secret_namespace": ""}) == key({**request, "secret_namespace": "ns"})
    name, namespace = names
    assume(namespace != "ns")
    assert key({**request, "secret_name": name, "secret_namespace": ""}) != key(
        {**request, "secret_name": name, "secret_namespace": namespace}
    )
