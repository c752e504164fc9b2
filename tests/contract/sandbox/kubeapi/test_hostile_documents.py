"""Bodies that are wrong in every way: each is refused with a Status or taken, none brings the server to a 500."""

import copy
import datetime
import io
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from podidentity_sandbox.kubeapi import KubeApi, responses
from podidentity_sandbox.kubeapi.history import Item
from podidentity_sandbox.kubeapi.patching import merge, strategic_merge
from podidentity_sandbox.kubeapi.requests import BODY_MAX, DEPTH_MAX
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.sandbox.kubeapi.client import CONFIGMAPS, JSON, MERGE, Caller

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
STRANGE: tuple[Any, ...] = (None, 0, -1, True, "", "é", [], {}, [1], [None], [[]], {"a": 1}, {"a": None})
GOOD: dict[str, dict[str, Any]] = {
    "pods": {
        "metadata": {"name": "x", "labels": {"a": "b"}, "finalizers": ["x/y"]},
        "spec": {
            "nodeName": "n",
            "terminationGracePeriodSeconds": 3,
            "tolerations": [{"key": "a"}],
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1}]}],
            "initContainers": [{"name": "c", "image": "i"}],
        },
        "status": {
            "phase": "x",
            "podIP": "1",
            "podIPs": [{"ip": "2"}],
            "containerStatuses": [{"ready": True, "restartCount": 1, "state": {"waiting": {"reason": "x"}}}],
        },
    },
    "nodes": {
        "metadata": {"name": "x"},
        "spec": {"providerID": "x"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "1"},
        },
    },
    "namespaces": {"metadata": {"name": "x"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "x"}},
    "events": {
        "metadata": {"name": "x"},
        "involvedObject": {"kind": "x", "name": "y"},
        "source": {"component": "z"},
        "count": 1,
        "eventTime": "2026-01-01T00:00:00.000000Z",
    },
    "secrets": {"metadata": {"name": "x"}, "stringData": {"a": "b"}, "data": {"x": "eQ=="}},
    "configmaps": {"metadata": {"name": "x"}, "data": {"x": "y"}, "binaryData": {"z": "eQ=="}},
    "endpoints": {"metadata": {"name": "x"}, "subsets": [{"addresses": [{"ip": "1"}], "ports": [{"port": 1}]}]},
    "leases.coordination.k8s.io": {
        "metadata": {"name": "x"},
        "spec": {"holderIdentity": "x", "leaseDurationSeconds": 3, "renewTime": "2026-01-01T00:00:00.000000Z"},
    },
    "azureidentities.aadpodidentity.k8s.io": {
        "metadata": {"name": "x"},
        "spec": {"type": 0, "clientPassword": {"name": "x"}, "auxiliaryTenantIDs": ["a"]},
    },
    "customresourcedefinitions.apiextensions.k8s.io": {
        "metadata": {"name": "foos.x.io"},
        "spec": {
            "group": "x.io",
            "scope": "Namespaced",
            "names": {"kind": "Foo", "plural": "foos", "shortNames": ["f"]},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [{"name": "x", "type": "string", "jsonPath": ".spec.x"}],
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object"}}}},
                }
            ],
        },
    },
}


def paths_in(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside *value*."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield (*place, name)
        yield from paths_in(part, (*place, name))


def strange_documents(good: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """*good* with one place changed to something strange, for every place, and with a field without a name."""
    for *parents, last in paths_in(good):
        for value in STRANGE:
            document = copy.deepcopy(good)
            holder = document
            for name in parents:
                holder = holder[name]
            holder[last] = value
            yield document
    for value in STRANGE:
        yield good | {"": value}


@pytest.mark.parametrize("kind", GOOD)
async def test_wrong_types_are_rejected_or_accepted_but_never_an_internal_error(api: KubeApi, kind: str) -> None:
    verbs, resource = api._verbs, api._registry.named(kind)
    key = ("default" if resource.namespaced else "", GOOD[kind]["metadata"]["name"])
    good = {"kind": resource.kind, "apiVersion": resource.api_version} | GOOD[kind]
    codes: Counter[int] = Counter()

    def attempt(write: Callable[[], Item]) -> None:
        try:
            responses.row(resource, write(), NOW, "Object")
        except StatusError as error:
            codes[error.code] += 1
        else:
            codes[200] += 1

    def meet(strange: dict[str, Any]) -> None:
        if verbs.history.get(kind, key) is None:
            verbs.create(resource, key[0], copy.deepcopy(good))
        attempt(lambda: verbs.update(resource, key, lambda _: copy.deepcopy(strange)))
        attempt(lambda: verbs.update(resource, key, lambda old: merge(old, strange)))
        attempt(lambda: verbs.update(resource, key, lambda old: strategic_merge(old, strange)))
        if kind != "namespaces":  # those end in steps, test_deletion
            verbs.history.remove(kind, key)
            attempt(lambda: verbs.create(resource, key[0], copy.deepcopy(strange)))
            if verbs.history.get(kind, key) is not None:
                verbs.history.remove(kind, key)

    for document in strange_documents(good):
        meet(document)
    assert codes.keys() <= {200, 400, 403, 404, 422}
    assert codes[200] > 50
    assert codes[400] + codes[422] > 50


async def test_an_oversized_body_is_rejected_and_a_smaller_one_is_not(call: Caller) -> None:
    def of_size(size: int) -> bytes:
        head, tail = b'{"metadata":{"name":"big"},"data":{"x":"', b'"}}'
        return head + b"x" * (size - len(head) - len(tail)) + tail

    assert (await call("POST", CONFIGMAPS, io.BytesIO(of_size(BODY_MAX + 1)))).status == 413
    assert (await call("POST", CONFIGMAPS, io.BytesIO(of_size(BODY_MAX)))).status == 201


async def test_a_body_nested_too_deeply_is_rejected_and_a_less_deep_one_is_not(call: Caller) -> None:
    for levels, statuses in ((DEPTH_MAX + 1, (400, 400)), (100_000, (400, 400)), (DEPTH_MAX - 2, (422, 200))):
        body = b'{"a":' * levels + b"1" + b"}" * levels
        created = await call("POST", CONFIGMAPS, body)
        patched = await call("PATCH", f"{CONFIGMAPS}/kube-root-ca.crt", body, MERGE)
        assert (created.status, patched.status) == statuses


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b'"x"', b"\xff\xfe", b'{"metadata":{"name":"\xff"}}', b"k8s\x00\xff\xff"],
)
@pytest.mark.parametrize("media", [JSON, "application/yaml", "application/vnd.kubernetes.protobuf"])
async def test_a_body_without_a_document_is_a_bad_request(call: Caller, body: bytes, media: str) -> None:
    response = await call("POST", CONFIGMAPS, body, media)
    assert (response.status, response.body["kind"]) in {(400, "Status"), (422, "Status")}
