"""Which pods get the node's identities: by exceptions from the watch, and MIC's own. Excluded: a silent watch."""

import logging
from typing import Any

import pytest

from nmi.identity.exemptions import LINES_PER_MINUTE, MIC, Exemptions
from podidentity.resources import OwnerReference
from tests.support.nmi.identity.cluster import Cluster, running_cluster
from tests.support.nmi_objects import exception, pod

APP = {"app": "web"}


def exemptions(**settings: Any) -> Exemptions:
    return Exemptions(**settings)


def reason_of(labels: dict[str, str] | None, *, of: dict[str, str], namespace: str = "ns", **settings: Any) -> str:
    """Return why a pod in `ns` labelled *of* is exempt by one exception with *labels* in *namespace*."""
    exempt = exemptions(**settings)
    exempt.upserted(None, exception(labels=labels, namespace=namespace))
    reason = exempt.reason(pod(labels=of))
    assert exempt.reason_given(pod(labels=of), [exception(labels=labels, namespace=namespace)]) == reason
    return reason


MATCHING = "exception ns/ex"
CONTENTS: dict[str, tuple[dict[str, str] | None, str]] = {
    "equal": (APP, MATCHING),
    "in another case": ({"app": "WEB"}, MATCHING),
    "the first of two": ({"app": "web", "other": "x"}, MATCHING),
    "the second of two": ({"other": "x", "app": "web"}, MATCHING),
    "without a value": ({"exempt": ""}, MATCHING),
    "no labels": (None, ""),
    "empty": ({}, ""),
    "an empty pair": ({"": ""}, ""),
    "an empty key": ({"": "web"}, ""),
    "the key in another case": ({"App": "web"}, ""),
    "longer": ({"app": "web2"}, ""),
    "an empty value": ({"app": ""}, ""),
    "a prefix": ({"app": "we"}, ""),
    "the value of another": ({"tier": "web"}, ""),
    "an empty value of none": ({"absent": ""}, ""),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_one_matching_label_makes_a_pod_exempt_and_nothing_else_does(case: str) -> None:
    labels, reason = CONTENTS[case]
    assert reason_of(labels, of={"app": "Web", "tier": "1", "exempt": ""}) == reason


def test_an_exception_applies_to_its_own_namespace_only() -> None:
    assert reason_of(APP, of=APP, namespace="other") == ""


def test_exceptions_can_be_restricted_to_namespaces() -> None:
    assert reason_of(APP, of=APP, namespaces=("kube-system",)) == ""
    assert reason_of(APP, of=APP, namespaces=("kube-system", "ns")) == "exception ns/ex"


def test_an_exception_being_deleted_does_not_count() -> None:
    exempt = exemptions()
    exempt.upserted(None, exception(labels=APP))
    exempt.upserted(exception(labels=APP), exception(labels=APP, deleting=True))
    assert exempt.reason(pod(labels=APP)) == ""
    assert exempt.reason_given(pod(labels=APP), [exception(labels=APP, deleting=True)]) == ""
    assert len(exempt) == 0


def test_each_new_or_changed_exception_is_logged_as_a_warning_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    exempt = exemptions(namespaces=("ns",))
    with caplog.at_level(logging.WARNING):
        exempt.upserted(None, exception(labels=APP))
        exempt.upserted(exception(labels=APP), exception(labels=APP, resource_version="2"))
        assert (len(exempt), exempt.seen, len(caplog.records)) == (1, 1, 1)
        exempt.upserted(exception(labels=APP), exception(labels={"app": "more"}))
        exempt.upserted(None, exception("none"))
        exempt.upserted(None, exception("elsewhere", APP, namespace="other"))
        exempt.deleted(exception("unknown", APP))
    assert (len(exempt), exempt.seen) == (1, 2)
    assert [record.__dict__["resource"] for record in caplog.records] == ["azurepodidentityexceptions ns/ex"] * 2
    assert [record.__dict__["reason"] for record in caplog.records] == ["app=web", "app=more"]
    assert "node's own identities" in caplog.text


def test_a_flood_of_exceptions_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    time = 0.0
    exempt = exemptions(clock=lambda: time)
    for number in range(500):
        exempt.upserted(None, exception(f"e{number}", APP))
    assert len(caplog.records) == LINES_PER_MINUTE + 1
    assert exempt.seen == 500
    time = 60.0
    exempt.upserted(None, exception("late", APP))
    assert len(caplog.records) == LINES_PER_MINUTE + 2


async def test_an_unrelated_exception_changes_nothing_of_a_pod(cluster: Cluster) -> None:
    entry = await cluster.with_pod(labels=APP)
    before = entry.record.generation
    cluster.put(exception("a", {"app": "other"}), exception("b", {}))
    await cluster.seen(lambda: len(cluster.cluster_cache.watches.by_name["exceptions"].store) == 2)
    assert entry.record.generation == before


async def test_the_metrics_show_the_counted_and_the_seen_exceptions(cluster: Cluster) -> None:
    value = cluster.registry.get_sample_value
    cluster.put(exception("a", APP), exception("b", APP))
    await cluster.seen(lambda: value("aadpodidentity_nmi_exceptions") == 2.0)
    cluster.delete(exception("a"))
    await cluster.seen(lambda: value("aadpodidentity_nmi_exceptions") == 1.0)
    assert value("aadpodidentity_nmi_exceptions_seen_total") == 2.0


@pytest.mark.parametrize("old_field_names", [False, True])
async def test_only_a_flag_makes_labels_in_the_spelling_from_before_v1_6_count(old_field_names: bool) -> None:
    """An admission policy on `spec.podLabels` does not see them."""
    old = {
        "apiVersion": "aadpodidentity.k8s.io/v1",
        "kind": "AzurePodIdentityException",
        "metadata": {"name": "old", "namespace": "ns"},
        "spec": {"PodLabels": APP},
    }
    async with running_cluster(old_field_names=old_field_names) as cluster:
        entry = await cluster.with_pod(labels=APP)
        cluster.api.store.create("azurepodidentityexceptions.aadpodidentity.k8s.io", old, "ns")
        cluster.put(exception("unrelated", {"app": "other"}))
        await cluster.seen(lambda: len(cluster.cluster_cache.watches.by_name["exceptions"].store) == 2)
        assert entry.facts.exempt == ("exception ns/old" if old_field_names else "")


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


def exemption(mic_namespace: str = "system", **changes: Any) -> str:
    settings: dict[str, Any] = {"namespace": "system", "labels": PLAIN, "owner": REPLICA_SET} | changes
    return Exemptions(mic_namespace=mic_namespace).reason(pod("mic-5d4f8c-x", label=None, **settings))


@pytest.mark.parametrize("labels", [PLAIN, CHART, {"component": "mic"}], ids=["plain-manifests", "chart", "oldest"])
def test_mic_is_recognised_by_namespace_owner_and_labels(labels: dict[str, str]) -> None:
    assert exemption(labels=labels) == MIC


def test_the_namespace_matches_in_any_case_as_in_the_go_implementation() -> None:
    assert exemption(mic_namespace="System") == MIC


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"namespace": "other"}, id="another-namespace"),
        pytest.param({"labels": {}}, id="no-labels"),
        pytest.param({"labels": {"app": "mic"}}, id="a-label-of-anybodys"),
        pytest.param({"labels": {"component": "nmi"}}, id="nmis-label"),
        pytest.param({"labels": {"component": "Mic"}}, id="another-case"),
        pytest.param({"owner": None}, id="no-owner"),
        pytest.param({"owner": OwnerReference(kind="ReplicaSet", name="web-mic", controller=True)}, id="other-owner"),
        pytest.param(
            {"owner": OwnerReference(kind="ReplicaSet", name="Mic-1", controller=True)}, id="owner-in-another-case"
        ),
        pytest.param(
            {"owner": OwnerReference(kind="DaemonSet", name="mic-1", controller=True)}, id="owner-of-another-kind"
        ),
        pytest.param({"owner": OwnerReference(kind="ReplicaSet", name="mic-1", controller=False)}, id="no-controller"),
        pytest.param({"owner": OwnerReference(kind="ReplicaSet", name="mic-1")}, id="not-said-to-be-controller"),
    ],
)
def test_no_other_pod_is_recognised_as_mic(changes: dict[str, Any]) -> None:
    assert exemption(**changes) == ""


async def test_the_owner_is_read_from_the_api_servers_response() -> None:
    def prepare(cluster: Cluster) -> None:
        cluster.put_pod(pod("mic-5d4f8c-x", label=None, labels=PLAIN, owner=REPLICA_SET))

    async with running_cluster(prepare, mic_namespace="ns") as cluster:
        entry = cluster.owner("10.0.0.1")
        assert entry.facts.exempt == MIC


def test_the_charts_deployment_has_another_name_and_uses_the_charts_exception() -> None:
    # reference: charts/aad-pod-identity/templates/mic-exception.yaml, installed by default
    exempt = Exemptions(mic_namespace="system")
    owner = OwnerReference(kind="ReplicaSet", name="aad-pod-identity-mic-5d4f8c", controller=True)
    its_pod = pod(namespace="system", label=None, labels=CHART, owner=owner)
    assert exempt.reason(its_pod) == ""
    labels = {"app": "mic", "component": "mic", "app.kubernetes.io/component": "mic"}
    exempt.upserted(None, exception("mic", labels, namespace="system"))
    assert exempt.reason(its_pod) == "exception system/mic"
