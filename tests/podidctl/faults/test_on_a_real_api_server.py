"""The commands name each fault of the table also on a real API server, with the same row."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from podidentity.kube.errors import NotFound
from podidentity.resources import PODS
from podidentity_sandbox.sandbox import Sandbox
from tests.podidctl.faults.catalogue import FAULTS, POD, Fault
from tests.podidctl.faults.table import measure, rows
from tests.podidctl.faults.test_fault_table import assert_right, settings
from tests.testplane import up


@pytest.fixture
async def real(plane: up.Plane) -> AsyncIterator[Sandbox]:
    """Yield a sandbox whose API server is the real one."""
    async with Sandbox(settings(Path(plane.kubeconfig))) as running:
        yield running
        client = running.cluster.client
        with suppress(NotFound):
            await client.request("DELETE", f"{PODS.path('default', POD)}?gracePeriodSeconds=0")
        with suppress(NotFound):
            await client.request("DELETE", "/api/v1/namespaces/default/secrets/web-secret")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
async def test_the_row_is_the_same(real: Sandbox, fault: Fault) -> None:
    row = await measure(real, fault)
    assert_right(row)
    assert rows()[fault.text] == row.text
