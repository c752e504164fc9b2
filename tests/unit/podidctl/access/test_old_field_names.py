"""Fields in the spellings from before v1.6.0 count in the review, and for doctor, if NMI or MIC counts them."""

from typing import Any

import pytest

from podidctl.access.gather import ACCESS
from podidctl.access.review import review
from podidctl.access.schema import AccessReview, Way
from podidctl.facts.model import Facts
from podidctl.reading.reader import CLUSTER, pod_parts
from podidctl.reading.reader import read as read_facts
from tests.support.mic.emulated_cloud import BINDINGS, EXCEPTIONS
from tests.support.podidctl.access.small_cluster import grants_of, pod_of
from tests.support.podidctl.memory_cluster import MemoryCluster

RECORD = "aad-pod-identity-config"


async def read(cluster: MemoryCluster) -> AccessReview:
    return review(await read_facts(cluster.client, Facts(), ACCESS))


def spelled(
    cluster: MemoryCluster, *, recorded: bool = True, nmi: tuple[str, ...] = (), mic: tuple[str, ...] = ()
) -> None:
    """The pod default/web, with a binding and an exception with old field names; *nmi*, *mic*: their flags."""
    cluster.node("n0")
    cluster.identity(selector="another")
    cluster.pod("web", "n0")
    cluster.create(BINDINGS, "old", {"AzureIdentity": "demo", "Selector": "demo"})
    cluster.create(EXCEPTIONS, "old", {"PodLabels": {"aadpodidbinding": "demo"}})
    if recorded:
        document = {"metadata": {"name": RECORD, "namespace": "kube-system"}, "data": {"type-upgrade-status": "v1"}}
        cluster.api.store.create("configmaps", document)
    cluster.daemon("nmi", namespace="kube-system", args=["--node=n0", *nmi], hostNetwork=True)
    cluster.daemon("mic", component="mic", namespace="kube-system", args=mic)


async def checked(cluster: MemoryCluster) -> Facts:
    """The objects that doctor checks."""
    facts = await read_facts(cluster.client, Facts(), CLUSTER)
    assert facts.unread == {}
    return facts


async def explained(cluster: MemoryCluster) -> list[Any]:
    """The labels of the exceptions with which the pod is explained."""
    facts = await read_facts(cluster.client, Facts(scope=("default", "web")), pod_parts(None))
    return [exception.spec.pod_labels for exception in facts.exceptions]


def is_exempt(access_review: AccessReview) -> bool:
    return Way.EXCEPTION in [access.way for access in pod_of(access_review, "default/web").host_access]


async def test_they_do_not_count_by_default(cluster: MemoryCluster) -> None:
    spelled(cluster)
    access_review = await read(cluster)
    assert grants_of(access_review, "default/web") == {}
    assert not is_exempt(access_review)
    assert access_review.unknown == []
    cluster.daemon("nmi-1", namespace="kube-system", args=["--read-old-field-names"], nodeName="n1", hostNetwork=True)
    assert await explained(cluster) == [None], "only NMI on the pod's node counts"
    assert [binding.spec.selector for binding in (await checked(cluster)).bindings] == ["another", ""]


async def test_an_exception_counts_if_nmi_reads_them(cluster: MemoryCluster) -> None:
    spelled(cluster, nmi=("--read-old-field-names",))
    assert is_exempt(await read(cluster))
    assert await explained(cluster) == [{"aadpodidbinding": "demo"}]
    assert [exception.spec.pod_labels for exception in (await checked(cluster)).exceptions] == [
        {"aadpodidbinding": "demo"}
    ]


@pytest.mark.parametrize("changes", [{"recorded": False}, {"mic": ("--read-old-field-names",)}])
async def test_a_binding_counts_if_mic_reads_them(cluster: MemoryCluster, changes: dict[str, Any]) -> None:
    spelled(cluster, **changes)
    access_review = await read(cluster)
    assert list(grants_of(access_review, "default/web")) == ["default/demo"]
    assert not is_exempt(access_review), "NMI does not"
    objects = await checked(cluster)
    assert [binding.spec.selector for binding in objects.bindings] == ["another", "demo"]
    assert [exception.spec.pod_labels for exception in objects.exceptions] == [None]


async def test_the_bindings_are_unknown_if_mics_record_cannot_be_read(cluster: MemoryCluster) -> None:
    spelled(cluster, recorded=False)
    cluster.api.refuse(403, "Forbidden", what="/configmaps")
    (unknown,) = (await read(cluster)).unknown
    assert unknown.part == "azureidentitybindings.aadpodidentity.k8s.io"
    assert unknown.why.endswith(": default/old")
    assert RECORD in unknown.right
