"""One long conversation, held with the emulator and with the real API server: both must answer alike.

Compared are the HTTP status and the whole body, without what no two servers can share (uids, revisions, times) and
without managedFields and descriptions, which the emulator leaves out or shortens.

Where only the wording of a message differs, the step says so.
"""

import asyncio
import re
import ssl
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from podidentity_sandbox.kubeapi import KubeApi
from tests.support.sandbox.kubeapi.client import (
    JSON,
    JSON_PATCH,
    MERGE,
    STRATEGIC,
    TABLE,
    Caller,
    Response,
    identity,
    pod,
)
from tests.support.testplane import up
from tests.support.waiting import LIMIT_SECONDS

VOLATILE = {"uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "lastTransitionTime", "continue"}
NOT_OURS = {"managedFields", "description"}
AGE_OF_HISTORY = re.compile(r"\d+ \(\d+\)")
AGE = re.compile(r"\d+s")
A = "/apis/aadpodidentity.k8s.io/v1/namespaces/NS/azureidentities"
ASSIGNED = "/apis/aadpodidentity.k8s.io/v1/namespaces/NS/azureassignedidentities"
WAITING = {
    "apiVersion": "aadpodidentity.k8s.io/v1",
    "kind": "AzureAssignedIdentity",
    "metadata": {"name": "waiting", "annotations": {"aadpodidentity.k8s.io/message": "not allowed"}},
    "spec": {"Pod": "web", "podNamespace": "ns"},
    "status": {"status": "Created"},
}
C = "/api/v1/namespaces/NS/configmaps"
S = "/api/v1/namespaces/NS/secrets"
P = "/api/v1/namespaces/NS/pods"
L = "/apis/coordination.k8s.io/v1/namespaces/NS/leases"
D = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
BINDING = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "free"}, "target": {"name": "n9"}}


@dataclass(frozen=True)
class Step:
    method: str
    path: str
    body: Any = None
    content_type: str = JSON
    accept: str = JSON
    words: bool = True
    """Whether a refusal's message must be the same too."""
    whole: bool = True
    """Whether the body is compared, not the status alone."""


