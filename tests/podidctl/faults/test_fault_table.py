"""Each row of the fault table in docs/troubleshooting.md is what a user sees in a sandbox with that fault.

`FAULT_TABLE=write` replaces the rows in the page by the measured ones.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.podidctl.faults import catalogue
from tests.podidctl.faults.catalogue import FAULTS, Fault, Inject, fault_of
from tests.podidctl.faults.places import POD, SandboxPlace
from tests.podidctl.faults.table import (
    RIGHT_WITHIN_SECONDS,
    WRITE,
    assert_right,
    equals_the_page,
    measure,
    rows,
    write,
)

HOLD = ("--max-hold=2s", "--federated-identities", "--federated-exchange-annotation")
"""Pods wait two seconds, not 45."""
TIMES_MAX = 4
"""Other load, and a pause of a virtual machine, only increase the duration of a command, so the shortest counts."""


def settings(kubeconfig: Path | None = None) -> Settings:
    return Settings(namespaces=False, daemon_pods=True, nmi_flags=HOLD, kubeconfig=kubeconfig, environment=os.environ)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(settings()) as running:
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


@pytest.mark.measures
@pytest.mark.parametrize(
    "inject", [catalogue.wrong_client_id, catalogue.missing_secret], ids=lambda each: each.__name__
)
async def test_one_command_names_the_fault_within_three_seconds(sandbox: Sandbox, inject: Inject) -> None:
    place = SandboxPlace(sandbox)
    row = await measure(place, fault_of(inject))
    assert_right(row)
    seconds = [row.explain.seconds]
    while min(seconds) >= RIGHT_WITHIN_SECONDS and len(seconds) < TIMES_MAX:
        seconds.append((await place.podidctl("explain", "pod", f"default/{POD}")).seconds)
    assert min(seconds) < RIGHT_WITHIN_SECONDS, seconds


def test_the_table_has_exactly_the_faults_of_the_tests() -> None:
    assert list(rows()) == [each.text for each in FAULTS]
    assert len(FAULTS) >= 20
