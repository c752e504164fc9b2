"""Leadership: one leader, handed over immediately by a release and after the lock's duration by a crash; and this
project's and the Go implementation's leader election on one API server: at most one of them leads.

On the emulator, in virtual time. `test_leases_on_a_real_api_server` runs some of these tests on a real server.
"""

import asyncio
import json
import logging
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from podidentity.kube.errors import LeadershipLost, NotFound
from podidentity.kube.lease import Elector
from podidentity.kube.lock_records import LEADER_ANNOTATION, LEASES
from tests.support.electors import LONG_SECONDS, SECONDS, Electors, ended
from tests.support.go_implementation_lock import ReferenceElector, make_endpoints, path, stored
from tests.support.memory_api import MemoryApi
from tests.support.waiting import until


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


async def within(seconds: float, event: Coroutine[Any, Any, Any]) -> None:
    await asyncio.wait_for(event, seconds)


async def never(event: Coroutine[Any, Any, Any], seconds: float = 1.5 * SECONDS) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(event, seconds)


async def test_while_the_go_implementation_leads_mic_waits_and_leads_after_the_release(electors: Electors) -> None:
    theirs, process = electors.reference(LONG_SECONDS)
    await within(15, theirs.leading.wait())
    ours, _ = electors.ours(seconds=LONG_SECONDS)
    await never(ours.acquired())
    await ended(process)
    await theirs.release()
    await within(15, ours.acquired())
    record = await electors.record()
    assert (record["holderIdentity"], record["leaderTransitions"]) == ("ours", 1)
    assert (await electors.client.get(LEASES, electors.namespace, "mic")).spec.holder_identity == "ours"


async def test_a_dead_go_implementation_is_replaced_after_its_lock_has_expired(electors: Electors) -> None:
    theirs, process = electors.reference()
    await within(15, theirs.leading.wait())
    ours, _ = electors.ours()
    await never(ours.acquired(), SECONDS)
    await ended(process)
    await within(15, ours.acquired())
    assert theirs.remaining_seconds() == 0


async def test_the_go_implementation_waits_while_mic_runs_and_leads_when_it_has_stopped(
    electors: Electors,
) -> None:
    await make_endpoints(electors.client, electors.namespace, "mic", labels={"kept": "yes"})
    ours, process = electors.ours()
    await within(15, ours.acquired())
    waiting, early = electors.reference()
    await never(waiting.leading.wait())
    assert ours.remaining_seconds() > 0
    await ended(early)
    patient, _ = electors.reference(LONG_SECONDS)
    await never(patient.leading.wait(), 0.5)
    await ended(process)
    await ours.release()
    await within(15, patient.leading.wait())
    lease = await stored(electors.client, electors.namespace, "mic")
    assert lease["metadata"]["labels"] == {"kept": "yes"}
    assert (await electors.client.get(LEASES, electors.namespace, "mic")).spec.holder_identity == ""


async def test_the_go_implementation_replaces_a_dead_mic_only_after_mics_lease_has_expired(electors: Electors) -> None:
    await make_endpoints(electors.client, electors.namespace, "mic")
    ours, process = electors.ours()
    await within(15, ours.acquired())
    theirs, _ = electors.reference()
    await never(theirs.leading.wait(), SECONDS)
    expires = electors.clock() + ours.remaining_seconds()
    await ended(process)
    await within(15, theirs.leading.wait())
    assert electors.clock() >= expires


async def test_without_the_go_implementations_lock_object_none_is_created(electors: Electors) -> None:
    ours, process = electors.ours()
    await within(15, ours.acquired())
    assert 0 < ours.remaining_seconds() <= SECONDS
    await asyncio.sleep(1.5 * SECONDS)
    assert not process.done()
    await ended(process)
    await ours.release()
    with pytest.raises(NotFound):
        await stored(electors.client, electors.namespace, "mic")


async def test_a_go_implementation_that_creates_its_lock_ends_mics_leadership_immediately(electors: Electors) -> None:
    ours, process = electors.ours(seconds=LONG_SECONDS)
    await within(15, ours.acquired())
    theirs, _ = electors.reference(LONG_SECONDS)
    await within(15, theirs.leading.wait())
    with pytest.raises(LeadershipLost, match=r"Endpoints .*/mic.*another candidate holds it: 'reference'"):
        await asyncio.wait_for(process, 8)  # and renewals come every ten seconds
    assert ours.remaining_seconds() == 0
    await ours.release()
    assert (await electors.record())["holderIdentity"] == "reference"
    assert (await electors.client.get(LEASES, electors.namespace, "mic")).spec.holder_identity == "", (
        "for the next of ours"
    )


async def test_an_empty_lock_object_is_acquired_so_that_a_later_go_implementation_waits(
    electors: Electors,
) -> None:
    ours, process = electors.ours()
    await within(15, ours.acquired())
    await make_endpoints(electors.client, electors.namespace, "mic")
    async with asyncio.timeout(60):
        while not await electors.record():
            await asyncio.sleep(0.01)
    theirs, _ = electors.reference()
    await never(theirs.leading.wait())
    assert not process.done()


async def test_after_the_lock_object_is_deleted_mic_leads_without_it(electors: Electors) -> None:
    await make_endpoints(electors.client, electors.namespace, "mic")
    ours, process = electors.ours()
    await within(15, ours.acquired())
    await electors.client.request("DELETE", path(electors.namespace, "mic"))
    await asyncio.sleep(1.5 * SECONDS)
    assert not process.done()
    assert ours.remaining_seconds() > 0
    with pytest.raises(NotFound):
        await stored(electors.client, electors.namespace, "mic")


