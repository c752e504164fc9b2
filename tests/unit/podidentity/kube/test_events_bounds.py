"""Limits of the event recorder (memory, rate, length) and its reaction to refusals."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from podidentity.kube.client import Client
from podidentity.kube.events import BURST, MESSAGE_MAX, OBJECT_BURST, PENDING_MAX, EventRecorder
from podidentity.resources import PODS, Pod, PodMeta
from podidentity.telemetry.token_bucket import TokenBucket
from tests.support.podidentity.kube.scripted import Reply, ScriptedServer, status
from tests.support.virtual_time import now


def about(name: str) -> Pod:
    return Pod(metadata=PodMeta(name=name, namespace="ns", uid=f"uid-{name}"))


@pytest.fixture
async def recorder(client: Client) -> AsyncIterator[EventRecorder]:
    made = EventRecorder(client, "mic", "host", clock=now)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def flushed(recorder: EventRecorder) -> None:
    await asyncio.wait_for(recorder.flushed(), 60)


def test_an_event_beyond_the_limit_is_dropped_and_counted(client: Client) -> None:
    recorder = EventRecorder(client, "mic", "host", clock=lambda: 0.0)
    for number in range(PENDING_MAX + 5):
        recorder.record(about(f"p{number}"), PODS, "Normal", "Reason", "message")
    assert recorder.dropped == 5


def test_one_object_has_a_limited_number_of_distinct_events(client: Client) -> None:
    recorder = EventRecorder(client, "mic", "host", clock=lambda: 0.0)
    for number in range(int(OBJECT_BURST) + 3):
        recorder.record(about("p"), PODS, "Normal", "Reason", f"message {number}")
    assert recorder.dropped == 3
    recorder.record(about("q"), PODS, "Normal", "Reason", "message")
    assert recorder.dropped == 3


def test_normal_events_never_displace_warnings(client: Client) -> None:
    recorder = EventRecorder(client, "mic", "host", clock=lambda: 0.0)
    for number in range(PENDING_MAX):
        recorder.record(about(f"p{number}"), PODS, "Normal", "Reason", "message")
    for number in range(int(OBJECT_BURST)):
        recorder.record(about("busy"), PODS, "Normal", "Reason", f"message {number}")
    dropped = recorder.dropped
    recorder.record(about("busy"), PODS, "Warning", "Reason", "message")
    assert recorder.dropped == dropped
    recorder.record(about("busy"), PODS, "Normal", "Reason", "another message")
    assert recorder.dropped == dropped + 1


async def test_warnings_are_sent_first(server: ScriptedServer, client: Client) -> None:
    recorder = EventRecorder(client, "mic", "host", clock=now)
    for number in range(3):
        recorder.record(about(f"p{number}"), PODS, "Normal", "Reason", "message")
    recorder.record(about("late"), PODS, "Warning", "Reason", "message")
    server.others += [Reply({}, 201)] * 4
    task = asyncio.create_task(recorder.run())
    await flushed(recorder)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    names = [request.document["involvedObject"]["name"] for request in server.requests]
    assert names == ["late", "p0", "p1", "p2"]


async def test_repeats_before_sending_are_one_request(server: ScriptedServer, recorder: EventRecorder) -> None:
    server.others.append(Reply({}, 201))
    for _ in range(7):
        recorder.record(about("p"), PODS, "Warning", "Reason", "message")
    await flushed(recorder)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/api/v1/namespaces/ns/events")
    assert (request.document["count"], request.document["type"]) == (7, "Warning")


async def test_a_repeat_after_the_event_has_expired_is_a_new_event(
    server: ScriptedServer, recorder: EventRecorder
) -> None:
    server.others += [Reply({}, 201), status(404, "NotFound"), Reply({}, 201)]
    for _ in range(2):
        recorder.record(about("p"), PODS, "Normal", "Reason", "message")
        await flushed(recorder)
    assert [request.method for request in server.requests] == ["POST", "PATCH", "POST"]
    names = [request.document["metadata"]["name"] for request in server.requests if request.method == "POST"]
    assert len(set(names)) == 2


async def test_a_rejected_event_is_counted_and_the_next_one_is_sent(
    server: ScriptedServer, recorder: EventRecorder
) -> None:
    server.others += [status(403, "Forbidden"), Reply({}, 201)]
    recorder.record(about("p"), PODS, "Normal", "Reason", "message")
    recorder.record(about("q"), PODS, "Normal", "Reason", "message")
    await flushed(recorder)
    assert recorder.dropped == 1
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "reply",
    [status(404, "NotFound"), status(403, "Forbidden", "unable to create: forbidden because it is being terminated")],
    ids=["deleted", "terminating"],
)
async def test_an_event_in_a_deleted_namespace_is_not_reported_as_a_missing_permission(
    server: ScriptedServer, recorder: EventRecorder, caplog: pytest.LogCaptureFixture, reply: Reply
) -> None:
    server.others += [reply]
    recorder.record(about("p"), PODS, "Normal", "Reason", "message")
    await flushed(recorder)
    assert recorder.dropped == 1
    assert "grant create" not in caplog.text


async def test_a_long_message_is_truncated_to_the_servers_limit(
    server: ScriptedServer, recorder: EventRecorder
) -> None:
    server.others.append(Reply({}, 201))
    recorder.record(about("p"), PODS, "Normal", "Reason", "é" * MESSAGE_MAX)
    await flushed(recorder)
    message = server.requests[0].document["message"]
    assert MESSAGE_MAX - 4 <= len(message.encode()) <= MESSAGE_MAX
    assert message.endswith("…")


def test_a_bucket_holds_its_burst_and_fills_at_its_rate() -> None:
    clock = [0.0]
    bucket = TokenBucket(2.0, BURST, lambda: clock[0])
    assert [bucket.take() for _ in range(int(BURST) + 1)] == [True] * int(BURST) + [False]
    clock[0] = 0.5
    assert [bucket.take(), bucket.take()] == [True, False]
