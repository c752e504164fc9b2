"""A pod of which it is undecided whether it takes over its node: every output shows it, and no reach contains it."""

import msgspec
import pytest

from podidctl.access.blast_radius import pod_blast_radius
from podidctl.access.differences import compare
from podidctl.access.html.model import model
from podidctl.access.outputs import AccessOutput
from podidctl.access.review import review
from podidctl.access.schema import AccessReview, Scope
from tests.podidctl.access.small_cluster import nmi, pod, pod_of, printed, reviewed, rule_result, small_cluster

NAME = "shop/reader"
SETTING = "hostPath /data"


def with_path(*, read_only: bool) -> AccessReview:
    return reviewed(pods=(pod("reader", host_path="/data", read_only=read_only),), nmi=tuple(map(nmi, ("node-0",))))


def test_it_is_part_of_the_review_without_the_reach_of_its_node() -> None:
    found = with_path(read_only=True)
    reader = pod_of(found, NAME)
    assert (reader.host_access, reader.takes_over_node) == ([], False)
    assert [(each.way, each.detail) for each in reader.undecided_access] == [("hostPath", "/data")]
    assert pod_blast_radius(found, reader).today.identities == []
    assert [each.host_pods for each in found.nodes if each.name == "node-0"] == [[]]
    assert (found.summary.host_pods, found.summary.undecided_pods) == (0, 1)


def test_a_pod_that_writes_the_same_path_has_that_reach() -> None:
    found = with_path(read_only=False)
    writer = pod_of(found, NAME)
    assert writer.takes_over_node
    assert pod_blast_radius(found, writer).today.identities == ["shop/payments"]
    assert (found.summary.host_pods, found.summary.undecided_pods) == (1, 0)


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
    (undecided,) = reader["undecided"]
    assert undecided[:2] == ["hostPath", "/data"]
    assert undecided[2]
    assert reader["host"] == []


def test_a_rule_against_host_access_is_not_decided() -> None:
    rule = "rule: no-host-access"
    found = rule_result(rule, with_path(read_only=True))
    assert found.violations == []
    (undecided,) = found.undecided
    assert undecided.startswith(f"Pod {NAME} on node node-0: {SETTING}: ")
    written = rule_result(rule, with_path(read_only=False))
    assert [each.object for each in written.violations] == [f"Pod {NAME}"]
    assert written.undecided == []


@pytest.mark.parametrize(
    "limit",
    ["exceptPods: [reader]", "exceptNamespaces: [shop]", "ways: [privileged]", "nodes: [node-1]", "identities: [none]"],
)
def test_a_rule_that_does_not_concern_the_pod_is_decided(limit: str) -> None:
    assert rule_result(f"rule: no-host-access, {limit}", with_path(read_only=True)).undecided == []


def test_a_limit_of_the_blast_radius_is_not_decided_only_where_the_node_would_exceed_it() -> None:
    found = with_path(read_only=True)
    (undecided,) = rule_result("rule: blast-radius, of: pod, maxIdentities: 2", found).undecided
    assert undecided.startswith(f"Pod {NAME} may reach 3 identities: {SETTING}: ")
    assert rule_result("rule: blast-radius, of: pod, maxIdentities: 3", found).undecided == []
    assert rule_result("rule: blast-radius, of: node, maxIdentities: 2", found).undecided == []
    for but in ("exceptNamespaces: [shop]", "exceptPods: [shop/reader]"):
        assert rule_result(f"rule: blast-radius, of: pod, maxIdentities: 0, {but}", found).undecided == []


def test_a_limit_of_the_blast_radius_does_not_count_for_pods_that_it_excepts() -> None:
    rule = "rule: blast-radius, of: pod, maxIdentities: 0"
    found = with_path(read_only=False)
    assert [each.object for each in rule_result(rule, found).violations] == [f"Pod {NAME}"]
    assert rule_result(f"{rule}, exceptPods: [read*]", found).violations == []


def test_a_change_from_undecided_to_certain_is_a_difference() -> None:
    changes = compare(with_path(read_only=True), with_path(read_only=False)).differences
    assert [(each.sign, each.says) for each in changes if each.subject == "workload shop/Pod reader"] == [
        ("+", f"reaches its node's identities by {SETTING}"),
        ("-", f"may reach its node's identities by {SETTING}"),
    ]


def test_it_is_part_of_the_review_of_an_identity_on_its_host() -> None:
    objects = small_cluster(pods=(pod("reader", host_path="/data", read_only=True),), nmi=(nmi("node-0"),))
    found = review(objects, Scope(kind="identity", name="shop/payments"))
    assert [each.full_name for each in found.pods] == [NAME]


def test_a_stored_review_keeps_it() -> None:
    found = with_path(read_only=True)
    assert msgspec.json.decode(msgspec.json.encode(found), type=AccessReview) == found
