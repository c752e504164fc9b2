"""Each row of the fault table in docs/troubleshooting.md is what a user sees in a sandbox with that fault.

`FAULT_TABLE=write` replaces the rows in the page by the measured ones.
"""

import os
from collections.abc import AsyncIterator

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import SandboxSettings
from tests.support.podidctl.faults.catalogue import FAULTS, Fault
from tests.support.podidctl.faults.places import SandboxPlace
from tests.support.podidctl.faults.table import WRITE, assert_right, equals_the_page, measure, rows, write

HOLD = ("--max-hold=2s", "--federated-identities", "--federated-exchange-annotation")
"""Pods wait two seconds, not 45."""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    settings = SandboxSettings(namespaces=False, daemon_pods=True, nmi_flags=HOLD, environment=os.environ)
    async with Sandbox(settings) as running:
        yield running


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
async def test_the_row_is_what_a_user_sees(sandbox: Sandbox, fault: Fault) -> None:
    if os.environ.get(WRITE) == "write":
        row = await measure(SandboxPlace(sandbox), fault)
        assert_right(row)
        write(row)
    else:
        row = await measure(SandboxPlace(sandbox), fault, is_final=equals_the_page)
        assert_right(row)
    assert rows().get(fault.text) == row.text


def test_the_table_has_exactly_the_faults_of_the_tests() -> None:
    assert list(rows()) == [fault.text for fault in FAULTS]
    assert len(FAULTS) >= 50
