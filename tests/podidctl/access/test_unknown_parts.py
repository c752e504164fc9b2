"""Parts that could not be read completely."""

from typing import Any

import pytest

from podidctl.access.unknown_parts import RESOURCES
from podidctl.diagnosis.input import ReadFailure
from tests.podidctl.access.small_cluster import nmi, pod, reviewed


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


def test_without_nodes_the_nodes_of_pods_are_hosts_of_their_own() -> None:
    found = reviewed(nodes=ReadFailure("no"))
    assert {each.name: each.host for each in found.nodes} == {
        "node-0": "node:node-0",
        "node-1": "node:node-1",
        "node-2": "node:node-2",
    }
    assert {each.identity for each in found.grants} == {"shop/payments", "shop/reports", "ops/legacy"}


def test_flags_of_nmi_that_cannot_be_read_are_named() -> None:
    found = reviewed(nmi=(nmi("node-0", "--no-such-flag"), nmi("node-1")))
    (unknown,) = found.unknown
    assert (unknown.part, "kube-system/nmi-node-0" in unknown.why) == ("nmi", True)
    assert found.rules.source == "the flags of pod kube-system/nmi-node-1"


def test_skipped_objects_make_their_part_incomplete() -> None:
    found = reviewed(skipped={"azureidentities": 2, "clusterroles": 1})
    assert [(each.part, each.why.partition(" cannot")[0]) for each in found.unknown] == [
        ("azureidentities.aadpodidentity.k8s.io", "2 azureidentities"),
        ("rbac", "1 clusterroles"),
    ]


def test_a_pod_on_a_node_that_does_not_exist_is_shown_without_a_host() -> None:
    found = reviewed(pods=(pod("lost", label="payments", node="gone"),), assigned=())
    assert [(each.full_name, each.node) for each in found.pods] == [("shop/lost", "gone")]
    assert found.grants == []
