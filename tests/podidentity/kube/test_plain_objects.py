"""Fast decoding of assigned identities gives what general decoding gives, for every spelling, null, type and depth."""

import copy
import gc
import json
import random
from typing import Any

import pytest

from podidentity.kube import decoding, plain_objects
from podidentity.kube.decoding import Malformed, decode_object
from podidentity.resources import ASSIGNED_IDENTITIES, AzureAssignedIdentity

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


def decoded(data: bytes) -> AzureAssignedIdentity | type[Exception]:
    try:
        return decode_object(ASSIGNED_IDENTITIES, data)
    except Malformed as error:
        return type(error)


def paths(value: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, inner in value.items():
        found.append((*before, key))
        if isinstance(inner, dict):
            found += paths(inner, (*before, key))
    return found


def other_spelling(draw: random.Random, key: str) -> str:
    return draw.choice([key.lower(), key.upper(), key[:1].upper() + key[1:], key + "X"])


def changed(draw: random.Random) -> bytes:
    """Return a document with up to three changes at random places."""
    made = copy.deepcopy(document(draw.randint(0, 3)))
    for _ in range(draw.randint(0, 3)):
        *before, last = draw.choice(paths(made))
        parent = made
        for each in before:
            parent = parent[each]
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
    for text, found in zip(texts, fast, strict=True):
        assert decoded(text) == found, text


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
    known = len(plain_objects._IDENTITIES)
    del first, second
    gc.collect()
    assert len(plain_objects._IDENTITIES) == known - 1