def labelled(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


CONVERSATION = [
    # Names and places
    Step("GET", "/api/v1/nosuch"),
    Step("GET", "/nosuch"),
    Step("GET", "/apis/nosuch.io/v1/things"),
    Step("GET", f"{P}/none"),
    Step("PUT", "/api/v1/pods", {}),
    Step("POST", C, {"metadata": {"name": "A_b"}}),
    Step("POST", C, {"metadata": {}}),
    Step("POST", C, {"metadata": {"name": "a", "labels": {"x": "y z"}}}),
    Step("POST", C, {"metadata": {"name": "a", "labels": {"x": "y" * 64}}}, words=False, whole=False),
    Step("POST", C, {"metadata": {"name": "a", "finalizers": ["not qualified"]}}, words=False, whole=False),
    Step("POST", "/api/v1/namespaces/none-such/configmaps", {"metadata": {"name": "a"}}),
    Step("POST", C, {"metadata": {"name": "a", "namespace": "other"}}),
    Step("POST", C, b"{", words=False),
    Step("POST", C, b"[]", words=False),
    Step("POST", C, {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}}, words=False),
    Step("POST", C, b"x", content_type="text/plain"),
    Step("GET", C, accept="text/plain", words=False),
    # Create, update, conflict
    Step("POST", C, {"metadata": {"name": "a"}, "data": {"k": "v"}}),
    Step("POST", C, {"metadata": {"name": "a"}}),
    Step("POST", C, {"metadata": {"name": "b", "resourceVersion": "5"}}, words=False),
    Step("POST", f"{C}?dryRun=All", {"metadata": {"name": "dry"}}),
    Step("GET", f"{C}/dry"),
    Step("PUT", f"{C}/a", {"metadata": {"name": "a", "resourceVersion": "1"}}),
    Step("PUT", f"{C}/a", {"metadata": {"name": "b"}}),
    Step("PUT", f"{C}/a", {"metadata": {"name": "a", "uid": "other"}}, words=False),
    Step("PUT", f"{C}/a", {"metadata": {"name": "a", "labels": {"x": "1"}}, "data": {"k": "w"}}),
    Step("PUT", f"{C}/none", {"metadata": {"name": "none"}}),
    Step("DELETE", f"{C}/a", {"preconditions": {"uid": "x"}}, words=False),
    Step("DELETE", f"{C}/a"),
    Step("DELETE", f"{C}/a"),
    # Secrets
    Step("POST", S, {"metadata": {"name": "sp"}, "stringData": {"clientSecret": "first"}}),
    Step("PUT", f"{S}/sp", {"metadata": {"name": "sp"}, "type": "Opaque", "data": {"certificate": "AAEC/w=="}}),
    Step("GET", f"{S}/sp"),
    Step(
        "PUT",
        f"{S}/sp",
        {"metadata": {"name": "sp"}, "data": {"lines": "AAEC\r\n/w==\n", "bits": "AB==", "none": None}},
    ),
    Step("PUT", f"{S}/sp", {"metadata": {"name": "sp"}, "stringData": {"none": None}}),
    Step("POST", S, {"metadata": {"name": "tls"}, "type": "example.com/own"}),
    Step("PUT", f"{S}/tls", {"metadata": {"name": "tls"}}),
    Step("PATCH", f"{S}/tls", {"type": "Opaque"}, MERGE),
    *(
        Step("POST", path, {"metadata": {"name": "bad"}, field: {"a": text}}, words=False)
        for path, field in ((S, "data"), (C, "binaryData"))
        for text in ("AAE", "AAAA==", "AA A", "é", 1)
    ),
    Step("PUT", f"{S}/sp", {"metadata": {"name": "sp"}, "data": {"a": "AAE"}}, words=False),
    Step("PATCH", f"{S}/sp", {"data": {"a": "AAE"}}, MERGE, words=False),
    Step("PATCH", f"{S}/sp", {"data": {"a": "AAE"}}, STRATEGIC, words=False),
    Step("GET", f"{S}/sp"),
    # Labels, pages
    *(Step("POST", C, labelled(f"l{n}", n=str(n % 2), **({"odd": "yes"} if n % 2 else {}))) for n in range(5)),
    *(
        Step("GET", f"{C}?labelSelector={selector}")
        for selector in ("n%3D1", "n%3D%3D0", "n!%3D1%2Cn", "n+in+(0,2)", "n%2Cn+notin+(0)", "odd", "!odd%2Cn", "n%3D")
    ),
    Step("GET", f"{C}?labelSelector=a+b+c", words=False),
    Step("GET", f"{C}?fieldSelector=metadata.name%3Dl3"),
    Step("GET", f"{C}?fieldSelector=metadata.name!%3Dl3&labelSelector=n%3D1"),
    Step("GET", f"{C}?fieldSelector=data.k%3D1", words=False),
    Step("GET", f"{C}?labelSelector=n&limit=2"),
    Step("GET", f"{C}?limit=2", whole=False),
    Step("GET", f"{C}?limit=1&continue=nonsense", words=False),
    Step("GET", f"{C}?resourceVersion=xx"),
    Step("DELETE", f"{C}?labelSelector=odd"),
    Step("GET", f"{C}?labelSelector=n"),
    Step("DELETE", "/api/v1/configmaps"),
    # Custom resources
    Step("POST", A, identity("a", foo=1) | {"bar": 1}),
    Step("POST", f"{A}?fieldValidation=Strict", identity("b") | {"bar": 1}),
    Step("POST", A, identity("b", type="x")),
    Step("POST", A, {"metadata": {"name": "b"}}, words=False),
    Step("POST", A, identity("b") | {"apiVersion": "aadpodidentity.k8s.io/v2"}, words=False),
    Step("PUT", f"{A}/a", identity("a")),
    Step("PATCH", f"{A}/a", {"spec": {"type": 1, "clientID": None}}, MERGE),
    Step("PATCH", f"{A}/a", {"spec": {"type": 1}}, MERGE),
    Step("PATCH", f"{A}/a", {"spec": {"type": 1}}, STRATEGIC),
    Step("PATCH", f"{A}/a", {"spec": {"type": "x"}}, MERGE),
    Step("PATCH", f"{A}/a", [{"op": "test", "path": "/spec/type", "value": 0}], JSON_PATCH),
    Step("PATCH", f"{A}/a", [{"op": "test", "path": "/spec/type", "value": 1}], JSON_PATCH),
    Step("PATCH", f"{A}/a", [{"op": "remove", "path": "/spec/nope"}], JSON_PATCH),
    Step("PATCH", f"{A}/a", [{"op": "replace", "path": "/status/status", "value": "x"}], JSON_PATCH),
    Step("PATCH", f"{A}/a", [{"op": "add", "path": "/spec/clientID", "value": "c"}], JSON_PATCH),
    Step("PATCH", f"{A}/a", [{"op": "nonsense", "path": "/spec"}], JSON_PATCH, words=False, whole=False),
    Step("PATCH", f"{A}/a", {"op": "add"}, JSON_PATCH, words=False),
    Step("PATCH", f"{A}/a", b"[", JSON_PATCH, words=False),
    Step("PATCH", f"{A}/a", b"{", MERGE, words=False),
    Step("PATCH", f"{A}/a", {"metadata": {"resourceVersion": "1"}, "spec": {"type": 2}}, MERGE),
    Step("PATCH", f"{A}/a", {"metadata": {"name": "c"}}, MERGE),
    Step("PATCH", f"{A}/none", {"spec": {"type": 2}}, MERGE),
    Step("PATCH", f"{A}/a/status", {"status": {}}, MERGE),
    Step("GET", f"{A}?fieldSelector=spec.type%3D1"),
    Step("GET", A),
    Step("GET", A, accept=TABLE),
    Step("POST", ASSIGNED, WAITING),
    Step("GET", ASSIGNED, accept=TABLE),
    # Finalizers
    Step("PATCH", f"{A}/a", {"metadata": {"finalizers": ["x.y/z"]}}, MERGE),
    Step("DELETE", f"{A}/a"),
    Step("DELETE", f"{A}/a"),
    Step("PATCH", f"{A}/a", {"metadata": {"finalizers": ["x.y/z", "a.b/c"]}}, MERGE, words=False, whole=False),
    Step("PATCH", f"{A}/a", {"metadata": {"labels": {"still": "here"}}}, MERGE),
    Step("POST", A, identity("a")),
    Step("PATCH", f"{A}/a", {"metadata": {"finalizers": None}}, MERGE),
    Step("GET", f"{A}/a"),
    # Leases
    Step("POST", L, {"metadata": {"name": "l"}, "spec": {"renewTime": "2026-01-01T00:00:00Z"}}, words=False),
    Step("POST", L, {"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 0}}),
    Step("POST", L, {"metadata": {"name": "l"}, "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}),
    Step("PUT", f"{L}/l", {"metadata": {"name": "l"}, "spec": {"holderIdentity": "y"}}),
    Step("PUT", f"{L}/l2", {"metadata": {"name": "l2"}, "spec": {"holderIdentity": "y"}}),
    Step("PATCH", f"{L}/l2", {"spec": {"renewTime": "2026-01-01T00:00:00Z"}}, MERGE, words=False),
    Step("DELETE", f"{L}/l"),
    # Pods
    Step("POST", P, {"metadata": {"name": "q"}, "spec": {}}),
    Step("POST", P, pod("free")),
    Step("POST", P, pod("bound", node="n1", labels={"a": "b"})),
    Step("PATCH", f"{P}/bound/status", {"status": {"phase": "Running", "podIP": "10.0.0.1"}}, MERGE, whole=False),
    Step("PATCH", f"{P}/bound/status", {"status": {"phase": "Running"}, "spec": {"nodeName": "x"}}, MERGE),
    Step("PATCH", f"{P}/bound", {"spec": {"nodeName": "x"}}, MERGE, words=False, whole=False),
    Step("PATCH", f"{P}/bound", {"status": {"phase": "Failed"}}, MERGE),
    Step("PATCH", f"{P}/bound", {"metadata": {"labels": {"c": "d", "a": None}}}, STRATEGIC),
    Step("PATCH", f"{P}/bound", {"spec": {"containers": [{"name": "main", "image": "other:1"}]}}, STRATEGIC),
    Step("GET", f"{P}?fieldSelector=spec.nodeName%3Dn1%2Cstatus.phase%3DRunning"),
    Step("GET", f"{P}?fieldSelector=status.podIP%3D10.0.0.1%2Cspec.nodeName%3Dn1"),
    Step("GET", f"{P}?fieldSelector=spec.nodeName%3D"),
    Step("GET", f"{P}?fieldSelector=spec.none%3D1"),
    Step("POST", f"{P}/free/binding", BINDING),
    Step("GET", f"{P}?fieldSelector=spec.nodeName%3Dn9"),
    Step("DELETE", f"{P}/free?gracePeriodSeconds=0"),
    Step("DELETE", f"{P}/bound"),
    Step("DELETE", f"{P}/bound?gracePeriodSeconds=1"),
    Step("GET", f"{P}/bound"),
    Step("PATCH", f"{P}/bound/status", {"status": {"phase": "Succeeded"}}, MERGE),
    Step("DELETE", f"{P}/bound", {"gracePeriodSeconds": 0}),
    Step("GET", f"{P}/bound"),
    Step("POST", P, pod("b", node="n1") | {"metadata": {"name": "b", "finalizers": ["x.y/z"]}}),
    Step("DELETE", f"{P}/b?gracePeriodSeconds=0"),
    Step("PATCH", f"{P}/b", {"metadata": {"finalizers": []}}, MERGE),
    Step("GET", f"{P}/b"),
    # Nodes, namespaces, definitions
    Step("POST", "/api/v1/nodes", {"metadata": {"name": "node-NS"}, "spec": {"providerID": "azure:///x"}}, whole=False),
    Step("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-NS", whole=False),
    Step("DELETE", "/api/v1/nodes/node-NS"),
    Step("GET", "/api/v1/namespaces/NS"),
    Step("POST", "/api/v1/namespaces", {"metadata": {"name": "Not.Good"}}, words=False, whole=False),
    Step("DELETE", "/api/v1/namespaces/default"),
    Step("GET", f"{D}/none"),
    Step("POST", D, {"metadata": {"name": "foos.x.k8s.io"}, "spec": {}}, words=False, whole=False),
    Step(
        "POST",
        D,
        {
            "metadata": {"name": "foos.x.k8s.io"},
            "spec": {
                "group": "x.k8s.io",
                "scope": "Namespaced",
                "names": {"kind": "Foo", "plural": "foos"},
                "versions": [
                    {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
                ],
            },
        },
    ),
    Step("GET", "/healthz"),
]


@pytest.fixture
async def real(plane: up.Plane) -> AsyncIterator[Caller]:
    caller = Caller(plane.server, plane.token, ssl.create_default_context(cadata=plane.ca))
    yield caller
    await caller.close()


@pytest.mark.plane
async def test_the_emulator_and_the_real_server_return_equal_responses(
    api: KubeApi, call: Caller, real: Caller
) -> None:
    namespace = await new_namespace(call, real)
    differences = []
    for step in CONVERSATION:
        path = step.path.replace("NS", namespace)
        responses = [
            comparable(
                step, await caller(step.method, path, named(step.body, namespace), step.content_type, step.accept)
            )
            for caller in (call, real)
        ]
        if responses[0] != responses[1]:
            shown = "\n".join(f"    {place}" for place in unequal(*responses))
            differences.append(f"{step.method} {step.path} {step.body}\n{shown}")
    assert not differences, "\n".join(differences)


@pytest.mark.plane
async def test_a_watch_receives_the_same_events_from_both(api: KubeApi, call: Caller, real: Caller) -> None:
    namespace = await new_namespace(call, real)
    path, identities = C.replace("NS", namespace), A.replace("NS", namespace)
    received = []
    for caller in (call, real):
        listed = (await caller("GET", path)).version
        async with asyncio.timeout(LIMIT_SECONDS):
            # A real server that has just got its definitions asks watchers to come back when its cache is there.
            while (await caller("GET", f"{identities}?watch=1&resourceVersion=1&timeoutSeconds=1")).status == 429:
                pass
        await caller("POST", path, labelled("before", n="1"))
        async with (
            caller.watch(path, labelSelector="n=1", resourceVersion=listed) as selected,
            caller.watch(
                identities, sendInitialEvents="true", resourceVersionMatch="NotOlderThan", allowWatchBookmarks="true"
            ) as initial,
            caller.watch(identities, resourceVersion=1) as forgotten,
            caller.watch(path, resourceVersion=listed, accept=TABLE) as table,
        ):
            await caller("PATCH", f"{path}/before", {"data": {"k": "v"}}, MERGE)
            await caller("PATCH", f"{path}/before", {"metadata": {"labels": {"n": "2"}}}, MERGE)
            await caller("PATCH", f"{path}/before", {"metadata": {"labels": {"n": "3"}}}, MERGE)
            await caller("PATCH", f"{path}/before", {"metadata": {"labels": {"n": "1"}}}, MERGE)
            await caller("DELETE", f"{path}/before")
            async with caller.watch(path, timeoutSeconds=2, resourceVersion=listed) as timed:  # after all changes
                until_the_end = await timed.rest()
            events = [
                [await selected.next() for _ in range(5)],
                [await initial.next()],
                until_the_end,
                [stable_expiry(event) for event in await forgotten.rest()],
                (await table.next())["object"]["rows"][0]["cells"],
            ]
        received.append(stable(events))
    assert unequal(received[0], received[1]) == []


def stable_expiry(event: Any) -> Any:
    """A watch's last event where history is forgotten, without the two revisions in its message."""
    return event | {"object": event["object"] | {"message": AGE_OF_HISTORY.sub("…", event["object"]["message"])}}


async def new_namespace(*callers: Caller) -> str:
    """A namespace of the same name on each server, with its service account."""
    name = f"alike-{uuid.uuid4().hex[:8]}"
    for caller in callers:
        await caller("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        async with asyncio.timeout(LIMIT_SECONDS):
            while (await caller("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default")).status == 404:
                pass
            while (await caller("GET", f"/api/v1/namespaces/{name}/configmaps/kube-root-ca.crt")).status == 404:
                pass
    return name


def named(body: Any, namespace: str) -> Any:
    """*body* with the namespace's name in the place of NS."""
    if isinstance(body, dict):
        return {key: named(value, namespace) for key, value in body.items()}
    return body.replace("NS", namespace) if isinstance(body, str) else body


def comparable(step: Step, response: Response) -> Any:
    if not step.whole:
        return response.status
    body = stable(response.body)
    if isinstance(body, dict) and body.get("kind") == "Status" and not step.words:
        del body["message"]
        for cause in body.get("details", {}).get("causes", ()):
            del cause["message"]
    return response.status, body


def unequal(ours: Any, real: Any, place: str = "") -> list[str]:
    """Every place where the two differ."""
    if isinstance(ours, dict) and isinstance(real, dict):
        names = sorted(ours.keys() | real.keys())
        return [line for name in names for line in unequal(ours.get(name), real.get(name), f"{place}.{name}")]
    if isinstance(ours, tuple | list) and isinstance(real, tuple | list) and len(ours) == len(real):
        return [
            line for at, pair in enumerate(zip(ours, real, strict=True)) for line in unequal(*pair, f"{place}[{at}]")
        ]
    return [] if ours == real else [f"{place}: ours {ours}, real {real}"]


def stable(value: Any) -> Any:
    """Return *value* with dots for parts that differ between servers, and without empty parts."""
    if isinstance(value, dict):
        kept = {name: stable(inner) for name, inner in value.items() if name not in NOT_OURS}
        kept = {name: inner for name, inner in kept.items() if inner not in (None, "", [], {}) or name == "items"}
        return {name: "…" if name in VOLATILE else inner for name, inner in kept.items()}
    if isinstance(value, list):
        return [stable(inner) for inner in value]
    return "…" if isinstance(value, str) and AGE.fullmatch(value) else value
