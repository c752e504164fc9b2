"""A labelled pod without any identity: its first request is held, and repeats are refused immediately until something
changes for the pod.
"""

import asyncio
import time

import pytest

from nmi.identity.decide import NONE_ASSIGNED, DecisionPolicy
from nmi.identity.pods import PodEntry
from podidentity.resources import CREATED
from tests.nmi.identity.cluster import DEADLINE, until
from tests.nmi.identity.shapes import assigned_identity, pod
from tests.nmi.issuer_bench import IssuerBench, running_issuer

HOLD_SECONDS = 0.4
BRIEF = DecisionPolicy(max_hold_seconds=HOLD_SECONDS)
ATTEMPTS = DecisionPolicy(created_attempts=1, interval_seconds=HOLD_SECONDS)
"""The hold ends before the time limit of the whole request."""


async def refused_after(bench: IssuerBench) -> float:
    """Return the duration of a request that is refused because there is no identity."""
    began = time.monotonic()
    assert await bench.refused() == NONE_ASSIGNED
    return time.monotonic() - began


@pytest.mark.parametrize("policy", [BRIEF, ATTEMPTS], ids=["time-limit", "attempts"])
async def test_repeats_get_the_same_response_immediately(
    policy: DecisionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_issuer(policy=policy) as bench:
        await bench.with_pod(assigned=False)
        hold, held = bench.issuer._hold, 0

        async def counted(entry: PodEntry, generation: int, until: float) -> bool:
            nonlocal held
            held += 1
            return await hold(entry, generation, until)

        monkeypatch.setattr(bench.issuer, "_hold", counted)
        assert await refused_after(bench) >= HOLD_SECONDS * 0.9
        assert held == 1
        for _ in range(3):
            await refused_after(bench)
        assert held == 1, "no repeat waits"
        assert bench.issuer._measures.held == 0


async def test_a_repeat_may_be_refused_by_the_fast_lane_in_this_generation() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        entry = await bench.with_pod(assigned=False)
        assert (await bench.refused()).generation is None, "it was held"
        assert (await bench.refused()).generation == entry.record.generation


async def test_an_assignment_ends_the_immediate_responses() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        await bench.with_pod(assigned=False)
        await refused_after(bench)
        bench.cluster.put_assigned(assigned_identity())
        await until(lambda: bool((entry := bench.cluster.at("10.0.0.1")) and entry.assigned))
        assert (await bench.issued()).identity == "ns/id"


async def test_a_change_of_the_label_or_the_assignment_begins_a_new_hold() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        entry = await bench.with_pod(assigned=False)
        await refused_after(bench)
        before = entry.record.generation
        bench.cluster.put_pod(pod(label="other"))
        await until(lambda: entry.record.generation != before)
        assert await refused_after(bench) >= HOLD_SECONDS * 0.9
        before = entry.record.generation
        bench.cluster.put_assigned(assigned_identity(status=CREATED, selector="unrelated"))
        await until(lambda: entry.record.generation != before)
        assert await refused_after(bench) >= HOLD_SECONDS * 0.9


async def test_an_identity_that_is_being_assigned_is_waited_for_each_time() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        entry = await bench.with_pod(assigned=False)
        bench.cluster.put_assigned(assigned_identity(status=CREATED))
        await until(lambda: bool(entry.assigned))
        for _ in range(2):
            began = time.monotonic()
            await bench.refused()
            assert time.monotonic() - began >= HOLD_SECONDS * 0.9


async def test_a_hold_in_which_something_changed_is_not_a_full_one() -> None:
    async with running_issuer() as bench:
        entry = await bench.with_pod(assigned=False)
        pending = asyncio.create_task(bench.refused())
        await until(lambda: bench.issuer._measures.held == 1)
        bench.issuer._policy = BRIEF  # from the next decision on: the first hold must not end before the change
        bench.cluster.put_pod(pod(label="other"))
        assert await asyncio.wait_for(pending, DEADLINE) is NONE_ASSIGNED
        assert not entry.unmatched
        assert await refused_after(bench) >= HOLD_SECONDS * 0.9


async def test_a_client_that_disconnects_leaves_no_note() -> None:
    async with running_issuer() as bench:
        entry = await bench.with_pod(assigned=False)
        pending = asyncio.create_task(bench.refused())
        await until(lambda: bench.issuer._measures.held == 1)
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        assert not entry.unmatched


async def test_a_pod_of_the_same_name_is_held_again() -> None:
    async with running_issuer(policy=BRIEF) as bench:
        entry = await bench.with_pod(assigned=False)
        await refused_after(bench)
        bench.cluster.delete_pod()
        await until(lambda: entry.gone)
        again = await bench.with_pod(assigned=False)
        assert again is not entry
        assert await refused_after(bench) >= HOLD_SECONDS * 0.9
