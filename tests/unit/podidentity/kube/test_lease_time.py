"""Leadership and time: calls that do not return, and clocks of other machines. Excluded: real servers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from podidentity.kube.client import Client
from podidentity.kube.errors import LeadershipLost
from podidentity.kube.lease import Elector
from podidentity.kube.locks import LOOK_SECONDS
from tests.support.podidentity.kube.scripted import Reply, ScriptedServer, status
from tests.support.virtual_time import now
from tests.support.waiting import until


def lease(holder: str, renewed: str, version: str = "1", seconds: int = 1) -> Reply:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": renewed, "leaseTransitions": 4}
    return Reply({"metadata": {"name": "mic", "namespace": "ns", "resourceVersion": version}, "spec": spec})


Start = Callable[..., tuple[Elector, "asyncio.Task[None]"]]


@pytest.fixture
async def start(client: Client) -> AsyncIterator[Start]:
    """Starts an elector with a lease of that many seconds. It ends with the test."""
    tasks: list[asyncio.Task[None]] = []

    def started(seconds: float, **options: Any) -> tuple[Elector, asyncio.Task[None]]:
        elector = Elector(client, namespace="ns", name="mic", identity="me", duration_seconds=seconds, **options)
        tasks.append(asyncio.create_task(elector.run()))
        return elector, tasks[-1]

    yield started
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def lost(task: "asyncio.Task[Any]", how: str) -> None:
    with pytest.raises(LeadershipLost, match=how):
        await asyncio.wait_for(task, 15)


async def test_a_hanging_renewal_ends_the_leadership_before_the_lease_expires(
    server: ScriptedServer, start: Start
) -> None:
    server.others += [status(404, "NotFound"), lease("me", "t")] + [None] * 9
    running, task = start(4.0)
    await asyncio.wait_for(running.acquired(), 15)
    remaining = running.remaining_seconds()
    began = now()
    await lost(task, "no renewal succeeded in time")
    assert now() - began < remaining
    assert running.remaining_seconds() == 0


async def test_a_renewal_on_a_hanging_connection_is_followed_by_another_in_time(
    server: ScriptedServer, start: Start
) -> None:
    server.others += [status(404, "NotFound"), lease("me", "t"), None, lease("me", "u", "2")]
    running, task = start(16.0)
    await asyncio.wait_for(running.acquired(), 15)
    await until(lambda: len(server.requests) >= 4)
    await asyncio.sleep(0.1)
    assert not task.done()
    assert running.remaining_seconds() > 12.0


async def test_failing_renewals_are_retried_before_the_leadership_ends(server: ScriptedServer, start: Start) -> None:
    server.others += [status(404, "NotFound"), lease("me", "t"), status(500, "InternalError"), lease("me", "u", "2")]
    running, task = start(8.0)
    await until(lambda: len(server.requests) >= 4)
    assert running.remaining_seconds() > 0
    assert not task.done()


async def test_a_cleanly_stopped_leader_is_replaced_within_two_seconds(server: ScriptedServer, start: Start) -> None:
    server.others += [lease("other", "t", seconds=60), lease("", "u", "2"), lease("me", "v", "3")]
    running, _ = start(60)
    await asyncio.wait_for(running.acquired(), 20)
    assert LOOK_SECONDS * 1.2 < 2.0, "the longest pause"


async def test_a_deleted_lease_ends_the_leadership(server: ScriptedServer, start: Start) -> None:
    gone = status(404, "NotFound")
    server.others += [gone, lease("me", "t"), gone, gone]
    _, task = start(8.0)
    await lost(task, "the object was deleted")


@pytest.mark.parametrize("stamp", ["1970-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"])
async def test_the_holders_clock_is_not_used(server: ScriptedServer, start: Start, stamp: str) -> None:
    clock = [1000.0]
    # The answer to each request, also to those that reach their time limit on a busy machine.
    server.others += [lease("other", stamp)] * 1000
    running, _ = start(0.8, clock=lambda: clock[0])
    await until(lambda: len(server.requests) >= 2 and running._locks[0].holder == "other")
    assert {request.method for request in server.requests} == {"GET"}
    clock[0] += 1.0  # the duration that the holder wrote, by our own clock
    await asyncio.wait_for(running.acquired(), 15)
    spec = next(request.document["spec"] for request in server.requests if request.method == "PUT")
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("me", 5)


async def test_a_changing_lease_is_not_acquired(server: ScriptedServer, start: Start) -> None:
    clock = [1000.0]

    def later() -> float:
        clock[0] += 0.9
        return clock[0]

    server.others += [lease("other", str(version), str(version)) for version in range(8)]
    start(0.8, clock=later)
    await until(lambda: not server.others)
    assert {request.method for request in server.requests[:8]} == {"GET"}


async def test_a_release_without_the_lease_sends_no_request(server: ScriptedServer, client: Client) -> None:
    await Elector(client, namespace="ns", name="mic", identity="me", duration_seconds=1).release()
    assert not server.requests


@pytest.mark.parametrize("reply", [Reply(b"<html>"), Reply(b"[]"), status(503, "ServiceUnavailable")])
async def test_an_unreadable_lease_is_read_again(server: ScriptedServer, start: Start, reply: Reply) -> None:
    server.others += [reply, *[lease("", "t")] * 100]  # a request may reach its time limit on a busy machine
    running, _ = start(2.0)
    await asyncio.wait_for(running.acquired(), 15)
