"""Fast decoding of assigned identities, and of lists together, gives what general decoding of each object gives."""

import copy
import gc
import json
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from podidentity.kube import decoding, plain_objects
from podidentity.kube.decoding import Malformed, TooLong, decode_list, decode_object, split_list
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, NODES, SCHEDULED_PODS, Kind
from tests.support.podidentity.kube.scripted import pod

META = {"name": "demo", "namespace": "default", "uid": "u1", "resourceVersion": "7"}


def document(number: int = 0) -> dict[str, Any]:
    return {
        "apiVersion": "aadpodidentity.k8s.io/v1",
        "kind": "AzureAssignedIdentity",
        "metadata": {
            "name": f"web-{number}",
            "namespace": "default",
            "uid": f"uid-{number}",
            "resourceVersion": "9",
            "creationTimestamp": None,
            "labels": {"nodename": "n0"},
            "annotations": {"aadpodidentity.k8s.io/attached-by": "mic"},
            "finalizers": ["f"],
            "managedFields": [{"manager": "mic", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {
            "azureIdentityRef": {
                "apiVersion": "aadpodidentity.k8s.io/v1",
                "kind": "AzureIdentity",
                "metadata": dict(META),
                "spec": {"type": 0, "resourceID": "/id", "clientID": "c", "clientPassword": {"name": "s"}},
            },
            "azureBindingRef": {
                "apiVersion": "aadpodidentity.k8s.io/v1",
                "kind": "AzureIdentityBinding",
                "metadata": dict(META),
                "spec": {"azureIdentity": "demo", "selector": "demo"},
            },
            "nodename": "n0",
            "pod": f"web-{number}",
            "podNamespace": "default",
        },
        "status": {"availableReplicas": 1, "status": "Assigned"},
    }


def decoded(data: bytes | msgspec.Raw, kind: Kind[Any] = ASSIGNED_IDENTITIES) -> Any:
    """Return the object, or the type of the exception."""
    try:
        return decode_object(kind, data)
    except Malformed as error:
        return type(error)


def paths(value: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    collected = []
    for key, inner in value.items():
        collected.append((*before, key))
        if isinstance(inner, dict):
            collected += paths(inner, (*before, key))
    return collected


def other_spelling(draw: random.Random, key: str) -> str:
    return draw.choice([key.lower(), key.upper(), key[:1].upper() + key[1:], key + "X"])


def changed(draw: random.Random) -> bytes:
    """Return a document with up to three changes at random places."""
    made = copy.deepcopy(document(draw.randint(0, 3)))
    for _ in range(draw.randint(0, 3)):
        *before, last = draw.choice(paths(made))
        parent = made
        for step in before:
            parent = parent[step]
        match draw.randint(0, 5):
            case 0:
                del parent[last]
            case 1:
                parent[last] = None
            case 2:
                parent[other_spelling(draw, last)] = parent.pop(last)
            case 3:
                parent[other_spelling(draw, last)] = draw.choice([None, "other", 3, {"a": "b"}])
            case 4:
                parent[last] = draw.choice([1, 1.0, 1.5, "text", True, [], ["x"], {}, {"x": None}, [[[]]]])
            case _:
                parent[draw.choice(["metadata", "replicas", "extra", "Spec", "creationTimestamp"])] = draw.choice(
                    [None, 1, {"creationTimestamp": None}]
                )
    text = json.dumps(made, separators=(",", ":"))
    if draw.random() < 0.2:
        key = draw.choice(["pod", "nodename", "status", "azureIdentityRef", "type", "spec"])
        value = draw.choice(['"again"', "null", "{}", "2"])
        text = text.replace(f'"{key}":', f'"{key}":{value},"{key}":', 1)
    return text.encode()


@pytest.mark.parametrize("seed", range(20))
def test_both_ways_give_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    texts = [changed(draw) for _ in range(100)]
    fast = [decoded(text) for text in texts]
    monkeypatch.setattr(decoding, "decode_plain", lambda *_: None)
    for text, value in zip(texts, fast, strict=True):
        assert decoded(text) == value, text


@pytest.mark.parametrize(
    "change",
    [
        lambda _made: None,
        lambda made: made["spec"].update(metadata={"creationTimestamp": None}, replicas=1),
        lambda made: made["spec"].pop("azureBindingRef"),
        lambda made: made["spec"]["azureIdentityRef"]["metadata"].update(creationTimestamp=None),
    ],
)
def test_what_mic_and_the_go_implementation_write_is_decoded_fast(change: Any) -> None:
    made = document()
    change(made)
    assert plain_objects.decode_plain(json.dumps(made).encode(), lambda shape, _data: shape()) is not None


def test_equal_embedded_copies_are_one_object_while_an_object_contains_them() -> None:
    first, second = (decode_object(ASSIGNED_IDENTITIES, json.dumps(document(number)).encode()) for number in range(2))
    assert first.spec.azure_identity_ref is second.spec.azure_identity_ref
    assert first.spec.azure_binding_ref is second.spec.azure_binding_ref
    gc.collect()  # other tests' objects do not count
    size_before = len(plain_objects._IDENTITIES)
    del first, second
    gc.collect()
    assert len(plain_objects._IDENTITIES) == size_before - 1


def listed(*items: bytes, **meta: str) -> bytes:
    written = json.dumps({"resourceVersion": "7", **meta}).encode()
    return b'{"kind":"List","metadata":%s,"items":[%s]}' % (written, b",".join(items))


def content(kind: Kind[Any], data: bytes) -> list[Any]:
    """Return what an informer reads: each object, or the type of the exception."""
    page = decode_list(kind, data)
    return [*page.objects, *(decoded(raw, kind) for raw in page.items)]


def one_by_one(kind: Kind[Any], data: bytes) -> list[Any]:
    return [decoded(raw, kind) for raw in split_list(data).items]


@pytest.mark.parametrize(
    ("kind", "made"),
    [(SCHEDULED_PODS, lambda number: pod(f"p{number}", str(number))), (ASSIGNED_IDENTITIES, document)],
    ids=["pods", "assigned identities"],
)
def test_the_objects_of_a_list_are_decoded_together(kind: Kind[Any], made: Callable[[int], dict[str, Any]]) -> None:
    data = listed(*(json.dumps(made(number)).encode() for number in range(5)), **{"continue": "more"})
    page = decode_list(kind, data)
    assert (page.items, len(page.objects), page.size) == ([], 5, len(data))
    assert (page.resource_version, page.continue_token) == ("7", "more")
    assert page.objects == one_by_one(kind, data)


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
        objects = content(kind, listed(good, bad, good))
        assert objects == one_by_one(kind, listed(good, bad, good))
        assert objects[0] == objects[2] == decode_object(kind, good)


@pytest.mark.parametrize("field", ["pod", "podNamespace", "nodename"])
def test_an_object_with_a_field_over_its_limit_is_refused_in_a_list_too(field: str) -> None:
    large, good = document(1), document(2)
    large["spec"][field] = "x" * 70_000
    data = listed(json.dumps(large).encode(), json.dumps(good).encode())
    objects = content(ASSIGNED_IDENTITIES, data)
    assert objects == [TooLong, decode_object(ASSIGNED_IDENTITIES, json.dumps(good).encode())]


@pytest.mark.parametrize("size", [plain_objects.PART_MAX - 100, plain_objects.PART_MAX + 1])
def test_a_long_field_below_its_limit_is_kept(size: int) -> None:
    long = document(1)
    long["spec"]["pod"] = "x" * size
    (object_,) = content(ASSIGNED_IDENTITIES, listed(json.dumps(long).encode()))
    assert object_.spec.pod == "x" * size


def test_a_response_that_is_no_list_is_malformed() -> None:
    for data in (b"<html>", b"[]", b'{"items":[]}', b'{"metadata":{},"items":5}'):
        with pytest.raises(Malformed):
            decode_list(SCHEDULED_PODS, data)
        with pytest.raises(Malformed):
            split_list(data)
