"""The commands name each fault of the table also on a real API server, with the same row."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from podidentity.kube.errors import NotFound
from podidentity.resources import PODS
from podidentity_sandbox.cluster import kind_of
from podidentity_sandbox.sandbox import Sandbox
from tests.conftest import apply_definitions, clear
from tests.podidctl.faults.catalogue import FAULTS, Fault
from tests.podidctl.faults.places import POD, SandboxPlace
from tests.podidctl.faults.table import assert_right, measure, rows
from tests.podidctl.faults.test_fault_table import settings
from tests.testplane import up

pytestmark = pytest.mark.plane


@pytest.fixture(scope="module")
def own_plane() -> Iterator[up.Plane]:
    """Yield a control plane of this file: `doctor` also reports what other tests leave in the session's."""
    with up.Plane() as running:
        apply_definitions(running)
        yield running


@pytest.fixture
async def real(own_plane: up.Plane) -> AsyncIterator[SandboxPlace]:
    """Yield a sandbox whose API server is the real one."""
    async with Sandbox(settings(Path(own_plane.kubeconfig))) as running:
        place = SandboxPlace(running)
        yield place
        client = running.cluster.client
        for document in place.applied:
            if document["kind"] in {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}:
                metadata = document["metadata"]
                await client.delete(kind_of(document), metadata.get("namespace", ""), metadata["name"])
        with suppress(NotFound):
            await client.request("DELETE", f"{PODS.path('default', POD)}?gracePeriodSeconds=0")
        with suppress(NotFound):
            await client.request("DELETE", "/api/v1/namespaces/default/secrets/web-secret")
    await asyncio.to_thread(clear, own_plane)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
async def test_the_row_is_the_same(real: SandboxPlace, fault: Fault) -> None:
    expected = rows()[fault.text]
    row = await measure(real, fault, expected=expected)
    assert_right(row)
    assert row.text == expected
