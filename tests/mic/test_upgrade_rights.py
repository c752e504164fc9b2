"""The type upgrade with exactly the documented permissions, on the real API server's RBAC."""

import asyncio
import logging
from typing import Any

import pytest
from typing_extensions import override

from mic.startup.type_upgrade import TypeUpgrade, UpgradeRecord
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.events import EventRecorder
from podidentity.resources import BINDINGS, EXCEPTIONS, GROUP, IDENTITIES
from podidentity.version import VERSION
from tests.conftest import NewPlane, apply_definitions
from tests.testplane.accounts import until_permitted
from tests.testplane.up import Plane

pytestmark = pytest.mark.plane

RBAC = "/apis/rbac.authorization.k8s.io/v1"
KINDS = ["azureidentities", "azureidentitybindings", "azurepodidentityexceptions", "azureassignedidentities"]


def allow(plane: Plane, scope: str, group: str, resources: list[str], verbs: list[str]) -> None:
    """Give the service account default/mic a role, in *scope*: nothing, or namespaces/NAME/. It is then in force."""
    kind = "Role" if scope else "ClusterRole"
    name = f"mic-{'-'.join(verbs)}"
    rules = [{"apiGroups": [group], "resources": resources, "verbs": verbs}]
    plane.api("POST", f"{RBAC}/{scope}{kind.lower()}s", {"metadata": {"name": name}, "rules": rules})
    binding: dict[str, Any] = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "mic", "namespace": "default"}],
    }
    plane.api("POST", f"{RBAC}/{scope}{kind.lower()}bindings", binding)
    namespace = scope.removeprefix("namespaces/").rstrip("/")
    until_permitted(plane, "system:serviceaccount:default:mic", rules[0], namespace)


@pytest.fixture
def real(new_plane: NewPlane) -> Plane:
    """A server with our definitions, an object with an old field name, and the service account default/mic."""
    plane = new_plane()
    apply_definitions(plane)
    plane.api("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "mic"}})
    for kind, spec in ((IDENTITIES, {"ClientID": "c"}), (BINDINGS, {"Selector": "s"}), (EXCEPTIONS, {"PodLabels": {}})):
        document = {"apiVersion": f"{GROUP}/v1", "kind": kind.name, "metadata": {"name": "old"}, "spec": spec}
        plane.api("POST", kind.path("default"), document)
    return plane


async def upgraded(plane: Plane) -> None:
    """Run the upgrade as default/mic, while another client changes an object."""
    path = "/api/v1/namespaces/default/serviceaccounts/mic/token"
    token = (await asyncio.to_thread(plane.api, "POST", path, {"spec": {"expirationSeconds": 600}}))["status"]["token"]

    async def authorization() -> str:
        return f"Bearer {token}"

    access = ClusterAccess(plane.server, plane.api.context, authorization)
    async with _Interrupted(access, plane) as client:
        record = UpgradeRecord(client, "default", "aad-pod-identity-config", "type-upgrade-status")
        await TypeUpgrade(client, EventRecorder(client, "mic", "here"), record, in_flight=4).run()


class _Interrupted(Client):
    """A client whose first PUT of an exception follows another client's change of it."""

    def __init__(self, access: ClusterAccess, plane: Plane) -> None:
        super().__init__(access, user_agent="test")
        self._plane = plane
        self._done = False

    @override
    async def request(self, method: str, path: str, **options: Any) -> bytes:
        if method == "PUT" and EXCEPTIONS.plural in path and not self._done:
            self._done = True
            patch = {"spec": {"PodLabels": {"app": "changed"}}}
            await asyncio.to_thread(self._plane.api, "PATCH", path, patch, "application/merge-patch+json")
        return await super().request(method, path, **options)


async def test_list_and_update_suffice_for_objects_and_get_create_update_for_the_record(
    real: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    allow(real, "", GROUP, KINDS, ["list", "update"])
    allow(real, "namespaces/default/", "", ["configmaps"], ["get", "create", "update"])
    with caplog.at_level(logging.WARNING, "mic.startup.type_upgrade"):
        await upgraded(real)
    assert [each.message for each in caplog.records] == []
    record = real.api("GET", "/api/v1/namespaces/default/configmaps/aad-pod-identity-config")
    assert record["data"] == {"type-upgrade-status": VERSION}
    assert real.api("GET", IDENTITIES.path("default", "old"))["spec"] == {"clientID": "c"}
    assert real.api("GET", BINDINGS.path("default", "old"))["spec"] == {"selector": "s"}
    assert real.api("GET", EXCEPTIONS.path("default", "old"))["spec"] == {"podLabels": {"app": "changed"}}


async def test_without_any_permission_mic_logs_what_to_grant_and_changes_nothing(
    real: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    await upgraded(real)
    (warning,) = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert "get, create and update on ConfigMaps" in warning
    assert real.api("GET", IDENTITIES.path("default", "old"))["spec"] == {"ClientID": "c"}
