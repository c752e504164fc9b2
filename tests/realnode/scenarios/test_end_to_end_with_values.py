"""The end-to-end tests of the Go implementation that need other values of the chart."""

from collections.abc import Iterator
from typing import Any

import pytest

from podidentity_sandbox.azure import identity_id
from tests.realnode import client, manifests
from tests.realnode.bed import Bed
from tests.realnode.processes import wait_for
from tests.realnode.scenarios.applications import SECONDS, Applications, applications

pytestmark = pytest.mark.long

IMMUTABLE = "1111c0de-0000-4000-8000-000000000001"
VALUES: dict[str, Any] = {
    "mic": {"immutableUserMSIs": [IMMUTABLE], "identityAssignmentReconcileInterval": "10s"},
    "nmi": {
        "setRetryAfterHeader": True,
        "retryAttemptsForCreated": 1,
        "retryAttemptsForAssigned": 1,
        "findIdentityRetryIntervalInSeconds": 1,
    },
}


@pytest.fixture(scope="module")
def changed_bed(bed: Bed) -> Iterator[Bed]:
    bed.install(VALUES, command="upgrade")
    yield bed
    bed.install(command="upgrade")


@pytest.fixture
def apps(changed_bed: Bed) -> Iterator[Applications]:
    with applications(changed_bed) as made:
        yield made


def test_should_not_delete_the_immutable_identity_from_the_vm(apps: Applications) -> None:
    identity = apps.create_identity("immutable", IMMUTABLE)
    apps.bed.apply(
        manifests.identity("immutable", identity.resource_id, IMMUTABLE, namespace=apps.namespace),
        manifests.binding("immutable", namespace=apps.namespace),
    )
    apps.run("app", "immutable")
    apps.eventually("app", "immutable")
    apps.bind("mutable")
    apps.run("other", "mutable")
    apps.eventually("other", "mutable")
    apps.kubectl("delete", "pod", "app", "other")
    apps.wait_for_detached("mutable")
    assert "immutable" in apps.attached()


def test_should_reconcile_an_identity_that_was_unassigned_from_the_vm(apps: Applications) -> None:
    apps.bind("reconciled")
    apps.run("app", "reconciled")
    apps.eventually("app", "reconciled")
    apps.detach_by_hand("reconciled")
    apps.wait_for_attached("reconciled")


def test_should_return_retry_after_while_the_identity_is_not_assigned(apps: Applications) -> None:
    apps.bed.azure.call(lambda _: setattr(apps.machine, "operation_seconds", 60.0))
    try:
        apps.bind("slow")
        apps.run("app", "slow")
        response = client.token(apps.bed, "app", namespace=apps.namespace)
        assert response.status == 503, response
        assert int(response.headers["Retry-After"]) > 0
    finally:
        apps.bed.azure.call(lambda _: setattr(apps.machine, "operation_seconds", 1.0))


def test_should_keep_the_reported_state_of_an_identity_without_resource(apps: Applications) -> None:
    apps.bind("missing", resource_id=identity_id("does-not-exist"))
    apps.run("app", "missing")
    wait_for(lambda: apps.assigned() == ["Created"], SECONDS, f"states {apps.assigned()}")
    assert client.token(apps.bed, "app", namespace=apps.namespace).status != 200