async def test_of_several_mics_and_the_go_implementation_one_leads(electors: Electors) -> None:
    await make_endpoints(electors.client, electors.namespace, "mic")
    theirs, _ = electors.reference()
    candidates = [electors.ours(f"ours-{number}")[0] for number in range(3)]
    everybody: list[Elector | ReferenceElector] = [theirs, *candidates]
    led: set[Elector | ReferenceElector] = set()
    deadline = electors.clock() + 2 * SECONDS
    while electors.clock() < deadline or not led:
        leading = [elector for elector in everybody if elector.remaining_seconds() > 0]
        assert len(leading) <= 1
        led.update(leading)
        await asyncio.sleep(0.005)


def make(api: MemoryApi, annotation: str = "") -> None:
    annotations = {LEADER_ANNOTATION: annotation} if annotation else {}
    api.store.create("endpoints", {"metadata": {"name": "mic", "namespace": "default", "annotations": annotations}})


def record_in(api: MemoryApi) -> dict[str, Any]:
    return dict(json.loads(api.store.get("endpoints", "mic", "default")["metadata"]["annotations"][LEADER_ANNOTATION]))


def requests(api: MemoryApi, method: str, kind: str) -> int:
    return sum(request.method == method and f"/{kind}" in request.path for request in api.requests)


async def test_without_permission_to_read_the_lock_mic_leads_and_logs_the_consequence_once(
    api: MemoryApi, electors: Electors, caplog: pytest.LogCaptureFixture
) -> None:
    api.refuse(403, "Forbidden", "GET", "PUT", what="/endpoints")
    ours, process = electors.ours()
    await within(15, ours.acquired())
    await until(lambda: requests(api, "GET", "endpoints") > 4)
    assert not process.done()
    assert ours.remaining_seconds() > 0
    records = [record for record in caplog.records if "grant get and update" in record.getMessage()]
    assert [record.levelno for record in records] == [logging.ERROR]


@pytest.mark.parametrize("there", [True, False])
async def test_a_leader_logs_the_go_implementations_lock_only_if_it_exists(
    api: MemoryApi, electors: Electors, caplog: pytest.LogCaptureFixture, there: bool
) -> None:
    if there:
        make(api)
    with caplog.at_level(logging.INFO):
        ours, _ = electors.ours()
        await ours.acquired()
    (resource,) = [record.__dict__["resource"] for record in caplog.records if record.message == "became leader"]
    assert resource == ("Endpoints default/mic, " if there else "") + "Lease default/mic"


async def test_a_readable_lock_that_cannot_be_acquired_prevents_the_leadership(
    api: MemoryApi, electors: Electors, caplog: pytest.LogCaptureFixture
) -> None:
    make(api)
    api.refuse(403, "Forbidden", "PUT", what="/endpoints")
    ours, _ = electors.ours()
    await until(lambda: requests(api, "PUT", "endpoints") > 1)
    assert ours.remaining_seconds() == 0
    assert requests(api, "POST", "leases") == 0
    assert "grant get, create and update of it" in caplog.text
    api.intercept = None
    await within(15, ours.acquired())


@pytest.mark.parametrize(
    ("there", "code", "methods"), [(True, 403, ("GET", "PUT")), (True, 403, ("PUT",)), (False, 500, ())]
)
async def test_a_leader_that_can_no_longer_read_or_renew_the_lock_ends(
    api: MemoryApi, electors: Electors, there: bool, code: int, methods: tuple[str, ...]
) -> None:
    if there:
        make(api)
    ours, process = electors.ours()
    await within(15, ours.acquired())
    api.refuse(code, "Refused", *methods, what="/endpoints")
    with pytest.raises(LeadershipLost, match=r"Endpoints default/mic.*no renewal succeeded"):
        await asyncio.wait_for(process, 15)


@pytest.mark.parametrize("text", ["{", "[" * 60_000, '{"a":' * 60_000])
async def test_an_unreadable_record_counts_as_held_until_it_is_unchanged_for_the_duration(
    api: MemoryApi, electors: Electors, text: str
) -> None:
    now = [1000.0]
    make(api, text)
    ours, _ = electors.ours(clock=lambda: now[0])
    await until(lambda: requests(api, "GET", "endpoints") > 3)
    assert ours.remaining_seconds() == 0
    now[0] += SECONDS
    await within(15, ours.acquired())
    assert record_in(api)["holderIdentity"] == "ours"


async def test_the_lock_for_the_go_implementation_is_valid_no_longer_than_the_go_implementation_waits(
    api: MemoryApi, electors: Electors
) -> None:
    now = [1000.0]
    make(api)
    ours, _ = electors.ours(seconds=60.0, clock=lambda: now[0])
    await within(15, ours.acquired())
    assert record_in(api)["leaseDurationSeconds"] == 15
    assert ours.remaining_seconds() == 15
    now[0] += 15.0
    assert ours.remaining_seconds() == 0, "although the Lease has 45 seconds left"


async def test_each_renewal_changes_what_the_go_implementation_observes(api: MemoryApi, electors: Electors) -> None:
    make(api)
    seen: list[str] = []
    api.store.subscribe("endpoints", lambda change: seen.append(change.item.document["metadata"]["resourceVersion"]))
    moments = (datetime(2024, 5, 6, 7, 8, 9, millisecond * 1000, UTC) for millisecond in range(1000))
    ours, _ = electors.ours(now=lambda: next(moments))  # all of them within one second
    await within(15, ours.acquired())
    await until(lambda: requests(api, "PUT", "endpoints") >= 4)
    assert len(seen) >= 3
