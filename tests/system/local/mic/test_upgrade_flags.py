"""The flags and the record of the type upgrade, on the real program, with a pod whose objects have old field names."""

import re

import pytest

from podidentity.version import VERSION
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.mic.emulated_cloud import BINDINGS, IDENTITIES, EmulatedCloud
from tests.support.objects import identity_id

NEITHER = "the type upgrade is neither recorded nor enabled"
ELSEWHERE = ["--config-map-name=another", "--type-upgrade-status-key=key"]
OLD, CURRENT = {"web-default-demo": "Assigned"}, {"web-default-current": "Assigned"}


@pytest.fixture
def cloud(cloud: EmulatedCloud) -> EmulatedCloud:
    put_old_pair(cloud, "demo")
    cloud.node("n0")
    cloud.pod("web", "n0")
    return cloud


def put_old_pair(cloud: EmulatedCloud, name: str) -> None:
    cloud.directory.add_identity(identity_id(name), client_id=f"client-{name}")
    cloud.create(IDENTITIES, name, {"type": 0, "ResourceID": identity_id(name), "ClientID": f"client-{name}"})
    cloud.create(BINDINGS, name, {"AzureIdentity": name, "Selector": "demo"})


def record_upgrade(cloud: EmulatedCloud) -> None:
    """Leave the record of the Go implementation."""
    metadata = {"name": "aad-pod-identity-config", "namespace": "default"}
    cloud.api.store.create("configmaps", {"metadata": metadata, "data": {"type-upgrade-status": "v1.8.17"}})


@pytest.mark.parametrize(
    ("flags", "recorded", "refused", "logs"),
    [
        (["--enable-type-upgrade=false"], False, "none", NEITHER),
        (["--read-old-field-names"], True, "none", ""),
        ([], False, "PUT .*/azure", "restart MIC, which then continues it; until then MIC reads old field names"),
        (ELSEWHERE, False, "none", ""),
        ([], False, ".*/configmaps", "grant MIC's role get, create and update on ConfigMaps"),
    ],
    ids=["disabled", "recorded, and a flag", "a webhook refuses", "another record", "no permission for the record"],
)
async def test_pods_are_served_with_old_field_names_until_the_upgrade_is_recorded(
    cloud: EmulatedCloud, flags: list[str], recorded: bool, refused: str, logs: str
) -> None:
    """Also an upgrade that remains incomplete revokes nothing. The API server forbids the requests *refused*."""

    def refuse(request: Recorded) -> StatusError | None:
        match = re.match(refused, f"{request.method} {request.path}")
        return StatusError(403, "Forbidden", "no") if match else None

    if recorded:
        record_upgrade(cloud)
    cloud.api.intercept = refuse
    before = cloud.api.store.list("configmaps")
    mic = await cloud.mic(*flags)
    await cloud.until(lambda: cloud.assigned() == OLD)
    assert not logs or mic.read_log().count(logs) == 1
    assert "spelling from before" not in mic.read_log()
    spec = cloud.api.store.get(IDENTITIES, "demo", "default")["spec"]
    rewrites = flags == ELSEWHERE
    assert ("resourceID" in spec, "ResourceID" in spec) == (rewrites, not rewrites)
    new = [item for item in cloud.api.store.list("configmaps") if item not in before]
    records = [("another", {"key": VERSION})] if rewrites else []
    assert [(item["metadata"]["name"], item.get("data")) for item in new] == records
    assert await mic.stop() == 0


@pytest.mark.parametrize("flags", [(), ("--enable-type-upgrade=false",)], ids=["by-default", "without-the-upgrade"])
async def test_after_the_record_old_field_names_assign_nothing(cloud: EmulatedCloud, flags: tuple[str, ...]) -> None:
    """An admission policy on `spec.resourceID` does not see them."""
    record_upgrade(cloud)
    cloud.identity("current", selector="demo")
    # A binding with current field names to the identity with old ones.
    cloud.create(BINDINGS, "to-old", {"azureIdentity": "demo", "selector": "demo"})
    mic = await cloud.mic(*flags)
    await cloud.until(lambda: cloud.assigned() == CURRENT)
    cloud.pod("later", "n0")
    await cloud.until(lambda: "later-default-current" in cloud.assigned())
    assert set(cloud.assigned()) == {"web-default-current", "later-default-current"}
    assert "ResourceID" in cloud.api.store.get(IDENTITIES, "demo", "default")["spec"]
    (line,) = [line for line in mic.read_log().splitlines() if "azureidentities default/demo" in line]
    assert "spelling from before v1.6.0" in line
    assert "spec.ResourceID, spec.ClientID" in line
    assert NEITHER not in mic.read_log()
    await cloud.until(lambda: {("demo", "FieldsIgnored"), ("demo", "invalid identity")} <= cloud.events())
    assert await mic.stop() == 0
