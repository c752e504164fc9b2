"""Leadership and time: calls that do not return, clocks of other machines. Records of both lock formats.

The formats are the Lease's spec, and the annotation in client-go's format. Excluded: real servers.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from podidentity.kube.client import Client
from podidentity.kube.errors import LeadershipLost
from podidentity.kube.lease import Elector
from podidentity.kube.lock_records import LEADER_ANNOTATION, UNREADABLE, AnnotationFormat, LeaseFormat, LockRecord
from podidentity.kube.locks import READ_SECONDS
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
    assert READ_SECONDS * 1.2 < 2.0, "the longest pause"


async def test_a_deleted_lease_ends_the_leadership(server: ScriptedServer, start: Start) -> None:
    gone = status(404, "NotFound")
    server.others += [gone, lease("me", "t"), gone, gone]
    _, task = start(8.0)
    await lost(task, "the object was deleted")


@pytest.mark.parametrize(
    "broken",
    [{}, {"metadata": None}, {"metadata": []}, {"metadata": {"annotations": 1}}, {"metadata": {}, "spec": [1]}, []],
)
async def test_a_lease_with_an_invalid_form_is_an_error_of_this_attempt_only(
    server: ScriptedServer, start: Start, broken: Any
) -> None:
    server.others += [Reply(broken), lease("", "t"), lease("me", "u", "2")]
    running, task = start(8.0)
    await asyncio.wait_for(running.acquired(), 15)
    assert not task.done()
    assert [request.method for request in server.requests[:3]] == ["GET", "GET", "PUT"]


@pytest.mark.parametrize("stamp", ["1970-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"])
async def test_the_holders_clock_is_not_used(server: ScriptedServer, start: Start, stamp: str) -> None:
    clock = [1000.0]
    # The response to each request, also to those that reach their time limit on a busy machine.
    server.others += [lease("other", stamp)] * 1000
    running, _ = start(0.8, clock=lambda: clock[0])
    await until(lambda: len(server.requests) >= 2 and running._locks[0].holder == "other")
    assert {request.method for request in server.requests} == {"GET"}
    clock[0] += 1.0  # the duration that the holder wrote, by our own clock
    await asyncio.wait_for(running.acquired(), 15)
    spec = next(request.document["spec"] for request in server.requests if request.method == "PUT")
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("me", 5)


async def test_a_release_without_the_lease_sends_no_request(server: ScriptedServer, client: Client) -> None:
    await Elector(client, namespace="ns", name="mic", identity="me", duration_seconds=1).release()
    assert not server.requests


@pytest.mark.parametrize("reply", [Reply(b"<html>"), Reply(b"[]"), status(503, "ServiceUnavailable")])
async def test_an_unreadable_lease_is_read_again(server: ScriptedServer, start: Start, reply: Reply) -> None:
    server.others += [reply, *[lease("", "t")] * 100]  # a request may reach its time limit on a busy machine
    running, _ = start(2.0)
    await asyncio.wait_for(running.acquired(), 15)


NOW = datetime(2024, 5, 6, 7, 8, 9, 120_000, tzinfo=UTC)
WRITTEN_BY_CLIENT_GO = (
    '{"holderIdentity":"mic-76d_7f","leaseDurationSeconds":15,"acquireTime":"2024-05-01T00:00:00Z",'
    '"renewTime":"2024-05-06T07:00:00Z","leaderTransitions":3}'
)


def endpoints(annotation: str | None) -> dict[str, object]:
    annotations = {"other": "kept"} | ({} if annotation is None else {LEADER_ANNOTATION: annotation})
    return {"metadata": {"name": "mic", "resourceVersion": "7", "annotations": annotations}, "subsets": [1]}


def test_client_gos_record_is_read() -> None:
    record = AnnotationFormat().read(endpoints(WRITTEN_BY_CLIENT_GO))
    assert (record.holder, record.duration_seconds, record.renewed) == ("mic-76d_7f", 15, "2024-05-06T07:00:00Z")


@pytest.mark.parametrize(
    "document",
    [
        endpoints(None),
        endpoints(""),
        {"metadata": {"name": "mic"}},
        {"metadata": {"name": "mic", "annotations": None}},
        endpoints('{"holderIdentity":"","leaseDurationSeconds":1,"acquireTime":null,"renewTime":null}'),
    ],
)
def test_an_object_without_a_holder_is_free(document: dict[str, object]) -> None:
    assert AnnotationFormat().read(document).holder == ""


@pytest.mark.parametrize("text", ["{", "[]", "null", '"holder"', "\ud800", "[" * 60_000, '{"a":' * 60_000])
def test_an_unreadable_record_counts_as_held(text: str) -> None:
    assert AnnotationFormat().read(endpoints(text)) == LockRecord(UNREADABLE)


@pytest.mark.parametrize(
    "field",
    [
        '"leaseDurationSeconds":' + "9" * 400,
        '"leaseDurationSeconds":9999999999',
        '"leaderTransitions":' + "9" * 400,
        '"leaderTransitions":-1',
        '"renewTime":' + "[" * 900 + "]" * 900,
        '"renewTime":"' + "x" * 10_000 + '"',
        '"other":' + '{"a":' * 900 + "1" + "}" * 900,
    ],
    ids=lambda field: field[:24],
)
def test_unexpected_values_in_a_record_do_not_prevent_reading_or_acquiring_it(field: str) -> None:
    form, before = AnnotationFormat(), endpoints('{"holderIdentity":"other",' + field + "}")
    record = form.read(before)
    assert record.holder == "other"
    assert record.duration_seconds is None
    taken = form.read(form.written(before, record, "mic", 15, NOW, acquire=True))
    assert (taken.holder, taken.duration_seconds) == ("mic", 15)
    assert json.loads(json.dumps(taken.fields))["leaderTransitions"] == 1


def test_a_renewal_keeps_all_other_fields_of_the_object() -> None:
    form, before = AnnotationFormat(), endpoints(WRITTEN_BY_CLIENT_GO.replace('"holder', '"strategy":"x","holder'))
    after = form.written(before, form.read(before), "mic-76d_7f", 15, NOW, acquire=False)
    assert after["subsets"] == [1]
    assert after["metadata"]["resourceVersion"] == "7"
    assert after["metadata"]["annotations"]["other"] == "kept"
    record = json.loads(after["metadata"]["annotations"][LEADER_ANNOTATION])
    assert record == {
        "strategy": "x",
        "holderIdentity": "mic-76d_7f",
        "leaseDurationSeconds": 15,
        "acquireTime": "2024-05-01T00:00:00Z",
        "renewTime": "2024-05-06T07:08:09.120000Z",
        "leaderTransitions": 3,
    }


@pytest.mark.parametrize(
    ("annotation", "transitions"), [(WRITTEN_BY_CLIENT_GO, 4), (None, 0), ("{", 0), ('{"leaderTransitions":"x"}', 1)]
)
def test_a_change_of_the_holder_is_counted(annotation: str | None, transitions: int) -> None:
    form, before = AnnotationFormat(), endpoints(annotation)
    after = form.written(before, form.read(before), "ours", 15, NOW, acquire=True)
    record = json.loads(after["metadata"]["annotations"][LEADER_ANNOTATION])
    assert (record["leaderTransitions"], record["acquireTime"]) == (transitions, "2024-05-06T07:08:09.120000Z")


def test_a_lease_stores_its_record_in_its_spec() -> None:
    form = LeaseFormat()
    fresh = form.written({"metadata": {"name": "mic"}}, LockRecord(), "ours", 15, NOW, acquire=True)
    assert fresh["spec"]["leaseTransitions"] == 0
    assert form.read(fresh).holder == "ours"
    assert form.read({"metadata": {}, "spec": {"leaseDurationSeconds": -1}}).duration_seconds is None
