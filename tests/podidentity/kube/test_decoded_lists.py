"""A list whose objects are decoded together has the same content as one whose objects are decoded one by one."""

import json
import random
from typing import Any

import pytest

from podidentity.kube import plain_objects
from podidentity.kube.decoding import Malformed, TooLong, decode_list, decode_object, split_list
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, NODES, SCHEDULED_PODS, Kind
from tests.podidentity.kube.scripted import pod
from tests.podidentity.kube.test_plain_objects import changed, document


def listed(*items: bytes, **meta: str) -> bytes:
    written = json.dumps({"resourceVersion": "7", **meta}).encode()
    return b'{"kind":"List","metadata":%s,"items":[%s]}' % (written, b",".join(items))


def content(kind: Kind[Any], data: bytes) -> list[Any]:
    """Return what an informer reads: each object, or the type of the exception."""
    page, found = decode_list(kind, data), []
    for raw in page.items:
        try:
            found.append(decode_object(kind, raw))
        except Malformed as error:
            found.append(type(error))
    return [*page.objects, *found]


def one_by_one(kind: Kind[Any], data: bytes) -> list[Any]:
    found: list[Any] = []
    for raw in split_list(data).items:
        try:
            found.append(decode_object(kind, raw))
        except Malformed as error:
            found.append(type(error))
    return found


def test_the_pods_of_a_list_are_decoded_together() -> None:
    data = listed(*(json.dumps(pod(f"p{each}", str(each))).encode() for each in range(5)), **{"continue": "more"})
    page = decode_list(SCHEDULED_PODS, data)
    assert (page.items, len(page.objects), page.size) == ([], 5, len(data))
    assert (page.resource_version, page.continue_token) == ("7", "more")
    assert page.objects == one_by_one(SCHEDULED_PODS, data)


def test_the_assigned_identities_of_a_list_are_decoded_together() -> None:
    data = listed(*(json.dumps(document(each)).encode() for each in range(5)))
    page = decode_list(ASSIGNED_IDENTITIES, data)
    assert (page.items, len(page.objects)) == ([], 5)
    assert page.objects == one_by_one(ASSIGNED_IDENTITIES, data)


def test_bindings_may_have_nulls_and_old_field_names_and_stay_undecoded() -> None:
    page = decode_list(BINDINGS, listed(b'{"metadata":{"name":"b"},"spec":{"Selector":"s"}}'))
    assert (len(page.items), page.objects) == (1, [])


@pytest.mark.parametrize("seed", range(20))
def test_assigned_identities_of_any_form_have_the_same_content(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(20):
        data = listed(*(changed(draw) for _ in range(draw.randint(1, 4))))
        assert content(ASSIGNED_IDENTITIES, data) == one_by_one(ASSIGNED_IDENTITIES, data)


@pytest.mark.parametrize("bad", [b"5", b"null", b'{"metadata":{"name":7}}', b'{"metadata":{"name":"b"},"spec":null}'])
def test_an_unreadable_object_hides_no_other(bad: bytes) -> None:
    good = json.dumps(pod("good", "1")).encode()
    for kind in (SCHEDULED_PODS, NODES):
        found = content(kind, listed(good, bad, good))
        assert found == one_by_one(kind, listed(good, bad, good))
        assert found[0] == found[2] == decode_object(kind, good)


@pytest.mark.parametrize("field", ["pod", "podNamespace", "nodename"])
def test_an_object_with_a_field_over_its_limit_is_refused_in_a_list_too(field: str) -> None:
    large, good = document(1), document(2)
    large["spec"][field] = "x" * 70_000
    data = listed(json.dumps(large).encode(), json.dumps(good).encode())
    found = content(ASSIGNED_IDENTITIES, data)
    assert found == [TooLong, decode_object(ASSIGNED_IDENTITIES, json.dumps(good).encode())]


@pytest.mark.parametrize("size", [plain_objects.PART_MAX - 100, plain_objects.PART_MAX + 1])
def test_a_long_field_below_its_limit_is_kept(size: int) -> None:
    long = document(1)
    long["spec"]["pod"] = "x" * size
    (found,) = content(ASSIGNED_IDENTITIES, listed(json.dumps(long).encode()))
    assert found.spec.pod == "x" * size


def test_a_response_that_is_no_list_is_malformed() -> None:
    for data in (b"<html>", b"[]", b'{"items":[]}', b'{"metadata":{},"items":5}'):
        with pytest.raises(Malformed):
            decode_list(SCHEDULED_PODS, data)
        with pytest.raises(Malformed):
            split_list(data)
