"""The pauses of an informer after failures: increasing, random, and not shorter than the server's Retry-After."""

import asyncio
import logging

import pytest

from podidentity.kube.backoff import Backoff
from podidentity.kube.client import Client
from podidentity.kube.informer import Informer
from podidentity.resources import PODS, Pod
from tests.podidentity.kube.recording import Recorder
from tests.podidentity.kube.scripted import Reply, ScriptedServer, page, status
from tests.virtual_time import now


def test_pauses_double_up_to_the_maximum_and_are_reset() -> None:
    backoff = Backoff(lambda: 1.0, first_seconds=1, most_seconds=5)
    assert [backoff.next() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.next() == 1


def test_pauses_are_randomised_over_their_whole_length() -> None:
    assert Backoff(lambda: 0.25, first_seconds=8).next() == 2


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The informer's own pauses, which then take no time."""
    taken: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds:
            taken.append(seconds)
        await sleep(0)

    monkeypatch.setattr("podidentity.kube.informer.asyncio.sleep", note)
    return taken


async def run_until_watching(server: ScriptedServer, client: Client, recorder: Recorder[Pod]) -> None:
    task = asyncio.create_task(Informer(client, PODS, recorder, random=lambda: 1.0, clock=now).run())
    await server.watch()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_failing_lists_are_retried_at_growing_intervals(
    server: ScriptedServer, client: Client, recorder: Recorder[Pod], pauses: list[float]
) -> None:
    server.lists += [status(500, "InternalError")] * 3 + [page(version="7")]
    await run_until_watching(server, client, recorder)
    assert pauses == [1, 2, 4]


async def test_the_servers_retry_after_counts_if_it_is_longer(
    server: ScriptedServer, client: Client, recorder: Recorder[Pod], pauses: list[float]
) -> None:
    busy = Reply({"kind": "Status", "code": 429, "reason": "TooManyRequests"}, 429, {"Retry-After": "9"})
    mad = Reply({"kind": "Status", "code": 429, "reason": "TooManyRequests"}, 429, {"Retry-After": "99999"})
    server.lists += [busy, mad, page(version="7")]
    await run_until_watching(server, client, recorder)
    assert pauses == [9, 60]


async def test_a_server_that_ends_each_watch_immediately_gets_few_requests(
    server: ScriptedServer, client: Client, recorder: Recorder[Pod], pauses: list[float]
) -> None:
    server.lists.append(page(version="7"))
    server.watch_replies += [Reply(b""), Reply(b"")]
    await run_until_watching(server, client, recorder)
    assert pauses == [1, 2]


async def test_a_missing_permission_is_named_in_the_log(
    server: ScriptedServer,
    client: Client,
    recorder: Recorder[Pod],
    pauses: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.lists += [status(403, "Forbidden", 'User "nmi" cannot list resource "pods"'), page(version="7")]
    with caplog.at_level(logging.ERROR):
        await run_until_watching(server, client, recorder)
    (record,) = caplog.records
    assert record.getMessage() == "not allowed to list or watch; grant this permission in the ClusterRole"
    assert record.__dict__["resource"] == "pods"
    assert 'cannot list resource "pods"' in str(record.__dict__["error"])
