"""Reviews of one identity, pod, node or namespace."""

import pytest

from podidctl.access.review import review
from podidctl.access.schema import AccessReview, Scope
from podidctl.access.scope import ScopeError
from podidctl.diagnosis.input import ReadFailure
from tests.podidctl.access.small_cluster import small_cluster


def scoped(kind: str, name: str) -> AccessReview:
    return review(small_cluster(), Scope(kind=kind, name=name))


def names(found: AccessReview) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return the identities, pods, nodes and subjects."""
    return (
        [each.full_name for each in found.identities],
        [each.full_name for each in found.pods],
        [each.name for each in found.nodes],
        [each.full_name for each in found.subjects],
    )


def test_one_identity_with_its_pods_and_those_that_reach_its_host() -> None:
    found = scoped("identity", "shop/payments")
    identities, pods, nodes, subjects = names(found)
    assert identities == ["shop/payments"]
    assert pods == ["kube-system/nmi-node-0", "shop/web-7d4b-x1"]
    assert nodes == ["node-0"]
    assert [each.identity for each in found.grants] == ["shop/payments"]
    assert subjects == [
        "Group shop-developers",
        "Group system:masters",
        "ServiceAccount kube-system/default",  # by a token of ops/robot
        "ServiceAccount ops/robot",
    ]
    assert all(right.identities == 1 for subject in found.subjects for right in subject.rights)
    assert found.summary == review(small_cluster()).summary


def test_one_pod_with_its_blast_radius() -> None:
    found = scoped("pod", "ops/robot")
    identities, pods, nodes, subjects = names(found)
    assert (identities, pods, nodes) == (["ops/legacy"], ["ops/robot"], ["node-1"])
    assert "ServiceAccount kube-system/default" in subjects
    assert found.blast_radius is not None
    assert found.blast_radius.today.identities == ["ops/legacy"]


def test_one_node_with_its_pods_and_blast_radius() -> None:
    found = scoped("node", "node-1")
    identities, pods, nodes, _ = names(found)
    assert identities == ["ops/legacy", "shop/reports"]
    assert (pods, nodes) == (["kube-system/nmi-node-1", "ops/robot", "shop/report"], ["node-1"])
    assert found.blast_radius == found.nodes[0].blast_radius
    assert [each.account for each in found.programs] == ["kube-system/default"]


def test_one_namespace_with_its_identities_and_pods() -> None:
    identities, pods, nodes, _ = names(scoped("namespace", "ops"))
    assert (identities, pods, nodes) == (["ops/legacy"], ["ops/agent", "ops/robot"], ["node-1", "node-2"])


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("identity", "default/payments", "did you mean shop/payments?"),
        ("node", "node-7", "the cluster has no node node-7"),
        ("pod", "shop/none", "check the name with kubectl get pods"),
    ],
)
def test_an_object_that_does_not_exist_is_an_error_with_advice(kind: str, name: str, hint: str) -> None:
    with pytest.raises(ScopeError, match=hint.replace("?", r"\?")):
        scoped(kind, name)


def test_an_object_of_an_unread_kind_is_unknown() -> None:
    with pytest.raises(ScopeError, match="grant list on azureidentities"):
        review(small_cluster(identities=ReadFailure("no")), Scope(kind="identity", name="shop/payments"))
