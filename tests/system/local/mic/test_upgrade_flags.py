"""The flags and the record of the type upgrade, on the real program, with a pod whose objects have old field names."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from podidentity.version import VERSION
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.mic.emulated_cloud import BINDINGS, IDENTITIES, EmulatedCloud, emulated_cloud
from tests.support.objects import identity_id

NEITHER = "the type upgrade is neither recorded nor enabled"
OLD, CURRENT = {"web-default-demo": "Assigned"}, {"web-default-current": "Assigned"}


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        put_old_pair(made, "demo")
        made.node("n0")
        made.pod("web", "n0")
        yield made


def put(cloud: EmulatedCloud, kind: str, name: str, spec: dict[str, Any]) -> None:
    cloud.api.store.create(kind, {"metadata": {"name": name, "namespace": "default"}, "spec": spec})


def put_old_pair(cloud: EmulatedCloud, name: str) -> None:
    cloud.directory.add_identity(identity_id(name), client_id=f"client-{name}")
    put(cloud, IDENTITIES, name, {"type": 0, "ResourceID": identity_id(name), "ClientID": f"client-{name}"})
    put(cloud, BINDINGS, name, {"AzureIdentity": name, "Selector": "demo"})


def put_current_pair(cloud: EmulatedCloud) -> None:
    """Create an identity and a binding in the current spelling for the same pod."""
    cloud.directory.add_identity(identity_id("current"), client_id="client-current")
    spec = {"type": 0, "resourceID": identity_id("current"), "clientID": "client-current"}
    put(cloud, IDENTITIES, "current", spec)
    put(cloud, BINDINGS, "current", {"azureIdentity": "current", "selector": "demo"})


def record_upgrade(cloud: EmulatedCloud) -> None:
    """Leave the record of the Go implementation."""
    metadata = {"name": "aad-pod-identity-config", "namespace": "default"}
    cloud.api.store.create("configmaps", {"metadata": metadata, "data": {"type-upgrade-status": "v1.8.17"}})


@dataclass
class Case:
    """How MIC starts, what it logs, and whether it rewrites the identity and records the upgrade."""

    flags: tuple[str, ...] = ()
    recorded: bool = False
    refused: tuple[str, str] = ("", "")
    """The method and a part of the path of the requests that the API server forbids."""
    logs: tuple[str, ...] = ()
    rewrites: bool = False
    records: dict[str, dict[str, str]] | None = None


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(("--enable-type-upgrade=false",), logs=(NEITHER,)), id="disabled"),
        pytest.param(Case(("--read-old-field-names",), recorded=True), id="recorded, and a flag reads old names"),
        pytest.param(
            Case(
                refused=("PUT", "/azure"),
                logs=("restart MIC, which then continues it; until then MIC reads old field names",),
            ),
            id="a webhook refuses the rewritten objects",
        ),
        pytest.param(
            Case(
                ("--config-map-name=another", "--type-upgrade-status-key=key"),
                rewrites=True,
                records={"another": {"key": VERSION}},
            ),
            id="another location of the record",
        ),
        pytest.param(
            Case(refused=("", "configmaps"), logs=("grant MIC's role get, create and update on ConfigMaps",)),
            id="no permission for the record",
        ),
    ],
)
async def test_pods_are_served_with_old_field_names_until_the_upgrade_is_recorded(
    cloud: EmulatedCloud, case: Case
) -> None:
    """Also an upgrade that remains incomplete revokes nothing."""

    def refuse(request: Recorded) -> StatusError | None:
        method, part = case.refused
        return StatusError(403, "Forbidden", "no") if part in request.path and method in {"", request.method} else None

    if case.recorded:
        record_upgrade(cloud)
    if case.refused[1]:
        cloud.api.intercept = refuse
    before = {each["metadata"]["name"] for each in cloud.api.store.list("configmaps")}
    mic = await cloud.mic(*case.flags)
    await cloud.until(lambda: cloud.assigned() == OLD)
    assert [mic.read_log().count(line) for line in case.logs] == [1] * len(case.logs)
    assert "spelling from before" not in mic.read_log()
    spec = cloud.api.store.get(IDENTITIES, "demo", "default")["spec"]
    assert ("resourceID" in spec, "ResourceID" in spec) == (case.rewrites, not case.rewrites)
    after = {each["metadata"]["name"]: each.get("data") for each in cloud.api.store.list("configmaps")}
    assert {name: data for name, data in after.items() if name not in before} == (case.records or {})
    assert await mic.stop() == 0


@pytest.mark.parametrize("flags", [(), ("--enable-type-upgrade=false",)], ids=["by-default", "without-the-upgrade"])
async def test_after_the_record_old_field_names_assign_nothing(cloud: EmulatedCloud, flags: tuple[str, ...]) -> None:
    """An admission policy on `spec.resourceID` does not see them."""
    record_upgrade(cloud)
    put_current_pair(cloud)
    # A binding in the current spelling to the identity in the old one.
    put(cloud, BINDINGS, "to-old", {"azureIdentity": "demo", "selector": "demo"})
    mic = await cloud.mic(*flags)
    await cloud.until(lambda: cloud.assigned() == CURRENT)
    cloud.pod("later", "n0")
    await cloud.until(lambda: "later-default-current" in cloud.assigned())
    assert set(cloud.assigned()) == {"web-default-current", "later-default-current"}
    assert "ResourceID" in cloud.api.store.get(IDENTITIES, "demo", "default")["spec"]
    (line,) = [each for each in mic.read_log().splitlines() if "azureidentities default/demo" in each]
    assert "spelling from before v1.6.0" in line
    assert "spec.ResourceID, spec.ClientID" in line
    assert NEITHER not in mic.read_log()
    await cloud.until(lambda: {("demo", "FieldsIgnored"), ("demo", "invalid identity")} <= cloud.events())
    assert await mic.stop() == 0


async def test_objects_that_the_upgrade_has_rewritten_count_immediately_and_later_old_ones_do_not(
    cloud: EmulatedCloud,
) -> None:
    mic = await cloud.mic()
    await cloud.until(lambda: cloud.assigned() == OLD)
    put_old_pair(cloud, "late")
    put_current_pair(cloud)
    await cloud.until(lambda: "web-default-current" in cloud.assigned())
    assert cloud.assigned().keys() == {*OLD, *CURRENT}
    assert await mic.stop() == 0
