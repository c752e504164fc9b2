"""Which pods are MIC's own and get the node's identities without an exception. Excluded: exceptions."""

from typing import Any

import pytest

from nmi.identity.exemptions import MIC, Exemptions
from podidentity.resources import OwnerReference
from tests.nmi.identity.cluster import Cluster, running_cluster
from tests.support.nmi_objects import exception, pod

REPLICA_SET = OwnerReference(kind="ReplicaSet", name="mic-5d4f8c", controller=True)
PLAIN = {"component": "mic", "app": "mic"}
"""# reference: deploy/infra/deployment-rbac.yaml"""
CHART = {
    "app.kubernetes.io/name": "aad-pod-identity",
    "app.kubernetes.io/instance": "release",
    "app.kubernetes.io/managed-by": "Helm",
    "app.kubernetes.io/component": "mic",
    "helm.sh/chart": "aad-pod-identity-4.1.18",
}
"""# reference: charts/aad-pod-identity/templates/mic-deployment.yaml"""


def why(mic_namespace: str = "system", **changes: Any) -> str:
    settings: dict[str, Any] = {"namespace": "system", "labels": PLAIN, "owner": REPLICA_SET} | changes
    return Exemptions(lambda _: None, mic_namespace=mic_namespace).why(pod("mic-5d4f8c-x", label=None, **settings))


@pytest.mark.parametrize("labels", [PLAIN, CHART, {"component": "mic"}], ids=["plain-manifests", "chart", "oldest"])
def test_mic_is_recognised_by_namespace_owner_and_labels(labels: dict[str, str]) -> None:
    assert why(labels=labels) == MIC


def test_the_namespace_matches_in_any_case_as_in_the_go_implementation() -> None:
    assert why(mic_namespace="System") == MIC


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace": "other"},
        {"labels": {}},
        {"labels": {"app": "mic"}},
        {"labels": {"component": "nmi"}},
        {"labels": {"component": "Mic"}},
        {"owner": None},
        {"owner": OwnerReference(kind="ReplicaSet", name="web-mic", controller=True)},
        {"owner": OwnerReference(kind="ReplicaSet", name="Mic-1", controller=True)},
        {"owner": OwnerReference(kind="DaemonSet", name="mic-1", controller=True)},
        {"owner": OwnerReference(kind="ReplicaSet", name="mic-1", controller=False)},
        {"owner": OwnerReference(kind="ReplicaSet", name="mic-1")},
    ],
    ids=[
        "another-namespace",
        "no-labels",
        "a-label-of-anybodys",
        "nmis-label",
        "another-case",
        "no-owner",
        "other-owner",
        "owner-in-another-case",
        "owner-of-another-kind",
        "no-controller",
        "not-said-to-be-controller",
    ],
)
def test_no_other_pod_is_recognised_as_mic(changes: dict[str, Any]) -> None:
    assert why(**changes) == ""


async def test_the_owner_is_read_from_the_api_servers_response() -> None:
    def prepare(cluster: Cluster) -> None:
        cluster.put_pod(pod("mic-5d4f8c-x", label=None, labels=PLAIN, owner=REPLICA_SET))

    async with running_cluster(prepare, mic_namespace="ns") as cluster:
        entry = cluster.owner("10.0.0.1")
        assert entry.facts.exempt == MIC


def test_the_charts_deployment_has_another_name_and_uses_the_charts_exception() -> None:
    # reference: charts/aad-pod-identity/templates/mic-exception.yaml, installed by default
    known = Exemptions(lambda _: None, mic_namespace="system")
    owner = OwnerReference(kind="ReplicaSet", name="aad-pod-identity-mic-5d4f8c", controller=True)
    its_pod = pod(namespace="system", label=None, labels=CHART, owner=owner)
    assert known.why(its_pod) == ""
    labels = {"app": "mic", "component": "mic", "app.kubernetes.io/component": "mic"}
    known.upserted(None, exception("mic", labels, namespace="system"))
    assert known.why(its_pod) == "exception system/mic"
