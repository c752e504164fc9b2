"""The plan reads fields with old names unless the type upgrade is recorded, as MIC, and states if it cannot know."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mic.preview.schema import Preview
from mic.preview.survey import survey
from mic.preview.text import lines
from mic.startup.settings import parse
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.mic.emulated_cloud import BINDINGS, IDENTITIES, EmulatedCloud, emulated_cloud
from tests.support.objects import identity_id

UNREAD = "the record of the type upgrade cannot be read"


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    """A cluster with a pod and its objects with old field names."""
    async with emulated_cloud(tmp_path) as made:
        meta = {"name": "demo", "namespace": "default"}
        made.api.store.create(IDENTITIES, {"metadata": meta, "spec": {"type": 0, "ResourceID": identity_id("demo")}})
        made.api.store.create(BINDINGS, {"metadata": meta, "spec": {"AzureIdentity": "demo", "Selector": "demo"}})
        made.node("n0")
        made.pod("web", "n0")
        yield made


def record_upgrade(cloud: EmulatedCloud, namespace: str) -> None:
    metadata = {"name": "aad-pod-identity-config", "namespace": namespace}
    cloud.api.store.create("configmaps", {"metadata": metadata, "data": {"type-upgrade-status": "v1.8.17"}})


async def plan(cloud: EmulatedCloud, namespace: str = "") -> Preview:
    environ = {"MIC_POD_NAMESPACE": namespace} if namespace else {}
    settings = await asyncio.to_thread(parse, ["--plan", f"--kubeconfig={cloud.folder / 'kubeconfig'}"], environ)
    return await survey(settings, ask_azure=False)


def refuse_config_maps(request: Recorded) -> StatusError | None:
    return StatusError(403, "Forbidden", "no role") if "configmaps" in request.path else None


@pytest.mark.parametrize("namespace", ["", "default"])
async def test_a_record_that_may_not_be_read_is_named(cloud: EmulatedCloud, namespace: str) -> None:
    record_upgrade(cloud, "default")
    cloud.api.intercept = refuse_config_maps
    preview = await plan(cloud, namespace)
    assert preview.summary.objects["create"] == 1, "old field names count, as for a MIC that cannot read the record"
    assert preview.upgrade_unknown
    assert any(UNREAD in line for line in lines(preview))


@pytest.mark.parametrize("namespace", ["", "default"])
async def test_a_missing_record_means_that_old_field_names_count(cloud: EmulatedCloud, namespace: str) -> None:
    preview = await plan(cloud, namespace)
    assert preview.summary.objects["create"] == 1
    assert not preview.upgrade_unknown
    assert not any(UNREAD in line for line in lines(preview))


@pytest.mark.parametrize("namespace", ["", "default"])
async def test_old_field_names_do_not_count_after_the_record(cloud: EmulatedCloud, namespace: str) -> None:
    record_upgrade(cloud, "default")
    preview = await plan(cloud, namespace)
    assert preview.summary.objects["create"] == 0
    assert not preview.upgrade_unknown


async def test_the_config_map_of_another_namespace_is_no_record_if_mics_is_known(cloud: EmulatedCloud) -> None:
    cloud.api.store.create("namespaces", {"metadata": {"name": "team"}})
    record_upgrade(cloud, "team")
    assert (await plan(cloud, "default")).summary.objects["create"] == 1
    assert {each.path for each in cloud.api.requests if "configmaps" in each.path} == {
        "/api/v1/namespaces/default/configmaps/aad-pod-identity-config"
    }
