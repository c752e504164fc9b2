"""Reconcile passes in which Azure refuses one identity: MIC attaches the others and retries that one later."""

import asyncio

import pytest

from mic.azure.errors import BadIdentities, Refused
from mic.azure.identities import Attached, HostIdentities
from mic.decisions.documents import MESSAGE_MAX
from mic.reconciliation.work_queue import PassResult
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.mic import VM, MicWorld
from tests.support.objects import identity_id, pod
from tests.virtual_time import now


def bad(name: str, code: str = "LinkedAuthorizationFailed", status: int = 403) -> BadIdentities:
    error = BadIdentities(f"about {name}", status=status, code=code)
    error.ids = frozenset({identity_id(name).lower()})
    return error


async def test_a_named_identity_is_left_out_immediately_and_retried_after_half_a_minute(world: MicWorld) -> None:
    for name in ("one", "two", "three"):
        world.bind(name)
    world.fail("update", bad("two"))
    began = now()
    done = await world.reconcile()
    assert [len(change.adds) for change in world.changes] == [3, 2]
    assert now() - began == 1.0
    assert world.statuses()["two-default-two"] == "Created"
    assert "Managed Identity Operator" in world.message("two-default-two")
    assert done.again_after == pytest.approx(29.0)
    before = list(world.hosts.calls)
    world.add(pod("second", label="one"))
    await world.reconcile()
    assert world.hosts.calls == before, "an event does not hurry it"
    await asyncio.sleep(30.0)
    assert await world.reconcile() == PassResult()
    assert world.changes[-1].adds == (identity_id("two"),)
    assert world.statuses()["two-default-two"] == "Assigned"
    assert world.message("two-default-two") == ""


async def test_an_identity_that_stays_refused_is_retried_at_growing_intervals(world: MicWorld) -> None:
    world.bind()
    pauses = []
    for _ in range(9):
        world.fail("update", bad("demo"))
        done = await world.reconcile()
        assert done.again_after is not None
        pauses.append(done.again_after)
        await asyncio.sleep(done.again_after)
    # The second of the retry interval passes before the pass ends.
    assert [round(pause + 1) for pause in pauses] == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]


async def test_a_changed_identity_is_retried_immediately(world: MicWorld) -> None:
    world.bind()
    world.fail("update", bad("demo"))
    await world.reconcile()
    assert world.host_reconciler.quarantined() == 1
    assert world.host_reconciler.retry_identity(identity_id("demo").lower()) == [VM]
    assert await world.reconcile() == PassResult()
    assert world.statuses() == {"demo-default-demo": "Assigned"}


async def test_a_refusal_without_an_identity_is_narrowed_down_by_halves(world: MicWorld) -> None:
    for number in range(8):
        world.bind(f"id{number}")
    world.refuse("id0", refusal=lambda _bad: Refused("no", status=400, code="InvalidParameter"))
    await world.reconcile()
    await world.reconcile()
    assert [len(change.adds) for change in world.changes] == [8, 4, 2, 1, 7]
    assert sorted(world.statuses().values()) == ["Assigned"] * 7 + ["Created"]


async def test_an_identity_that_a_refusal_names_unreadably_blocks_no_other(world: MicWorld) -> None:
    for number in range(4):
        world.bind(f"id{number}")
    world.refuse("id2", refusal=lambda _bad: bad("cut-off"))
    for _ in range(3):
        await world.reconcile()
    assert sorted(world.statuses().values()) == ["Assigned"] * 3 + ["Created"]
    assert "grant it the role" in world.message("id2-default-id2")
    reported = {each["involvedObject"]["name"] for each in await world.warnings()}
    assert reported == {"id2", "id2-default-id2"}, "no identity is reported before the refused one is known"


async def test_a_reason_longer_than_a_message_is_written_once(world: MicWorld) -> None:
    world.bind()
    there = [identity_id(f"{number}{'x' * 120}").lower() for number in range(9)]
    world.hosts.state = HostIdentities(type="UserAssigned", attached={each: Attached(each) for each in there})
    refused = BadIdentities("no", status=400)
    refused.ids = frozenset(there)
    world.fail("update", refused)
    await world.reconcile()
    assert len(world.message("demo-default-demo")) == MESSAGE_MAX
    written: list[str] = []

    def note(request: Recorded) -> None:
        written.extend([request.path] if request.method == "PATCH" else [])

    world.api.intercept = note
    await world.reconcile()
    assert written == []
