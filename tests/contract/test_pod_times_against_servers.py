"""Container times in a pod's status as API servers send them: an unset time is null, not absent."""

from typing import Any

import msgspec
import pytest

from podidentity.kube.client import MERGE_PATCH, Client
from podidentity.resources import PODS, Kind, Resource
from tests.support.waiting import until

ACCOUNTS: Kind[Resource] = Kind("ServiceAccount", "serviceaccounts", Resource)
POD: dict[str, Any] = {
    "metadata": {"name": "p"},
    "spec": {"containers": [{"name": "c", "image": "i"}], "automountServiceAccountToken": False},
}
STATE = {"terminated": {"exitCode": 128, "reason": "ContainerCannotRun"}}


@pytest.fixture
async def account(client: Client, namespace: str) -> None:
    """The namespace's service account exists, which the API server requires for pods."""
    await until(lambda: client.list(ACCOUNTS, namespace))


@pytest.mark.usefixtures("account")
async def test_a_container_that_ended_without_a_start_time_is_read(client: Client, namespace: str) -> None:
    await client.create(PODS, namespace, POD)
    container = {"name": "c", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": STATE}
    status = msgspec.json.encode({"status": {"phase": "Failed", "containerStatuses": [container]}})
    path = PODS.path(namespace, "p", "status")
    await client.request("PATCH", path, body=status, content_type=MERGE_PATCH)
    (pod,) = await client.list(PODS, namespace)
    assert pod.terminated
    assert client.skipped.counts == {}
