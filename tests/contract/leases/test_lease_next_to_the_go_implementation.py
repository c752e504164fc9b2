"""This project's and the Go implementation's leader election on one API server: at most one of them leads.

On the emulator, in virtual time. `test_leases_on_a_real_api_server` runs some of these tests on a real server.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from podidentity.kube.client import Client
from podidentity.kube.errors import LeadershipLost, NotFound
from podidentity.kube.lease import Elector
from podidentity.kube.lock_records import LEASES
from tests.contract.go_implementation_lock import ReferenceElector, make_endpoints, path, record_of, stored
from tests.contract.leases.test_leadership import Clock

SECONDS = 4.0
LONG_SECONDS = 40.0
"""Of a lock that no test waits to expire."""


class Pair:
    """Candidates of both kinds for one lock, and their tasks."""

    def __init__(self, client: Client, mics: Client, namespace: str, clock: Clock) -> None:
        self.client = client
        self.mics = mics
        """MIC's own, by its name."""
        self.namespace = namespace
        self.clock = clock
        self.tasks: list[asyncio.Task[None]] = []

    def ours(self, identity: str = "ours", seconds: float = SECONDS) -> tuple[Elector, asyncio.Task[None]]:
        elector = Elector(
            self.mics,
            namespace=self.namespace,
            name="mic",
            identity=identity,
            duration_seconds=seconds,
            with_go_implementation=True,
            clock=self.clock,
        )
        return elector, self._run(elector.run())

    def reference(self, seconds: float = SECONDS) -> tuple[ReferenceElector, asyncio.Task[None]]:
        elector = ReferenceElector(self.client, self.namespace, "mic", seconds=seconds, clock=self.clock)
        return elector, self._run(elector.run())

    async def record(self) -> dict[str, Any]:
        return record_of(await stored(self.client, self.namespace, "mic"))

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]


@pytest.fixture
async def pair(client: Client, mics: Client, namespace: str, clock: Clock) -> AsyncIterator[Pair]:
    made = Pair(client, mics, namespace, clock)
    yield made
    for task in made.tasks:
        await ended(task)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def within(seconds: float, event: Coroutine[Any, Any, Any]) -> None:
    await asyncio.wait_for(event, seconds)


async def never(event: Coroutine[Any, Any, Any], seconds: float = 1.5 * SECONDS) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(event, seconds)


async def test_while_the_go_implementation_leads_mic_waits_and_leads_after_the_release(pair: Pair) -> None:
    theirs, process = pair.reference(LONG_SECONDS)
    await within(15, theirs.leading.wait())
    ours, _ = pair.ours(seconds=LONG_SECONDS)
    await never(ours.acquired())
    await ended(process)
    await theirs.release()
    await within(15, ours.acquired())
    record = await pair.record()
    assert (record["holderIdentity"], record["leaderTransitions"]) == ("ours", 1)
    assert (await pair.client.get(LEASES, pair.namespace, "mic")).spec.holder_identity == "ours"


async def test_a_dead_go_implementation_is_replaced_after_its_lock_has_expired(pair: Pair) -> None:
    theirs, process = pair.reference()
    await within(15, theirs.leading.wait())
    ours, _ = pair.ours()
    await never(ours.acquired(), SECONDS)
    await ended(process)
    await within(15, ours.acquired())
    assert theirs.remaining_seconds() == 0


async def test_the_go_implementation_waits_while_mic_runs_and_leads_immediately_after_it_has_stopped(
    pair: Pair,
) -> None:
    await make_endpoints(pair.client, pair.namespace, "mic", labels={"kept": "yes"})
    ours, process = pair.ours()
    await within(15, ours.acquired())
    waiting, early = pair.reference()
    await never(waiting.leading.wait())
    assert ours.remaining_seconds() > 0
    await ended(early)
    patient, _ = pair.reference(LONG_SECONDS)
    await never(patient.leading.wait(), 0.5)
    await ended(process)
    await ours.release()
    await within(15, patient.leading.wait())
    found = await stored(pair.client, pair.namespace, "mic")
    assert found["metadata"]["labels"] == {"kept": "yes"}
    assert (await pair.client.get(LEASES, pair.namespace, "mic")).spec.holder_identity == ""


async def test_the_go_implementation_replaces_a_dead_mic_only_after_mics_lease_has_expired(pair: Pair) -> None:
    await make_endpoints(pair.client, pair.namespace, "mic")
    ours, process = pair.ours()
    await within(15, ours.acquired())
    theirs, _ = pair.reference()
    await never(theirs.leading.wait(), SECONDS)
    expires = pair.clock() + ours.remaining_seconds()
    await ended(process)
    await within(15, theirs.leading.wait())
    assert pair.clock() >= expires


async def test_without_the_go_implementations_lock_object_none_is_created(pair: Pair) -> None:
    ours, process = pair.ours()
    await within(15, ours.acquired())
    assert 0 < ours.remaining_seconds() <= SECONDS
    await asyncio.sleep(1.5 * SECONDS)
    assert not process.done()
    await ended(process)
    await ours.release()
    with pytest.raises(NotFound):
        await stored(pair.client, pair.namespace, "mic")


async def test_a_go_implementation_that_creates_its_lock_ends_mics_leadership_immediately(pair: Pair) -> None:
    ours, process = pair.ours(seconds=LONG_SECONDS)
    await within(15, ours.acquired())
    theirs, _ = pair.reference(LONG_SECONDS)
    await within(15, theirs.leading.wait())
    with pytest.raises(LeadershipLost, match=r"Endpoints .*/mic.*another candidate holds it: 'reference'"):
        await asyncio.wait_for(process, 8)  # and renewals come every ten seconds
    assert ours.remaining_seconds() == 0
    await ours.release()
    assert (await pair.record())["holderIdentity"] == "reference"
    assert (await pair.client.get(LEASES, pair.namespace, "mic")).spec.holder_identity == "", "for the next of ours"


async def test_an_empty_lock_object_created_by_hand_is_acquired_so_that_a_later_go_implementation_waits(
    pair: Pair,
) -> None:
    ours, process = pair.ours()
    await within(15, ours.acquired())
    await make_endpoints(pair.client, pair.namespace, "mic")
    async with asyncio.timeout(60):
        while not await pair.record():
            await asyncio.sleep(0.01)
    theirs, _ = pair.reference()
    await never(theirs.leading.wait())
    assert not process.done()


async def test_after_the_lock_object_is_deleted_mic_leads_without_it(pair: Pair) -> None:
    await make_endpoints(pair.client, pair.namespace, "mic")
    ours, process = pair.ours()
    await within(15, ours.acquired())
    await pair.client.request("DELETE", path(pair.namespace, "mic"))
    await asyncio.sleep(1.5 * SECONDS)
    assert not process.done()
    assert ours.remaining_seconds() > 0
    with pytest.raises(NotFound):
        await stored(pair.client, pair.namespace, "mic")


async def test_of_several_mics_and_the_go_implementation_one_leads(pair: Pair) -> None:
    await make_endpoints(pair.client, pair.namespace, "mic")
    theirs, _ = pair.reference()
    candidates = [pair.ours(f"ours-{number}")[0] for number in range(3)]
    everybody: list[Elector | ReferenceElector] = [theirs, *candidates]
    led: set[Elector | ReferenceElector] = set()
    deadline = pair.clock() + 2 * SECONDS
    while pair.clock() < deadline or not led:
        leading = [each for each in everybody if each.remaining_seconds() > 0]
        assert len(leading) <= 1
        led.update(leading)
        await asyncio.sleep(0.005)
