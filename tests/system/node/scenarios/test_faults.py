"""Each fault of the table in docs/troubleshooting.md on a real node with the chart: the row is the one of the sandbox.

A second pod shows that the node is healthy again after each fault.
"""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.support.podidctl.faults import catalogue
from tests.support.podidctl.faults.catalogue import FAULTS, Fault, Inject
from tests.support.podidctl.faults.table import SOURCES, Row, assert_right, measure, rows
from tests.system.node.bed import NAMESPACE, Bed
from tests.system.node.scenarios.applications import Applications
from tests.system.node.scenarios.node_place import NodePlace

VALUES: Final[dict[str, Any]] = {
    "nmi": {"extraArgs": ["--max-hold=2s"]},
    "federated": {"enabled": True, "namespaces": [{"name": NAMESPACE}]},
    "rbac": {"secretNamespaces": ["default"]},
}
"""Pods wait two seconds, not 45. NMI may request tokens of service accounts of another namespace than the pod's. It may
read the Secrets of the pod's namespace only, because `doctor` reports a permission for all Secrets that is not needed.
"""
QUICK: Final[tuple[Inject, ...]] = (
    catalogue.wrong_client_id,
    catalogue.missing_secret,
    catalogue.misspelled_selector,
    catalogue.deleted_on_azure,
    catalogue.failing_imds,
    catalogue.no_nmi,
)
"""One fault of each part (object, Secret, label, Azure, IMDS, NMI) for `make e2e-node-quick`."""
UNTIL_SECONDS: Final = 40.0
STEADY: Final = "steady"


@pytest.fixture(scope="module")
def steady(bed: Bed) -> Iterator[Applications]:
    """The test bed with VALUES, and a pod that gets tokens all the time."""
    bed.install(VALUES, command="upgrade")
    apps = Applications(bed, "default")
    apps.bind_and_run(STEADY)
    yield apps
    apps.delete(*(f"{kind}/{STEADY}" for kind in ("pod", "azureidentitybinding", "azureidentity")))
    bed.install(command="upgrade")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.id, marks=[] if fault.inject in QUICK else [pytest.mark.long])
        for fault in FAULTS
        if fault.on_node
    ],
)
async def test_the_row_is_the_same_and_the_node_recovers(steady: Applications, fault: Fault) -> None:
    place = NodePlace(steady.bed)
    try:
        row = await measure(place, fault, UNTIL_SECONDS, is_final=is_same)
        assert_right(row)
        # The page has the row, with the pod's response on a real node.
        assert shown(row) == expected(row)
    finally:
        place.undo()
    steady.eventually(STEADY, STEADY)
    after = await place.podidctl("doctor")
    assert after.code == 0, after.document


def is_same(row: Row) -> bool:
    """Return whether both commands name the fault, and the response is from after MIC's work."""
    if row.is_right and row.fault.response_on_node:
        return row.response == row.fault.response_on_node
    return row.is_right and shown(row) == expected(row)


def shown(row: Row) -> list[str]:
    """Return the cells of a row without the Events and the log, with the exact response of the pod if it is another one
    than in the sandbox.
    """
    cells = list(row.cells)
    if row.fault.response_on_node:
        cells[1] = row.response
    del cells[SOURCES]
    return cells


def expected(row: Row) -> list[str]:
    """Return the cells of the page."""
    cells = rows()[row.fault.text].removeprefix("| ").removesuffix(" |").split(" | ")
    if row.fault.response_on_node:
        cells[1] = row.fault.response_on_node
    del cells[SOURCES]
    return cells
