"""The flags of the type upgrade, on the real program."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from podidentity.version import VERSION
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.mic.cluster import identity_id
from tests.mic.emulated_cloud import BINDINGS, IDENTITIES, EmulatedCloud, emulated_cloud


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    """A cluster with a pod and its objects in old spellings."""
    async with emulated_cloud(tmp_path) as made:
        meta = {"name": "demo", "namespace": "default"}
        made.directory.add_identity(identity_id("demo"), client_id="client-demo")
        spec = {"type": 0, "ResourceID": identity_id("demo"), "ClientID": "client-demo"}
        made.api.store.create(IDENTITIES, {"metadata": meta, "spec": spec})
        made.api.store.create(BINDINGS, {"metadata": meta, "spec": {"AzureIdentity": "demo", "Selector": "demo"}})
        made.node("n0")
        made.pod("web", "n0")
        yield made


def spec_of_identity(cloud: EmulatedCloud) -> Any:
    return cloud.api.store.get(IDENTITIES, "demo", "default")["spec"]


async def test_a_disabled_upgrade_reads_and_writes_nothing_and_pods_are_served(cloud: EmulatedCloud) -> None:
    mic = await cloud.mic("--enable-type-upgrade=false")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    assert "ResourceID" in spec_of_identity(cloud)
    assert not [each.path for each in cloud.api.requests if "configmaps" in each.path]
    assert await mic.stop() == 0


async def test_the_flags_set_the_location_of_the_record(cloud: EmulatedCloud) -> None:
    mic = await cloud.mic("--config-map-name=another", "--type-upgrade-status-key=key")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    assert cloud.api.store.get("configmaps", "another", "default")["data"] == {"key": VERSION}
    assert "resourceID" in spec_of_identity(cloud)
    assert await mic.stop() == 0


async def test_without_permission_for_the_record_pods_are_still_served(cloud: EmulatedCloud) -> None:
    cloud.api.intercept = lambda request: (
        StatusError(403, "Forbidden", "no right") if "configmaps" in request.path else None
    )
    mic = await cloud.mic()
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    assert "grant MIC's role get, create and update on ConfigMaps" in mic.read_log()
    assert await mic.stop() == 0
