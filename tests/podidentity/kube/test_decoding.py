"""Decoding of arbitrary bytes into projections."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podidentity.kube.compact_values import SEEN_CHARS, SEEN_MAX
from podidentity.kube.decoding import (
    DEPTH_MAX,
    Malformed,
    decode_event,
    decode_meta,
    decode_object,
    shallow,
    split_list,
)
from podidentity.kube.errors import Gone
from podidentity.resources import ASSIGNED_IDENTITIES, IDENTITIES, PODS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["metadata", "spec", "status", "items", "name", "type", "object", "podIP", "ClientID"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def line(event: str, **document: Any) -> bytes:
    return json.dumps({"type": event, "object": document}).encode()


def test_a_list_has_its_resource_version_and_its_continue_token() -> None:
    data = b'{"metadata":{"resourceVersion":"7","continue":"c"},"items":[{"metadata":{"name":"a"}}]}'
    page = split_list(data)
    assert (page.resource_version, page.continue_token) == ("7", "c")
    assert [decode_object(PODS, item).metadata.name for item in page.items] == ["a"]


def test_an_event_has_its_object() -> None:
    event = decode_event(PODS, line("ADDED", metadata={"name": "a", "namespace": "ns", "resourceVersion": "7"}))
    assert (event.type, event.key, event.resource_version) == ("ADDED", ("ns", "a"), "7")
    assert event.object is not None
    assert event.object.key == ("ns", "a")


def test_a_bookmark_has_only_a_resource_version() -> None:
    event = decode_event(PODS, line("BOOKMARK", kind="Pod", metadata={"resourceVersion": "9"}))
    assert (event.type, event.object, event.resource_version) == ("BOOKMARK", None, "9")


def test_an_error_event_equals_the_error_response() -> None:
    event = decode_event(PODS, line("ERROR", kind="Status", code=410, reason="Expired", message="too old"))
    assert isinstance(event.error, Gone)
    assert event.error.status == 410


def test_an_event_with_an_unreadable_object_still_names_it() -> None:
    event = decode_event(PODS, line("MODIFIED", metadata={"name": "a", "namespace": "ns"}, spec={"nodeName": 1}))
    assert (event.object, event.key) == (None, ("ns", "a"))


def test_old_field_names_are_read_on_demand_in_embedded_objects_too() -> None:
    identity = {"metadata": {"name": "i"}, "spec": {"ClientID": "c", "resourceid": "r", "type": 0}}
    document = {"metadata": {"name": "a"}, "spec": {"AzureIdentityRef": identity, "Pod": "p", "NodeName": "n"}}
    spec = decode_object(ASSIGNED_IDENTITIES, json.dumps(document).encode(), old_field_names=True).spec
    assert (spec.pod, spec.nodename) == ("p", "n")
    assert (spec.azure_identity_ref.spec.client_id, spec.azure_identity_ref.spec.resource_id) == ("c", "r")
    assert spec.azure_identity_ref.metadata.name == "i"


def test_nulls_in_our_kinds_count_as_absent() -> None:
    data = b'{"metadata":{"name":"a"},"spec":{"clientID":null,"clientPassword":null,"replicas":null},"status":null}'
    assert decode_object(IDENTITIES, data).spec.client_id == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 5000,
        b'{"type":"ADDED"}',
        b'{"type":"WHAT","object":{"metadata":{}}}',
        b'{"type":"ADDED","object":[]}',
        b'{"type":"ADDED","object":{"metadata":{"name":5}}}',
    ],
)
def test_an_invalid_event_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode_event(PODS, data)


@given(st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_other_bytes_are_malformed_and_cause_no_other_error(data: bytes) -> None:
    for kind in (PODS, IDENTITIES, ASSIGNED_IDENTITIES):
        for decode in (decode_event, decode_object):
            with suppress(Malformed):
                decode(kind, data)
        with suppress(Malformed):
            for item in split_list(data).items:
                with suppress(Malformed):
                    decode_object(kind, item)
    assert isinstance(decode_meta(data).name, str)


@given(JSON, st.integers(0, 3))
def test_a_flattened_object_keeps_all_shallow_fields(value: Any, steps: int) -> None:
    for _ in range(DEPTH_MAX - 4 + steps):
        value = [value, ']}\\"[{', "[[", "]"]
    data = json.dumps(value).encode()
    assert json.loads(shallow(data)) == cut(value, DEPTH_MAX)


def cut(value: Any, depth: int) -> Any:
    """The same by another way."""
    if not isinstance(value, list | dict):
        return value
    if depth == 0:
        return None
    if isinstance(value, list):
        return [cut(each, depth - 1) for each in value]
    return {key: cut(each, depth - 1) for key, each in value.items()}


def resource_id(text: str) -> str:
    """That of the identity which an assigned identity holds, as read."""
    spec = {"azureIdentityRef": {"spec": {"resourceID": text}}}
    document = decode_object(ASSIGNED_IDENTITIES, json.dumps({"spec": spec}).encode())
    return document.spec.azure_identity_ref.spec.resource_id


def test_values_that_thousands_of_objects_share_are_kept_once() -> None:
    text = "/subscriptions/s".ljust(SEEN_CHARS, "x")
    assert resource_id(text) is resource_id(text)
    assert resource_id(text) == text


def test_long_and_old_values_are_not_interned() -> None:
    long = "x" * (SEEN_CHARS + 1)
    assert resource_id(long) is not resource_id(long)
    first = resource_id("first")
    for number in range(SEEN_MAX):
        resource_id(f"another {number}")
    assert resource_id("first") is not first
