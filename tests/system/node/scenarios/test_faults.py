"""Each fault of the table in docs/troubleshooting.md on a real node with the chart: the row is the one of the sandbox.

A second pod shows that the node is healthy again after each fault.
"""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from podidentity_sandbox.azure import identity_id
from tests.support.podidctl.faults import catalogue
from tests.support.podidctl.faults.catalogue import FAULTS, Fault, Inject
from tests.support.podidctl.faults.table import Row, assert_right, measure, rows
from tests.system.node import client, manifests
from tests.system.node.bed import NAMESPACE, Bed
from tests.system.node.scenarios.applications import SECONDS, SLEEP
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
def fault_bed(bed: Bed) -> Iterator[Bed]:
    """The test bed with VALUES, and a pod that gets tokens all the time."""
    bed.install(VALUES, command="upgrade")
    known = bed.azure.call(lambda azure: azure.directory.add_identity(identity_id(STEADY)))
    objects = (
        manifests.identity(STEADY, known.resource_id, known.client_id),
        manifests.binding(STEADY),
        manifests.pod(STEADY, SLEEP, labels={"aadpodidbinding": STEADY}),
    )
    bed.apply(*objects)
    bed.kubectl("wait", "--for=condition=Ready", f"pod/{STEADY}", f"--timeout={SECONDS}s")
    client.eventually(bed, STEADY, STEADY)
    yield bed
    for each in objects[::-1]:
        bed.kubectl("delete", each["kind"], STEADY, f"--timeout={SECONDS}s")
    bed.install(command="upgrade")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(each, id=each.id, marks=[] if each.inject in QUICK else [pytest.mark.long])
        for each in FAULTS
        if each.on_node
    ],
)
async def test_the_row_is_the_same_and_the_node_recovers(fault_bed: Bed, fault: Fault) -> None:
    place = NodePlace(fault_bed)
    try:
        row = await measure(place, fault, UNTIL_SECONDS, is_final=is_same)
        assert_right(row)
        assert_same(row)
    finally:
        place.undo()
    assert client.eventually(fault_bed, STEADY, STEADY, seconds=10).status == 200
    after = await place.podidctl("doctor")
    assert after.code == 0, after.document


def is_same(row: Row) -> bool:
    """Return whether both commands name the fault, and the response is from after MIC's work."""
    if not row.is_right:
        return False
    if row.fault.response_on_node:
        return row.response == row.fault.response_on_node
    return row.text == rows()[row.fault.text]


def assert_same(row: Row) -> None:
    """Fail unless the page has the row, with the pod's response on a real node."""
    page, fault = rows()[row.fault.text], row.fault
    if fault.response_on_node:
        assert row.response == fault.response_on_node
        assert row.cells[2:] == page.removesuffix(" |").split(" | ")[2:]
    else:
        assert row.text == page
