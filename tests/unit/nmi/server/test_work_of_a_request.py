"""No request costs NMI's event loop more than a bounded amount of work.

The tests count the bytecodes of Python, which are the same on each machine, and not time. `benchmarks.guard` counts
the instructions of the whole process for the same requests. Excluded: calls of IMDS, which have a rate limit.
"""

from typing import Final

import pytest

from nmi.identity.assignments import ASSIGNED_MAX
from nmi.identity.decide import DecisionPolicy, decide
from nmi.identity.request import SelectorKind
from nmi.server.general import GeneralLane
from tests.support.corpus.costly import COSTLY
from tests.support.nmi.server.fakes import FakeConnection, ServerUnderTest, replies, request_bytes
from tests.support.nmi_objects import CLIENT_ID, POD, assigned, by
from tests.support.work import Work

WORK_MAX: Final = 16_000
"""Bytecodes for one request: about 0.15 ms. The request of an SDK takes 4,000."""
DECISION_MAX: Final = 40_000
"""Bytecodes for the decision about a pod with 256 identities, which MIC and the authors of bindings gave it."""
PIECE_MAX: Final = 250
"""Bytecodes for a piece that completes no request."""


async def status_and_work(data: bytes) -> tuple[int, int]:
    """Return the status of the response to *data* and the bytecodes that it takes."""
    await _status_and_work(data)  # fills caches of the standard library
    return await _status_and_work(data)


async def _status_and_work(data: bytes) -> tuple[int, int]:
    server, connection = ServerUnderTest(), FakeConnection()
    lane = GeneralLane(connection, server)
    with Work() as work:
        lane.data_received(data)
        await server.settle()
    (reply,) = replies(connection.written)
    return reply.status, work.bytecodes


@pytest.mark.parametrize(("status", "data"), COSTLY.values(), ids=COSTLY)
async def test_no_request_takes_more_than_a_bounded_amount_of_work(status: int, data: bytes) -> None:
    actual, bytecodes = await status_and_work(data)
    assert actual == status
    assert bytecodes <= WORK_MAX


@pytest.mark.parametrize("name", ["all: a token", "fields: 64", "body: 8 chunks", "body: of a known length"])
async def test_a_request_in_the_smallest_pieces_takes_a_bounded_amount_of_work_for_each(name: str) -> None:
    _, data = COSTLY[name]
    server = ServerUnderTest()
    lane = GeneralLane(FakeConnection(), server)
    most = 0
    for at in range(data.index(b"\r\n\r\n") + 3):
        with Work() as work:
            lane.data_received(data[at : at + 1])
        most = max(most, work.bytecodes)
    assert most <= PIECE_MAX


@pytest.mark.parametrize("selector", SelectorKind)
def test_a_decision_takes_a_bounded_amount_of_work_with_as_many_identities_as_a_pod_can_have(
    selector: SelectorKind,
) -> None:
    identities = [assigned(f"id-{number}") for number in range(ASSIGNED_MAX)]
    for value in ("no id", CLIENT_ID):
        with Work() as work:
            decide(POD, identities, by(selector, value), DecisionPolicy(), {})
        assert work.bytecodes <= DECISION_MAX


async def test_the_request_of_an_sdk_takes_a_small_part_of_it() -> None:
    status, bytecodes = await status_and_work(request_bytes())
    assert status == 200
    assert 500 < bytecodes < WORK_MAX / 3
