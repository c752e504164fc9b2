"""The flags of the type upgrade, on the real program."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from podidentity.version import VERSION
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.mic.emulated_cloud import BINDINGS, IDENTITIES, EmulatedCloud, emulated_cloud
from tests.mic.preview.run_programs import run
from tests.support.objects import identity_id

NEITHER = "the type upgrade is neither recorded nor enabled"


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    """A cluster with a pod and its objects with old field names."""
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


async def test_a_disabled_upgrade_reads_the_record_only_and_pods_are_served(cloud: EmulatedCloud) -> None:
    mic = await cloud.mic("--enable-type-upgrade=false")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    assert "ResourceID" in spec_of_identity(cloud)
    assert {each.method for each in cloud.api.requests if "configmaps" in each.path} == {"GET"}
    assert mic.read_log().count(NEITHER) == 1
    assert await mic.stop() == 0


def record_upgrade(cloud: EmulatedCloud) -> None:
    """Leave the record of the Go implementation."""
    metadata = {"name": "aad-pod-identity-config", "namespace": "default"}
    data = {"type-upgrade-status": "v1.8.17"}
    cloud.api.store.create("configmaps", {"metadata": metadata, "data": data})


def put_a_current_pair(cloud: EmulatedCloud) -> None:
    """Create an identity and a binding in the current spelling for the same pod."""
    meta = {"name": "current", "namespace": "default"}
    cloud.directory.add_identity(identity_id("current"), client_id="client-current")
    spec = {"type": 0, "resourceID": identity_id("current"), "clientID": "client-current"}
    cloud.api.store.create(IDENTITIES, {"metadata": meta, "spec": spec})
    cloud.api.store.create(BINDINGS, {"metadata": meta, "spec": {"azureIdentity": "current", "selector": "demo"}})


@pytest.mark.parametrize("flags", [(), ("--enable-type-upgrade=false",)], ids=["by-default", "without-the-upgrade"])
async def test_after_the_record_old_field_names_assign_nothing(cloud: EmulatedCloud, flags: tuple[str, ...]) -> None:
    """An admission policy on `spec.resourceID` does not see them."""
    record_upgrade(cloud)
    put_a_current_pair(cloud)
    # A binding in the current spelling to the identity in the old one.
    meta = {"name": "to-old", "namespace": "default"}
    cloud.api.store.create(BINDINGS, {"metadata": meta, "spec": {"azureIdentity": "demo", "selector": "demo"}})
    mic = await cloud.mic(*flags)
    await cloud.until(lambda: cloud.assigned() == {"web-default-current": "Assigned"})
    cloud.pod("later", "n0")
    await cloud.until(lambda: "later-default-current" in cloud.assigned())
    assert set(cloud.assigned()) == {"web-default-current", "later-default-current"}
    assert "ResourceID" in spec_of_identity(cloud)
    (line,) = [each for each in mic.read_log().splitlines() if "azureidentities default/demo" in each]
    assert "spelling from before v1.6.0" in line
    assert "spec.ResourceID, spec.ClientID" in line
    assert NEITHER not in mic.read_log()
    await cloud.until(lambda: {("demo", "FieldsIgnored"), ("demo", "invalid identity")} <= cloud.events())
    assert await mic.stop() == 0


async def test_after_the_record_a_flag_makes_old_field_names_count(cloud: EmulatedCloud) -> None:
    record_upgrade(cloud)
    mic = await cloud.mic("--read-old-field-names")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    assert "spelling from before" not in mic.read_log()
    assert await mic.stop() == 0


@pytest.mark.parametrize("program", [("mic", "--plan", "--plan-output=json"), ("podidctl", "plan", "-o", "json")])
async def test_the_plan_reads_old_field_names_until_the_upgrade_is_recorded(
    cloud: EmulatedCloud, program: tuple[str, ...]
) -> None:
    before = await run(cloud.folder, *program)
    assert "web-default-demo" in before.out, before.err
    record_upgrade(cloud)
    after = await run(cloud.folder, *program)
    assert after.code == 0, after.err
    assert "web-default-demo" not in after.out
    if program[0] == "mic":
        kept = await run(cloud.folder, *program, "--read-old-field-names")
        assert "web-default-demo" in kept.out, kept.err


async def test_objects_that_the_upgrade_has_rewritten_count_immediately_and_later_old_ones_do_not(
    cloud: EmulatedCloud,
) -> None:
    mic = await cloud.mic()
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    cloud.directory.add_identity(identity_id("late"), client_id="client-late")
    meta = {"name": "late", "namespace": "default"}
    spec = {"type": 0, "ResourceID": identity_id("late"), "ClientID": "client-late"}
    cloud.api.store.create(IDENTITIES, {"metadata": meta, "spec": spec})
    cloud.api.store.create(BINDINGS, {"metadata": meta, "spec": {"azureIdentity": "late", "selector": "demo"}})
    put_a_current_pair(cloud)
    await cloud.until(lambda: "web-default-current" in cloud.assigned())
    assert set(cloud.assigned()) == {"web-default-demo", "web-default-current"}
    assert await mic.stop() == 0


async def test_an_incomplete_upgrade_revokes_nothing(cloud: EmulatedCloud) -> None:
    """MIC reads old field names until the upgrade is recorded."""
    cloud.api.intercept = lambda request: (
        StatusError(403, "Forbidden", "a webhook refuses this") if request.method == "PUT" else None
    )
    mic = await cloud.mic()
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    assert cloud.api.store.find("configmaps", "aad-pod-identity-config", "default") is None
    assert "restart MIC, which then continues it; until then MIC reads old field names" in mic.read_log()
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
