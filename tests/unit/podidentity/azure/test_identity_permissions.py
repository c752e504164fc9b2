"""Objects of RBAC for identity bindings: valid names, one for each service account and identity, and no wildcard."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podidentity.azure.identity_permissions import NAME_MAX, is_grantable, permission_binding, permission_role

CLIENT = "d3a0c11e-0000-4000-8000-000000000001"
SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
LONG = st.lists(LABELS, min_size=1, max_size=5).map(lambda parts: ".".join(parts)[:253].rstrip(".-"))
# Names of a small set often differ in one part only.
NAMESPACES = st.sampled_from(["a", "b", "a-b"]) | LABELS
ACCOUNTS = st.sampled_from(["c", "b-c", "b.c", "a.c"]) | LONG
CLIENTS = st.just(CLIENT) | st.uuids().map(str)


def name_of(client_id: str, namespace: str, account: str) -> str:
    return str(permission_binding(client_id, namespace, account)["metadata"]["name"])


def test_the_role_has_exactly_the_permission_of_one_identity() -> None:
    role = permission_role(CLIENT)
    assert role["rules"] == [
        {"apiGroups": ["cid.wi.aks.azure.com"], "resources": [CLIENT], "verbs": ["use-managed-identity"]}
    ]


def test_the_binding_refers_to_the_role_and_has_one_subject() -> None:
    binding = permission_binding(CLIENT, "shop", "web")
    assert binding["roleRef"]["name"] == permission_role(CLIENT)["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "web", "namespace": "shop"}]


def test_the_client_id_is_written_as_nmi_sends_it() -> None:
    assert permission_role(f" {CLIENT.upper()} ") == permission_role(CLIENT)
    assert permission_binding(CLIENT.upper(), "a", "b") == permission_binding(CLIENT, "a", "b")


@pytest.mark.parametrize("client_id", ["*", "", "c", f"{CLIENT}x", f"{CLIENT}\n*", f"{CLIENT},*", "*" * 36])
def test_a_client_id_that_is_not_a_guid_gets_no_role(client_id: str) -> None:
    assert not is_grantable(client_id)
    with pytest.raises(ValueError, match="GUID"):
        permission_role(client_id)
    with pytest.raises(ValueError, match="GUID"):
        permission_binding(client_id, "shop", "web")


@pytest.mark.parametrize(
    ("namespace", "account"),
    [
        ("", "web"),
        ("shop", ""),
        ("Shop", "web"),
        ("shop", "we b"),
        ("sh.op", "web"),
        ("shop", "a\nkind: x"),
        ("a", "*"),
    ],
)
def test_a_name_that_no_service_account_has_gets_no_binding(namespace: str, account: str) -> None:
    with pytest.raises(ValueError, match="no service account"):
        permission_binding(CLIENT, namespace, account)
    assert permission_binding(CLIENT, "shop", "web.v2")


def test_names_with_the_same_joined_text_differ() -> None:
    assert name_of(CLIENT, "a-b", "c") != name_of(CLIENT, "a", "b-c")
    assert name_of(CLIENT, "a", "b.c") != name_of(CLIENT, "a-b", "c")


def test_the_longest_names_are_bounded_and_differ() -> None:
    longest = "a" * 253
    first, second = name_of(CLIENT, "n" * 63, longest), name_of(CLIENT, "n" * 63, longest[:-1] + "b")
    assert first != second
    assert first == name_of(CLIENT, "n" * 63, longest)
    assert max(len(first), len(second)) <= NAME_MAX


@given(st.lists(st.tuples(CLIENTS, NAMESPACES, ACCOUNTS), min_size=2, max_size=8, unique=True))
def test_every_name_is_valid_and_has_one_owner(owners: list[tuple[str, str, str]]) -> None:
    names = [name_of(*owner) for owner in owners]
    assert len(set(names)) == len(owners)
    assert all(SUBDOMAIN.fullmatch(name) and len(name) <= NAME_MAX for name in names)
