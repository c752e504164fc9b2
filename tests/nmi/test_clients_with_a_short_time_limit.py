"""Clients that end each attempt before a hold ends: it counts from the pod's first request, so they get an answer."""

import asyncio
from typing import Final, NamedTuple

import pytest

from nmi.identity.decide import MANAGED_HOLD_SECONDS
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason
from podidentity.resources import CREATED, AzureAssignedIdentity, Pod
from tests.nmi.identity.shapes import REQUEST, assigned_identity, by, pod
from tests.nmi.issuer_bench import issuer_without_reads
from tests.virtual_time import now

OTHER_ID = "c11e0000-0000-0000-0000-00000000000b"
MAX_HOLD: Final = 45.0
POD: Final = pod()


class Case(NamedTuple):
    """A pod without the identity that it requests."""

    hold: float
    reason: Reason
    shown: Pod | None = POD
    assigned: AzureAssignedIdentity | None = None
    request: TokenRequest = REQUEST
    managed: bool = False


CASES: Final = {
    "no identity": Case(MAX_HOLD, Reason.NO_MATCHING_IDENTITY),
    "another client id": Case(
        MAX_HOLD,
        Reason.NO_MATCHING_IDENTITY,
        assigned=assigned_identity(),
        request=by(SelectorKind.CLIENT_ID, OTHER_ID),
    ),
    "an unknown object id": Case(MAX_HOLD, Reason.UNKNOWN_OBJECT_ID, request=by(SelectorKind.OBJECT_ID, OTHER_ID)),
    "still assigning": Case(MAX_HOLD, Reason.STILL_ASSIGNING, assigned=assigned_identity(status=CREATED)),
    "managed mode": Case(MANAGED_HOLD_SECONDS, Reason.NO_MATCHING_IDENTITY, managed=True),
    "a stopped pod": Case(5.0, Reason.SUSPENDED, shown=pod(terminated=True)),
    "an unknown address": Case(5.0, Reason.UNKNOWN_ADDRESS, shown=None),
    "an unknown address in managed mode": Case(5.0, Reason.UNKNOWN_ADDRESS, shown=None, managed=True),
}


async def answered(case: Case, *, interval: float, time_limit: float, attempts: int) -> list[float]:
    """Return when the client receives a refusal, in seconds after its first attempt."""
    times = []
    async with issuer_without_reads(managed=case.managed) as issuer:
        if case.shown is not None:
            issuer.cluster.deliver(case.shown)
        if case.assigned is not None:
            issuer.cluster.deliver(case.assigned, "assigned_identities")
        began = now()
        for number in range(attempts):
            await asyncio.sleep(began + number * interval - now())
            refusal = await issuer.refused_within(time_limit, case.request)
            if refusal is not None:
                assert refusal.reason is case.reason
                times.append(round(now() - began, 3))
    return times


@pytest.mark.parametrize("name", CASES)
async def test_attempts_that_are_shorter_than_the_hold_get_an_answer_at_its_end(name: str) -> None:
    case = CASES[name]
    interval = case.hold / 9  # 5 s with --max-hold=45s; eleven attempts take 55 s
    times = await answered(case, interval=interval, time_limit=interval * 0.98, attempts=11)
    assert times, "the client never gets an answer"
    assert times[0] == pytest.approx(case.hold)


@pytest.mark.parametrize(("interval", "attempts"), [(0.36, 4), (0.6, 3), (4.0, 2)])
@pytest.mark.parametrize("name", CASES)
async def test_a_client_that_waits_between_its_attempts_gets_the_answer_with_the_next_one(
    name: str, interval: float, attempts: int
) -> None:
    case = CASES[name]
    times = await answered(case, interval=case.hold * interval, time_limit=case.hold * 0.1, attempts=attempts)
    assert times == [pytest.approx(case.hold * interval * (attempts - 1))], "with the attempt after the end of the hold"
