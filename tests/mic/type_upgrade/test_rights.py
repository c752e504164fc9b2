"""The type upgrade with exactly the documented permissions, on the emulator's RBAC.

`tests/deploy/test_programs_under_their_roles.py` runs MIC with the chart's roles on a real API server.
"""

import json
import logging
from collections.abc import AsyncIterator

import pytest

from mic.app import COMPONENT
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, GROUP, IDENTITIES
from podidentity.version import VERSION
from tests.mic.type_upgrade import upgraded_cluster
from tests.mic.type_upgrade.upgraded_cluster import KEY, Cluster, old_ones, write_before_update
from tests.support.memory_api import MemoryApi

RBAC = "rbac.authorization.k8s.io"
KINDS = [kind.plural for kind in (IDENTITIES, BINDINGS, EXCEPTIONS, ASSIGNED_IDENTITIES)]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Objects with old field names, and MIC with a service account that has no role."""
    api = MemoryApi(rbac=True)
    api.store.create("serviceaccounts", {"metadata": {"name": "mic", "namespace": "default"}})
    path = "/api/v1/namespaces/default/serviceaccounts/mic/token"
    async with api.client("administrator") as administrator:
        given = json.loads(await administrator.request("POST", path, body=b'{"spec":{"expirationSeconds":600}}'))
    async with api.client(f"{COMPONENT}/test", given["status"]["token"]) as client:
        made = Cluster(api, client)
        old_ones(made)
        yield made


def allow(cluster: Cluster, namespace: str, group: str, resources: list[str], verbs: list[str]) -> None:
    """Give MIC a role, in *namespace* or in all."""
    kind, name = "Role" if namespace else "ClusterRole", "-".join(verbs)
    rules = [{"apiGroups": [group], "resources": resources, "verbs": verbs}]
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "mic", "namespace": "default"}],
    }
    create = cluster.api.store.create
    create(f"{kind.lower()}s.{RBAC}", {"metadata": {"name": name}, "rules": rules}, namespace)
    create(f"{kind.lower()}bindings.{RBAC}", binding, namespace)


async def test_list_and_update_suffice_for_objects_and_get_create_update_for_the_record(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    allow(cluster, "", GROUP, KINDS, ["list", "update"])
    allow(cluster, "default", "", ["configmaps"], ["get", "create", "update"])
    write_before_update(cluster, upgraded_cluster.EXCEPTIONS, {"spec": {"PodLabels": {"app": "changed"}}}, times=1)
    with caplog.at_level(logging.WARNING, "mic.startup.type_upgrade"):
        await cluster.start()
    assert [each.message for each in caplog.records] == []
    assert cluster.recorded() == {KEY: VERSION}
    assert cluster.spec(upgraded_cluster.IDENTITIES) == {"type": 0, "resourceID": "r", "clientID": "c"}
    assert cluster.spec(upgraded_cluster.BINDINGS) == {"azureIdentity": "demo", "selector": "demo"}
    assert cluster.spec(upgraded_cluster.EXCEPTIONS) == {"podLabels": {"app": "changed"}}


async def test_without_any_permission_mic_logs_what_to_grant_and_changes_nothing(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.start()
    (warning,) = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert "get, create and update on ConfigMaps" in warning
    assert "ResourceID" in cluster.spec(upgraded_cluster.IDENTITIES)
