"""What only a real API server shows of the fault table: NMI's Events, the permissions of a service account, and MIC's
message, which the schema of the custom resource must keep.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podidentity_sandbox.sandbox import Sandbox
from tests.conftest import NewPlane, apply_definitions
from tests.podidctl.faults import catalogue
from tests.podidctl.faults.catalogue import Inject, fault_of
from tests.podidctl.faults.places import SandboxPlace
from tests.podidctl.faults.table import assert_right, equals_the_page, measure, rows
from tests.podidctl.faults.test_fault_table import settings

pytestmark = pytest.mark.plane


@pytest.fixture
async def real(new_plane: NewPlane) -> AsyncIterator[SandboxPlace]:
    """Yield a sandbox whose API server is the real one."""
    plane = await asyncio.to_thread(new_plane)
    await asyncio.to_thread(apply_definitions, plane)
    async with Sandbox(settings(Path(plane.kubeconfig))) as running:
        yield SandboxPlace(running)


@pytest.mark.parametrize(
    "inject",
    [catalogue.wrong_application, catalogue.no_binding_permission, catalogue.no_operator_role],
    ids=lambda each: each.__name__,
)
async def test_the_row_is_the_same(real: SandboxPlace, inject: Inject) -> None:
    fault = fault_of(inject)
    row = await measure(real, fault, is_final=equals_the_page)
    assert_right(row)
    assert rows()[fault.text] == row.text
