"""Bindings, identities, exceptions, assignments: each fault is told by its objects' names, and its neighbour is not."""

from typing import Any

import msgspec
import pytest

from podidctl.doctor.shapes import Level
from podidctl.inquiry.facts import Unread
from podidentity.resources import AzureIdentitySpec, Node
from tests.nmi.identity.shapes import assigned_identity, binding, exception, identity, pod
from tests.podidctl.examined import bad, examined, objects, one

MALFORMED = msgspec.structs.replace(identity(), spec=AzureIdentitySpec(type=0, resource_id="/typo"))
SAID = {"aadpodidentity.k8s.io/message": "grant MIC the role"}
BARE = Node(metadata=objects().nodes[0].metadata)


def test_a_healthy_installation_has_nothing_to_say() -> None:
    told = examined()
    assert bad(told) == []
    assert not told.anything
    assert not told.unknown


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({"identities": (), "assigned": ()}, Level.PROBLEM, "AzureIdentityBinding ns/b (1 pod): there is no AzureId"),
        ({"identities": (MALFORMED,)}, Level.PROBLEM, "AzureIdentity ns/id (1 pod): spec.resourceID '/typo'"),
        ({"nodes": (BARE,)}, Level.PROBLEM, "Node node-1 (1 pod): it has no providerID"),
        ({"bindings": (binding(), binding("idle", selector="none"))}, Level.WARNING, "ns/idle ('none')"),
        ({"pods": (pod(), pod("lost", label="none"))}, Level.PROBLEM, "ns/lost ('none')"),
        ({"bindings": (binding(), binding("twin"))}, Level.WARNING, "bindings that say the same: ns/b, ns/twin"),
        (
            {"identities": (identity(), msgspec.structs.replace(identity("twin"), spec=identity().spec))},
            Level.WARNING,
            "identities that say the same: ns/id, ns/twin",
        ),
        ({"assigned": (assigned_identity(status="Created"),)}, Level.WARNING, "1 identity is Created and not Assigned"),
        (
            {"assigned": (assigned_identity(status="Created", own_annotations=SAID),)},
            Level.PROBLEM,
            "default/web-ns-id: grant MIC the role",
        ),
        ({"pods": (pod(host_network=True),)}, Level.PROBLEM, "ns/web"),
        (
            {"pods": (pod(labels={"app": "x"}),), "exceptions": (exception(labels={"app": "X"}),)},
            Level.WARNING,
            "under an exception, which wins: ns/web",
        ),
    ],
)
def test_a_fault_is_told_with_its_objects(changes: dict[str, Any], level: Level, says: str) -> None:
    line = one(examined(objects=objects(**changes)))
    assert line.level is level
    assert says in line.says


@pytest.mark.parametrize(
    "changes",
    [
        {
            "bindings": (binding(), binding("other", "id", selector="web", namespace="far")),
            "identities": (identity(), identity(namespace="far")),
        },
        {"pods": (pod(), pod("done", label="none", phase="Succeeded"))},
        {"assigned": (assigned_identity(), assigned_identity("two", status="Created", deleting=True))},
        {"pods": (pod(labels={"app": "y"}),), "exceptions": (exception(labels={"app": "x"}),)},
        {"pods": (pod(labels={"app": "x"}),), "exceptions": (exception(labels={"app": "x"}, namespace="far"),)},
    ],
    ids=["other-namespace", "finished", "being-removed", "other-label", "foreign-exception"],
)
def test_what_only_looks_like_a_fault_is_not_told(changes: dict[str, Any]) -> None:
    assert bad(examined(objects=objects(**changes))) == []


def test_many_names_are_cut_and_counted() -> None:
    idle = tuple(binding(f"idle-{number}", selector=f"none-{number}") for number in range(30))
    assert "and 25 more" in one(examined(objects=objects(bindings=(binding(), *idle)))).says


def test_objects_that_may_not_be_read_are_unknown_and_not_well() -> None:
    told = examined(objects=Unread("not allowed: nodes"))
    assert (one(told).level, told.unknown, told.anything) == (Level.UNKNOWN, True, False)


def test_what_an_author_wrote_steers_no_terminal() -> None:
    evil = binding("b", selector="\x1b]0;x\x07eyJhbGciOiJSUzI1NiJ9.eyJhIjoxfQ.c2lnbmF0dXJl")
    document = msgspec.json.encode(examined(objects=objects(bindings=(binding(), evil)))).decode()
    assert "\\u001b" not in document
    assert "eyJhbGci" not in document
