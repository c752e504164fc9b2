"""Reviews of one object, parts that could not be read, and access that is undecided."""

from typing import Any

import pytest

from podidctl.access.blast_radius import ReviewIndex
from podidctl.access.differences import compare
from podidctl.access.html.document import model
from podidctl.access.outputs import AccessOutput
from podidctl.access.review import review
from podidctl.access.schema import AccessReview, Scope
from podidctl.access.unknown_parts import RESOURCES
from podidctl.facts.model import ReadFailure
from podidentity.exits import StartError
from tests.support.podidctl.access.small_cluster import nmi, pod, pod_of, printed, reviewed, rule_result, small_cluster


def scoped(kind: str, name: str) -> AccessReview:
    return review(small_cluster(), Scope(kind=kind, name=name))


def names(access_review: AccessReview) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return the identities, pods, nodes and subjects."""
    return (
        [identity.full_name for identity in access_review.identities],
        [pod.full_name for pod in access_review.pods],
        [node.name for node in access_review.nodes],
        [subject.full_name for subject in access_review.subjects],
    )


def test_one_identity_with_its_pods_and_those_that_reach_its_host() -> None:
    access_review = scoped("identity", "shop/payments")
    identities, pods, nodes, subjects = names(access_review)
    assert identities == ["shop/payments"]
    assert pods == ["kube-system/nmi-node-0", "shop/web-7d4b-x1"]
    assert nodes == ["node-0"]
    assert [grant.identity for grant in access_review.grants] == ["shop/payments"]
    assert subjects == [
        "Group shop-developers",
        "Group system:masters",
        "ServiceAccount kube-system/default",  # by a token of ops/robot
        "ServiceAccount ops/robot",
    ]
    assert all(right.identities == 1 for subject in access_review.subjects for right in subject.rights)
    assert access_review.summary == review(small_cluster()).summary


def test_one_pod_node_or_namespace() -> None:
    access_review = scoped("pod", "ops/robot")
    identities, pods, nodes, subjects = names(access_review)
    assert (identities, pods, nodes) == (["ops/legacy"], ["ops/robot"], ["node-1"])
    assert "ServiceAccount kube-system/default" in subjects
    assert access_review.blast_radius is not None
    assert access_review.blast_radius.today.identities == ["ops/legacy"]
    access_review = scoped("node", "node-1")
    identities, pods, nodes, _ = names(access_review)
    assert identities == ["ops/legacy", "shop/reports"]
    assert (pods, nodes) == (["kube-system/nmi-node-1", "ops/robot", "shop/report"], ["node-1"])
    assert access_review.blast_radius == access_review.nodes[0].blast_radius
    assert [program.account for program in access_review.programs] == ["kube-system/default"]
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
    with pytest.raises(StartError, match=hint.replace("?", r"\?")):
        scoped(kind, name)


def test_an_object_of_an_unread_kind_is_unknown() -> None:
    with pytest.raises(StartError, match="grant list on azureidentities"):
        review(small_cluster(identities=ReadFailure("no")), Scope(kind="identity", name="shop/payments"))


def test_an_unknown_kind_is_never_the_whole_review() -> None:
    with pytest.raises(KeyError, match="nodes"):
        review(small_cluster(), Scope(kind="nodes", name="node-0"))


@pytest.mark.parametrize("field", RESOURCES)
def test_each_unread_kind_is_named_with_its_right(field: str) -> None:
    unread: dict[str, Any] = {field: ReadFailure("not allowed: pods")}
    (unknown,) = reviewed(**unread).unknown
    assert (unknown.part, unknown.why) == (RESOURCES[field], "not allowed: pods")
    assert unknown.right == f"list on {RESOURCES[field]}"


def test_a_summary_without_the_objects_is_null_and_not_zero() -> None:
    summary = reviewed(pods=ReadFailure("no"), nodes=ReadFailure("no"), identities=ReadFailure("no")).summary
    assert (summary.pods, summary.host_pods, summary.pods_with_identities) == (None, None, None)
    assert (summary.nodes, summary.hosts, summary.identities) == (None, None, None)
    assert summary.bindings == 3
    access_review = reviewed(nodes=ReadFailure("no"))
    assert {node.name: node.host for node in access_review.nodes} == {
        "node-0": "node:node-0",
        "node-1": "node:node-1",
        "node-2": "node:node-2",
    }
    assert {grant.identity for grant in access_review.grants} == {"shop/payments", "shop/reports", "ops/legacy"}


def test_unreadable_flags_and_objects_are_named() -> None:
    access_review = reviewed(nmi=(nmi("node-0", "--no-such-flag"), nmi("node-1")))
    (unknown,) = access_review.unknown
    assert (unknown.part, "kube-system/nmi-node-0" in unknown.why) == ("nmi", True)
    assert access_review.rules.source == "the flags of pod kube-system/nmi-node-1"
    access_review = reviewed(skipped={"azureidentities": 2, "clusterroles": 1})
    assert [(unknown.part, unknown.why.partition(" cannot")[0]) for unknown in access_review.unknown] == [
        ("azureidentities.aadpodidentity.k8s.io", "2 azureidentities"),
        ("rbac", "1 clusterroles"),
    ]


def test_a_pod_on_a_node_that_does_not_exist_is_shown_without_a_host() -> None:
    access_review = reviewed(pods=(pod("lost", label="payments", node="gone"),), assigned=())
    assert [(pod.full_name, pod.node) for pod in access_review.pods] == [("shop/lost", "gone")]
    assert access_review.grants == []


NAME = "shop/reader"
SETTING = "hostPath /data"


def with_path(*, read_only: bool) -> AccessReview:
    return reviewed(pods=(pod("reader", host_path="/data", read_only=read_only),), nmi=tuple(map(nmi, ("node-0",))))


def test_it_is_part_of_the_review_without_the_reach_of_its_node() -> None:
    access_review = with_path(read_only=True)
    reader = pod_of(access_review, NAME)
    assert (reader.host_access, reader.takes_over_node) == ([], False)
    assert [(access.way, access.detail) for access in reader.undecided_access] == [("hostPath", "/data")]
    assert ReviewIndex(access_review).blast_radius_of(reader).today.identities == []
    assert [node.host_pods for node in access_review.nodes if node.name == "node-0"] == [[]]
    assert (access_review.summary.host_pods, access_review.summary.undecided_pods) == (0, 1)
    objects = small_cluster(pods=(pod("reader", host_path="/data", read_only=True),), nmi=(nmi("node-0"),))
    access_review = review(objects, Scope(kind="identity", name="shop/payments"))
    assert [pod.full_name for pod in access_review.pods] == [NAME]


def test_a_pod_that_writes_the_same_path_has_that_reach() -> None:
    access_review = with_path(read_only=False)
    writer = pod_of(access_review, NAME)
    assert writer.takes_over_node
    assert ReviewIndex(access_review).blast_radius_of(writer).today.identities == ["shop/payments"]
    assert (access_review.summary.host_pods, access_review.summary.undecided_pods) == (1, 0)


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (AccessOutput.TABLE, f"undecided: {SETTING}"),
        (AccessOutput.TABLE, "pods that reach their host: 0, undecided: 1"),
        (AccessOutput.WIDE, f"undecided: {SETTING} (it is not known"),
        (AccessOutput.JSON, '"undecidedAccess"'),
        (AccessOutput.DOT, 'label="undecided: hostPath", style=dashed, color=orange'),
    ],
)
def test_every_output_shows_it(output: AccessOutput, text: str) -> None:
    assert text in printed(with_path(read_only=True), output)
    assert text not in printed(with_path(read_only=False), output) or output is AccessOutput.JSON


def test_the_page_for_a_browser_has_it_with_the_reason() -> None:
    (reader,) = model(with_path(read_only=True))["pods"]
    (undecided,) = reader["undecidedAccess"]
    assert (undecided["way"], undecided["detail"]) == ("hostPath", "/data")
    assert undecided["why"]
    assert reader["hostAccess"] == []


def test_a_rule_against_host_access_is_not_decided() -> None:
    rule = "rule: no-host-access"
    result = rule_result(rule, with_path(read_only=True))
    assert result.violations == []
    (undecided,) = result.undecided
    assert undecided.startswith(f"Pod {NAME} on node node-0: {SETTING}: ")
    written = rule_result(rule, with_path(read_only=False))
    assert [violation.object for violation in written.violations] == [f"Pod {NAME}"]
    assert written.undecided == []


@pytest.mark.parametrize(
    "limit",
    ["exceptPods: [reader]", "exceptNamespaces: [shop]", "ways: [privileged]", "nodes: [node-1]", "identities: [none]"],
)
def test_a_rule_that_does_not_concern_the_pod_is_decided(limit: str) -> None:
    assert rule_result(f"rule: no-host-access, {limit}", with_path(read_only=True)).undecided == []


def test_a_limit_of_the_blast_radius_is_not_decided_only_where_the_node_would_exceed_it() -> None:
    access_review = with_path(read_only=True)
    (undecided,) = rule_result("rule: blast-radius, of: pod, maxIdentities: 2", access_review).undecided
    assert undecided.startswith(f"Pod {NAME} may reach 3 identities: {SETTING}: ")
    assert rule_result("rule: blast-radius, of: pod, maxIdentities: 3", access_review).undecided == []
    assert rule_result("rule: blast-radius, of: node, maxIdentities: 2", access_review).undecided == []
    for but in ("exceptNamespaces: [shop]", "exceptPods: [shop/reader]"):
        assert rule_result(f"rule: blast-radius, of: pod, maxIdentities: 0, {but}", access_review).undecided == []
    rule = "rule: blast-radius, of: pod, maxIdentities: 0"
    access_review = with_path(read_only=False)
    assert [violation.object for violation in rule_result(rule, access_review).violations] == [f"Pod {NAME}"]
    assert rule_result(f"{rule}, exceptPods: [read*]", access_review).violations == []


def test_a_change_from_undecided_to_certain_is_a_difference() -> None:
    changes = compare(with_path(read_only=True), with_path(read_only=False)).differences
    assert [(change.sign, change.says) for change in changes if change.subject == "workload shop/Pod reader"] == [
        ("+", f"reaches its node's identities by {SETTING}"),
        ("-", f"may reach its node's identities by {SETTING}"),
    ]
