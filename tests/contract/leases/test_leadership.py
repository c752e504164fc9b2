"""Leadership: one leader, handed over immediately by a release and after the lock's duration by a crash.

On the emulator, in virtual time. `test_leases_on_a_real_api_server` runs some of these tests on a real server.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from podidentity.kube.client import Client
from podidentity.kube.errors import LeadershipLost
from podidentity.kube.lease import Elector
from podidentity.kube.lock_records import LEASES

Candidate = Callable[[str], tuple[Elector, "asyncio.Task[None]"]]
Clock = Callable[[], float]
DURATION_SECONDS = 4.0


@pytest.fixture
async def candidate(client: Client, namespace: str, clock: Clock) -> AsyncIterator[Candidate]:
    """Starts an elector under the given identity."""
    running: list[asyncio.Task[None]] = []

    def start(identity: str) -> tuple[Elector, asyncio.Task[None]]:
        elector = Elector(
            client,
            namespace=namespace,
            name="mic",
            identity=identity,
            duration_seconds=DURATION_SECONDS,
            clock=clock,
        )
        running.append(asyncio.create_task(elector.run()))
        return elector, running[-1]

    yield start
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def leads(elector: Elector) -> None:
    await asyncio.wait_for(elector.acquired(), 60)


async def test_the_first_candidate_leads_and_records_its_identity(
    client: Client, namespace: str, candidate: Candidate
) -> None:
    elector, _ = candidate("one")
    assert elector.remaining_seconds() == 0
    await leads(elector)
    assert 0 < elector.remaining_seconds() <= DURATION_SECONDS
    spec = (await client.get(LEASES, namespace, "mic")).spec
    assert (spec.holder_identity, spec.lease_duration_seconds, spec.lease_transitions) == ("one", 4, 0)


async def test_the_leader_renews_while_it_runs_and_no_other_candidate_leads(
    client: Client, namespace: str, candidate: Candidate
) -> None:
    first, _ = candidate("one")
    await leads(first)
    renewed = (await client.get(LEASES, namespace, "mic")).spec.renew_time
    second, _ = candidate("two")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(second.acquired(), 1.5 * DURATION_SECONDS)
    assert first.remaining_seconds() > 0
    assert (await client.get(LEASES, namespace, "mic")).spec.renew_time != renewed


async def test_a_release_lets_another_candidate_lead_before_the_duration_ends(
    client: Client, namespace: str, candidate: Candidate, clock: Clock
) -> None:
    first, task = candidate("one")
    await leads(first)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await first.release()
    assert (await client.get(LEASES, namespace, "mic")).spec.holder_identity == ""
    begun = clock()
    second, _ = candidate("two")
    await leads(second)
    assert clock() - begun < DURATION_SECONDS
    spec = (await client.get(LEASES, namespace, "mic")).spec
    assert (spec.holder_identity, spec.lease_transitions) == ("two", 1)


async def test_a_dead_leader_is_replaced_after_its_lease_has_expired(candidate: Candidate, clock: Clock) -> None:
    first, task = candidate("one")
    await leads(first)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    died = clock()
    second, _ = candidate("two")
    await leads(second)
    assert clock() - died >= DURATION_SECONDS


async def test_a_stolen_lease_ends_the_leadership(client: Client, namespace: str, candidate: Candidate) -> None:
    first, task = candidate("one")
    await leads(first)
    await client.patch_merge(LEASES, namespace, "mic", {"spec": {"holderIdentity": "thief"}})
    with pytest.raises(LeadershipLost, match="another candidate holds it"):
        await asyncio.wait_for(task, 60)
    assert first.remaining_seconds() == 0
    await first.release()
    assert (await client.get(LEASES, namespace, "mic")).spec.holder_identity == "thief"


async def test_a_lease_touched_by_another_writer_is_renewed(
    client: Client, namespace: str, candidate: Candidate
) -> None:
    first, task = candidate("one")
    await leads(first)
    touched = await client.patch_merge(LEASES, namespace, "mic", {"metadata": {"labels": {"a": "b"}}})
    async with asyncio.timeout(60):
        while (seen := await client.get(LEASES, namespace, "mic")).spec == touched.spec:
            await asyncio.sleep(0.01)
    assert seen.metadata.labels == {"a": "b"}
    assert not task.done()


async def test_of_several_candidates_one_leads(candidate: Candidate) -> None:
    electors = [candidate(f"number-{number}")[0] for number in range(4)]
    waiting = [asyncio.create_task(elector.acquired()) for elector in electors]
    await asyncio.wait(waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    _, pending = await asyncio.wait(waiting, timeout=1.5 * DURATION_SECONDS)
    assert len(pending) == len(electors) - 1
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
