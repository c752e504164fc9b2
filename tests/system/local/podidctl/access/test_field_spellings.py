"""Fields in the spellings from before v1.6.0 count in the review, and for doctor, if NMI or MIC counts them."""

from collections.abc import Iterator
from typing import Any

import pytest
from blockbuster import BlockBuster

from podidctl.access.gather import gather
from podidctl.access.review import review
from podidctl.access.schema import AccessReview, Way
from podidctl.doctor import gather as doctor
from podidctl.doctor.state import Objects
from podidentity.kube import access
from podidentity.kube.client import Client
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.conftest import detect_blocking
from tests.support.mic.emulated_cloud import BINDINGS, EmulatedCloud
from tests.support.podidctl.access.small_cluster import grants_of, pod_of
from tests.system.local.podidctl.test_daemon_pods import labelled

EXCEPTIONS = "azurepodidentityexceptions.aadpodidentity.k8s.io"
RECORD = "aad-pod-identity-config"


@pytest.fixture(autouse=True)
def _flags_are_parsed(nothing_blocks_the_loop: BlockBuster) -> Iterator[None]:
    nothing_blocks_the_loop.deactivate()  # the parser of the flags looks for translations
    yield
    detect_blocking(nothing_blocks_the_loop)


async def read(cloud: EmulatedCloud) -> AccessReview:
    async with Client(await access.find(str(cloud.folder / "kubeconfig"), {}), user_agent="test") as client:
        return review(await gather(client))


def spelled(
    cloud: EmulatedCloud, *, recorded: bool = True, nmi: tuple[str, ...] = (), mic: tuple[str, ...] = ()
) -> None:
    """The pod default/web, with a binding and an exception with old field names; *nmi*, *mic*: their flags."""
    cloud.node("n0")
    cloud.identity()
    cloud.api.store.delete(BINDINGS, "demo", "default")
    cloud.pod("web", "n0")
    meta = {"name": "old", "namespace": "default"}
    cloud.api.store.create(BINDINGS, {"metadata": meta, "spec": {"AzureIdentity": "demo", "Selector": "demo"}})
    cloud.api.store.create(EXCEPTIONS, {"metadata": meta, "spec": {"PodLabels": {"aadpodidbinding": "demo"}}})
    if recorded:
        document = {"metadata": {"name": RECORD, "namespace": "kube-system"}, "data": {"type-upgrade-status": "v1"}}
        cloud.api.store.create("configmaps", document)
    labelled(cloud, "nmi", "n0", namespace="kube-system", args=["--node=n0", *nmi], hostNetwork=True)
    labelled(cloud, "mic", "n0", component="mic", namespace="kube-system", args=mic)


async def checked(cloud: EmulatedCloud) -> Objects:
    """The objects that doctor checks."""
    async with Client(await access.find(str(cloud.folder / "kubeconfig"), {}), user_agent="test") as client:
        found = (await doctor.gather(client)).objects
    assert isinstance(found, Objects)
    return found


def is_exempt(found: AccessReview) -> bool:
    return Way.EXCEPTION in [each.way for each in pod_of(found, "default/web").host_access]


async def test_they_do_not_count_by_default(cloud: EmulatedCloud) -> None:
    spelled(cloud)
    found = await read(cloud)
    assert grants_of(found, "default/web") == {}
    assert not is_exempt(found)
    assert found.unknown == []
    assert [each.spec.selector for each in (await checked(cloud)).bindings] == [""]


async def test_an_exception_counts_if_nmi_reads_them(cloud: EmulatedCloud) -> None:
    spelled(cloud, nmi=("--read-old-field-names",))
    assert is_exempt(await read(cloud))
    assert [each.spec.pod_labels for each in (await checked(cloud)).exceptions] == [{"aadpodidbinding": "demo"}]


@pytest.mark.parametrize("changes", [{"recorded": False}, {"mic": ("--read-old-field-names",)}])
async def test_a_binding_counts_if_mic_reads_them(cloud: EmulatedCloud, changes: dict[str, Any]) -> None:
    spelled(cloud, **changes)
    found = await read(cloud)
    assert list(grants_of(found, "default/web")) == ["default/demo"]
    assert not is_exempt(found), "NMI does not"
    objects = await checked(cloud)
    assert [each.spec.selector for each in objects.bindings] == ["demo"]
    assert [each.spec.pod_labels for each in objects.exceptions] == [None]


async def test_the_bindings_are_unknown_if_mics_record_cannot_be_read(cloud: EmulatedCloud) -> None:
    spelled(cloud, recorded=False)
    cloud.api.intercept = lambda request: (
        StatusError(403, "Forbidden", "made up") if "/configmaps" in request.path else None
    )
    (unknown,) = (await read(cloud)).unknown
    assert unknown.part == "azureidentitybindings.aadpodidentity.k8s.io"
    assert unknown.why.endswith(": default/old")
    assert RECORD in unknown.right
