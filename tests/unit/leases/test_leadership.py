"""Leadership: one leader, handed over immediately by a release and after the lock's duration by a crash.

On the emulator, in virtual time. `test_leases_on_a_real_api_server` runs some of these tests on a real server.
"""

import asyncio

import pytest

from podidentity.kube.errors import LeadershipLost
from podidentity.kube.lease import Elector
from podidentity.kube.lock_records import LEASES
from tests.support.electors import SECONDS, Electors, ended


async def leads(elector: Elector) -> None:
    await asyncio.wait_for(elector.acquired(), 60)


async def test_the_first_candidate_leads_and_records_its_identity(electors: Electors) -> None:
    elector, _ = electors.alone("one")
    assert elector.remaining_seconds() == 0
    await leads(elector)
    assert 0 < elector.remaining_seconds() <= SECONDS
    spec = (await electors.client.get(LEASES, electors.namespace, "mic")).spec
    assert (spec.holder_identity, spec.lease_duration_seconds, spec.lease_transitions) == ("one", 4, 0)


async def test_the_leader_renews_while_it_runs_and_no_other_candidate_leads(electors: Electors) -> None:
    first, _ = electors.alone("one")
    await leads(first)
    renewed = (await electors.client.get(LEASES, electors.namespace, "mic")).spec.renew_time
    second, _ = electors.alone("two")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(second.acquired(), 1.5 * SECONDS)
    assert first.remaining_seconds() > 0
    assert (await electors.client.get(LEASES, electors.namespace, "mic")).spec.renew_time != renewed


async def test_a_release_lets_another_candidate_lead_before_the_duration_ends(electors: Electors) -> None:
    first, task = electors.alone("one")
    await leads(first)
    await ended(task)
    await first.release()
    assert (await electors.client.get(LEASES, electors.namespace, "mic")).spec.holder_identity == ""
    begun = electors.clock()
    second, _ = electors.alone("two")
    await leads(second)
    assert electors.clock() - begun < SECONDS
    spec = (await electors.client.get(LEASES, electors.namespace, "mic")).spec
    assert (spec.holder_identity, spec.lease_transitions) == ("two", 1)


async def test_a_dead_leader_is_replaced_after_its_lease_has_expired(electors: Electors) -> None:
    first, task = electors.alone("one")
    await leads(first)
    await ended(task)
    died = electors.clock()
    second, _ = electors.alone("two")
    await leads(second)
    assert electors.clock() - died >= SECONDS


async def test_a_stolen_lease_ends_the_leadership(electors: Electors) -> None:
    first, task = electors.alone("one")
    await leads(first)
    await electors.client.patch_merge(LEASES, electors.namespace, "mic", {"spec": {"holderIdentity": "thief"}})
    with pytest.raises(LeadershipLost, match="another candidate holds it"):
        await asyncio.wait_for(task, 60)
    assert first.remaining_seconds() == 0
    await first.release()
    assert (await electors.client.get(LEASES, electors.namespace, "mic")).spec.holder_identity == "thief"


async def test_a_lease_touched_by_another_writer_is_renewed(electors: Electors) -> None:
    first, task = electors.alone("one")
    await leads(first)
    touched = await electors.client.patch_merge(LEASES, electors.namespace, "mic", {"metadata": {"labels": {"a": "b"}}})
    async with asyncio.timeout(60):
        while (seen := await electors.client.get(LEASES, electors.namespace, "mic")).spec == touched.spec:
            await asyncio.sleep(0.01)
    assert seen.metadata.labels == {"a": "b"}
    assert not task.done()


async def test_of_several_candidates_one_leads(electors: Electors) -> None:
    waiting = [asyncio.create_task(electors.alone(f"number-{number}")[0].acquired()) for number in range(4)]
    await asyncio.wait(waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    _, pending = await asyncio.wait(waiting, timeout=1.5 * SECONDS)
    assert len(pending) == len(waiting) - 1
    for task in pending:
        await ended(task)
