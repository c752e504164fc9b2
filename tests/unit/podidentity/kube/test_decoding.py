"""Any bytes are scanned and decoded into projections, or rejected; the scanner finds what a JSON decoder finds."""

import json
from contextlib import suppress
from itertools import pairwise
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
from podidentity.kube.scanning import FIELD_MAX, ScanError, ScannedObject, Scanner
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
        return [cut(item, depth - 1) for item in value]
    return {key: cut(item, depth - 1) for key, item in value.items()}


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


TEXT = st.text(st.sampled_from('a"\\[]{}:,é\x01/'), max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["metadata", "items", "name", "continue", "object", "]},{"]), inner, max_size=3
        )
    ),
    max_leaves=10,
)
METADATA = st.fixed_dictionaries(
    {}, optional={"labels": VALUE, "name": TEXT, "managedFields": VALUE, "namespace": TEXT, "uid": TEXT}
)
OBJECTS = st.fixed_dictionaries({}, optional={"kind": TEXT, "metadata": METADATA, "spec": VALUE, "name": TEXT})
LIST_METADATA = st.fixed_dictionaries({"resourceVersion": TEXT}, optional={"continue": TEXT, "other": VALUE})


def scan(data: bytes, cuts: list[int], **options: Any) -> tuple[Scanner, list[ScannedObject]]:
    options.setdefault("object_max", 1 << 20)
    scanner, scanned = Scanner(**options), []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in pairwise(edges):
        scanned += scanner.feed(data[begin:end])
    return scanner, scanned


@given(st.lists(OBJECTS, max_size=4), LIST_METADATA, st.booleans(), st.booleans(), st.lists(st.integers(0, 1 << 20)))
def test_a_list_is_split_as_a_json_parser_would(
    objects: list[dict[str, Any]], metadata: dict[str, Any], metadata_first: bool, escaped: bool, cuts: list[int]
) -> None:
    parts: dict[str, Any] = {"metadata": metadata, "items": objects}
    document = {"kind": "L", **(parts if metadata_first else dict(reversed(parts.items())))}
    data = json.dumps(document, ensure_ascii=escaped).encode()
    scanner, scanned = scan(data, cuts)
    assert scanner.finished
    assert [json.loads(item.data) for item in scanned] == objects
    assert [item.size for item in scanned] == [len(item.data) for item in scanned]
    named = [document.get("metadata", {}) for document in objects]
    assert [(item.meta.name, item.meta.namespace, item.meta.uid) for item in scanned] == [
        tuple(meta_.get(field, "") for field in ("name", "namespace", "uid")) for meta_ in named
    ]
    read = split_list(
        json.dumps({**document, "metadata": {k: v for k, v in metadata.items() if k != "other"}}).encode()
    )
    fields = scanner.fields
    assert (fields["resourceVersion"], fields.get("continue", "")) == (read.resource_version, read.continue_token)


@given(TEXT, OBJECTS, st.lists(st.integers(0, 1 << 20)))
def test_a_watch_line_yields_the_name_of_its_object_and_nothing_else(
    kind: str, item: dict[str, Any], cuts: list[int]
) -> None:
    data = json.dumps({"type": kind, "object": item}).encode()
    scanner, (scanned,) = scan(data, cuts, event=True, object_max=0)
    assert scanner.fields.get("type", "") == kind
    assert (scanned.meta.name, scanned.data) == (item.get("metadata", {}).get("name", ""), b"")


@given(st.binary(max_size=64), st.lists(st.integers(0, 64), max_size=3))
def test_any_bytes_are_scanned_or_rejected(data: bytes, cuts: list[int]) -> None:
    for prefix in (b"", b'{"items":[', b'{"items":[{"metadata":{"name":"a'):
        with suppress(ScanError):
            scan(prefix + data, cuts)


def test_an_object_over_the_limit_is_named_and_the_others_are_kept() -> None:
    small, large = {"metadata": {"name": "a"}}, {"spec": "x" * 2000, "metadata": {"name": "b"}}
    data = json.dumps({"items": [small, large, small], "metadata": {"continue": "c"}}).encode()
    scanner, scanned = scan(data, list(range(0, len(data), 100)), object_max=1000)
    assert [(item.meta.name, bool(item.data)) for item in scanned] == [("a", True), ("b", False), ("a", True)]
    assert scanned[1].size > 2000
    assert scanner.fields == {"continue": "c"}


def test_the_content_of_an_object_cannot_imitate_the_surrounding_list() -> None:
    """The token and the names are found by position, whatever text an object contains."""
    forged = '"}],"metadata":{"continue":"forged","resourceVersion":"1"}}'
    item = {
        "metadata": {"annotations": {"a": forged, "name": "forged"}, "name": "b"},
        "name": "x",
        "spec": {"metadata": {"name": "x"}},
    }
    data = json.dumps({"items": [item], "metadata": {"continue": "true"}}).encode()
    scanner, (scanned,) = scan(data, [])
    assert scanner.fields == {"continue": "true"}
    assert scanned.meta.name == "b"


def test_the_nesting_depth_is_reported() -> None:
    data = b'{"items":[{"a":' + b"[" * 5000 + b"]" * 5000 + b"},{}]}"
    _, scanned = scan(data, list(range(0, len(data), 7)))
    assert [item.depth for item in scanned] == [5001, 1]


def test_an_overlong_or_unreadable_name_is_left_out() -> None:
    data = json.dumps({"items": [{"metadata": {"name": "x" * (FIELD_MAX + 1), "uid": "x" * FIELD_MAX}}]}).encode()
    _, (scanned,) = scan(data, [])
    assert (scanned.meta.name, len(scanned.meta.uid)) == ("", FIELD_MAX)
    _, (scanned,) = scan(b'{"items":[{"metadata":{"name":"\xff","uid":"u"}}]}', [])
    assert (scanned.meta.name, scanned.meta.uid) == ("", "u"), "not UTF-8"


@pytest.mark.parametrize("data", [b"]", b'{"items":[]}]', b"{}{}"])
def test_mismatched_brackets_are_rejected(data: bytes) -> None:
    with pytest.raises(ScanError):
        scan(data, [])
    with pytest.raises(Malformed):
        split_list(data)
