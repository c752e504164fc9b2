"""The type upgrade with exactly the documented permissions, on the emulator's RBAC.

`tests/deploy/test_programs_under_their_roles.py` runs MIC with the chart's roles on a real API server.
"""

import json
import logging

import pytest

from mic.app import COMPONENT
from podidentity import resources
from podidentity.version import VERSION
from tests.mic.type_upgrade.upgraded_cluster import (
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    KEY,
    Cluster,
    old_ones,
    write_before_update,
)
from tests.support.memory_api import MemoryApi

RBAC = "rbac.authorization.k8s.io"
KINDS = (resources.IDENTITIES, resources.BINDINGS, resources.EXCEPTIONS, resources.ASSIGNED_IDENTITIES)


def allow(api: MemoryApi, namespace: str, group: str, kinds: list[str], verbs: list[str]) -> None:
    """Give MIC a role, in *namespace* or in all."""
    kind, name = "Role" if namespace else "ClusterRole", "-".join(verbs)
    rules = [{"apiGroups": [group], "resources": kinds, "verbs": verbs}]
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "mic", "namespace": "default"}],
    }
    api.store.create(f"{kind.lower()}s.{RBAC}", {"metadata": {"name": name}, "rules": rules}, namespace)
    api.store.create(f"{kind.lower()}bindings.{RBAC}", binding, namespace)


async def test_list_and_update_suffice_for_objects_and_get_create_update_for_the_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = MemoryApi(rbac=True)
    api.store.create("serviceaccounts", {"metadata": {"name": "mic", "namespace": "default"}})
    path = "/api/v1/namespaces/default/serviceaccounts/mic/token"
    async with api.client("administrator") as administrator:
        given = json.loads(await administrator.request("POST", path, body=b'{"spec":{"expirationSeconds":600}}'))
    allow(api, "", resources.GROUP, [kind.plural for kind in KINDS], ["list", "update"])
    allow(api, "default", "", ["configmaps"], ["get", "create", "update"])
    async with api.client(f"{COMPONENT}/test", given["status"]["token"]) as client:
        cluster = Cluster(api, client)
        old_ones(cluster)
        write_before_update(cluster, EXCEPTIONS, {"spec": {"PodLabels": {"app": "changed"}}}, times=1)
        with caplog.at_level(logging.WARNING, "mic.startup.type_upgrade"):
            await cluster.start()
    assert [each.message for each in caplog.records] == []
    assert cluster.recorded() == {KEY: VERSION}
    assert cluster.spec(IDENTITIES) == {"type": 0, "resourceID": "r", "clientID": "c"}
    assert cluster.spec(BINDINGS) == {"azureIdentity": "demo", "selector": "demo"}
    assert cluster.spec(EXCEPTIONS) == {"podLabels": {"app": "changed"}}
