"""An informer lists, watches and resumes; the handler receives the differences, or none while it holds its objects.

Excluded: what it cannot read.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from typing_extensions import override

from podidentity.kube import informer as module
from podidentity.kube.backoff import Backoff
from podidentity.kube.decoding import decode_object
from podidentity.kube.object_store import ObjectStore
from podidentity.resources import PODS, BareMeta, Kind, Pod, PodMeta
from tests.support.podidentity.kube.fixtures import Bench
from tests.support.podidentity.kube.recording import Recorder
from tests.support.podidentity.kube.scripted import Reply, page, pod, status
from tests.support.waiting import until

EXPIRED = status(410, "Expired", "too old resource version: 7 (99)")


async def test_the_list_is_read_page_by_page(bench: Bench) -> None:
    pages = [page(pod("a", "1"), version="7", token="t1"), page(pod("b", "2"), version="7")]
    running = bench.start(*pages, page_size=1, field_selector="spec.nodeName=n", label_selector="x=y")
    await running.synced()
    assert bench.recorder.lines == ["+a 1", "+b 2"]
    assert set(running.store) == {("ns", "a"), ("ns", "b")}
    first, second = bench.server.requests[:2]
    assert first.params == {"limit": "1", "fieldSelector": "spec.nodeName=n", "labelSelector": "x=y"}
    assert second.params == {**first.params, "continue": "t1"}


async def test_the_watch_starts_where_the_list_ended_in_the_same_namespace(bench: Bench) -> None:
    watch = await bench.watching(field_selector="spec.nodeName=n", namespace="kube-system")
    assert watch.request.params == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": "7",
        "timeoutSeconds": "240",
        "fieldSelector": "spec.nodeName=n",
    }
    assert {request.path for request in bench.server.requests} == {"/api/v1/namespaces/kube-system/pods"}


async def test_an_empty_list_of_null_items_is_synced(bench: Bench) -> None:
    running = bench.start(Reply({"metadata": {"resourceVersion": "3"}, "items": None}))
    await running.synced()
    assert not running.store


async def test_a_watch_resumes_after_the_servers_regular_end(bench: Bench) -> None:
    watch = await bench.watching(pod("a", "1"))
    watch.send("MODIFIED", pod("a", "9"))
    watch.end()
    again = await bench.server.watch()
    assert again.request.params["resourceVersion"] == "9"
    again.send("DELETED", pod("a", "10"))
    await bench.received("+a 1", "+a 1->9", "-a 9")
    assert (bench.informer.restarts, bench.informer.lists) == (0, 1)


async def test_a_watch_resumes_after_a_broken_connection(bench: Bench) -> None:
    watch = await bench.watching()
    watch.send("ADDED", pod("a", "8"))
    watch.break_off()
    assert await bench.resumed() == "8"
    assert (bench.informer.restarts, bench.informer.lists) == (1, 1)


async def test_a_bookmark_moves_the_resource_version_to_resume_from(bench: Bench) -> None:
    watch = await bench.watching()
    watch.bookmark("50")
    watch.end()
    assert await bench.resumed() == "50"
    assert bench.recorder.lines == []


@pytest.mark.parametrize(
    "refusal",
    [status(500, "InternalError"), status(429, "TooManyRequests"), status(403, "Forbidden"), Reply(b"<html>", 503)],
    ids=["500", "429", "403", "a proxy's page"],
)
async def test_a_watch_resumes_after_a_rejected_watch(bench: Bench, refusal: Reply) -> None:
    bench.server.watch_replies.append(refusal)
    watch = await bench.watching()
    assert watch.request.params["resourceVersion"] == "7"
    assert (bench.informer.restarts, bench.informer.lists) == (1, 1)


async def test_a_line_split_into_two_parts_is_one_event(bench: Bench) -> None:
    watch = await bench.watching()
    line = b'{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"8"}}}\n'
    watch.send_raw(line[:20])
    watch.send_raw(line[20:] + line.replace(b'"a"', b'"b"'))
    await bench.received("+a 8", "+b 8")


async def test_a_half_open_watch_is_replaced_at_its_resource_version(bench: Bench) -> None:
    await bench.watching(silence_seconds=0.05)
    assert await bench.resumed() == "7"
    assert bench.informer.restarts >= 1
    assert bench.informer.lists == 1


async def test_staleness_is_the_age_of_the_last_received_data(bench: Bench) -> None:
    clock = [100.0]
    running = bench.start(page(version="7"), clock=lambda: clock[0])
    assert running.staleness_seconds() == math.inf
    watch = await bench.server.watch()
    clock[0] = 160.0
    assert running.staleness_seconds() == 60.0
    watch.send("ADDED", pod("a", "8"))
    await bench.received("+a 8")
    assert running.staleness_seconds() == 0.0


@pytest.mark.parametrize("form", ["an HTTP status", "an error event"])
async def test_a_gone_history_causes_a_list_of_which_only_changed_objects_are_decoded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    read: list[str] = []

    def reading(kind: Kind[Pod], raw: msgspec.Raw, **options: Any) -> Pod:
        made = decode_object(kind, raw, **options)
        read.append(f"{made.metadata.name} {made.metadata.resource_version}")
        return made

    monkeypatch.setattr(module, "decode_object", reading)
    bench.start(
        page(pod("same", "1"), pod("changed", "2"), pod("gone", "3"), version="7"),
        page(pod("same", "1"), pod("changed", "20"), pod("fresh", "21"), version="99"),
    )
    if form == "an HTTP status":
        bench.server.watch_replies.append(EXPIRED)
    else:
        assert isinstance(EXPIRED.body, dict)
        (await bench.server.watch()).send("ERROR", EXPIRED.body)
    await bench.received("+same 1", "+changed 2", "+gone 3", "-gone 3", "+changed 2->20", "+fresh 21")
    assert await bench.resumed() == "99"
    assert bench.informer.lists == 2
    assert read == ["changed 20", "fresh 21"]


@pytest.mark.parametrize("version", ["1", "8"], ids=["same-version", "later-version"])
async def test_a_recreated_namesake_is_reported_as_deleted_and_then_added(bench: Bench, version: str) -> None:
    bench.server.watch_replies.append(EXPIRED)
    lists = [page(pod("a", "1", uid="one"), version="7"), page(pod("a", version, uid="two"), version="9")]
    running = bench.start(*lists)
    await bench.received("+a 1", "-a 1", f"+a {version}")
    assert running.store["ns", "a"].metadata.uid == "two"


async def test_a_repeated_error_event_at_the_same_resource_version_causes_another_list(bench: Bench) -> None:
    trouble = {"kind": "Status", "code": 500, "reason": "InternalError", "message": "PrevKv=nil"}
    (await bench.watching()).send("ERROR", trouble)
    bench.server.lists.append(page(version="9"))
    again = await bench.server.watch()
    assert (again.request.params["resourceVersion"], bench.informer.lists) == ("7", 1)
    again.bookmark("8")
    again.send("ERROR", trouble)
    at_eight = await bench.server.watch()
    assert (at_eight.request.params["resourceVersion"], bench.informer.lists) == ("8", 1)
    at_eight.send("ERROR", trouble)
    assert await bench.resumed() == "9"
    assert bench.informer.lists == 2


async def test_an_expired_continue_token_restarts_the_list(bench: Bench) -> None:
    lists = [
        page(pod("old", "1"), version="7", token="t1"),
        status(410, "Expired", metadata={"continue": "the server's inconsistent offer"}),
        page(pod("a", "8"), version="9", token="t2"),
        page(pod("b", "9"), version="9"),
    ]
    await bench.start(*lists, page_size=1).synced()
    assert bench.recorder.lines == ["+a 8", "+b 9"]
    assert [request.params.get("continue") for request in bench.server.requests[:4]] == [None, "t1", None, "t2"]


async def test_a_second_expired_continue_token_causes_a_list_in_one_piece(bench: Bench) -> None:
    first = page(pod("a", "1"), version="7", token="t1")
    lists = [first, EXPIRED, first, EXPIRED, page(pod("b", "9"), version="9")]
    running = bench.start(*lists, page_size=1)
    await running.synced()
    assert set(running.store) == {("ns", "b")}
    assert [request.params.get("limit") for request in bench.server.requests[:5]] == ["1", "1", "1", "1", None]


async def test_an_already_known_event_is_not_reported(bench: Bench) -> None:
    watch = await bench.watching(pod("a", "1"))
    watch.send("ADDED", pod("a", "1"))
    watch.send("DELETED", pod("never-seen", "8"))
    watch.send("ADDED", pod("b", "9"))
    await bench.received("+a 1", "+b 9")


async def test_the_store_has_changed_before_the_handler_is_called(bench: Bench) -> None:
    seen: list[bool] = []
    done = asyncio.Event()

    class Looking:
        def upserted(self, old: Pod | None, new: Pod) -> None:
            seen.append(bench.informer.store[new.key] is new)

        def deleted(self, old: Pod) -> None:
            seen.append(old.key not in bench.informer.store)
            done.set()

    watch = await bench.watching(pod("a", "1"), handler=Looking())
    watch.send("DELETED", pod("a", "8"))
    await asyncio.wait_for(done.wait(), 60)
    assert seen == [True, True]


async def test_a_cancelled_informer_releases_its_connection(bench: Bench) -> None:
    await bench.watching()
    bench.tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await bench.tasks[0]
    bench.server.lists.append(page(pod("a", "1"), version="8"))
    assert [entry.metadata.name for entry in await bench.client.list(PODS)] == ["a"]


def test_pauses_double_up_to_the_maximum_and_are_reset() -> None:
    backoff = Backoff(lambda: 1.0, first_seconds=1, most_seconds=5)
    assert [backoff.next() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.next() == 1
    assert Backoff(lambda: 0.25, first_seconds=8).next() == 2, "randomised over the whole length"


BUSY = {"kind": "Status", "code": 429, "reason": "TooManyRequests"}
PAUSES: dict[str, tuple[list[Reply], list[Reply], list[float]]] = {
    "failing lists": ([status(500, "InternalError")] * 3, [], [1, 2, 4]),
    "a longer Retry-After": ([Reply(BUSY, 429, {"Retry-After": "9"})], [], [9]),
    "an absurd Retry-After": ([Reply(BUSY, 429, {"Retry-After": "99999"})], [], [60]),
    "watches that end immediately": ([], [Reply(b""), Reply(b"")], [1, 2]),
    "a missing permission": ([status(403, "Forbidden", 'User "nmi" cannot list resource "pods"')], [], [1]),
}


@pytest.mark.parametrize("case", PAUSES)
async def test_failures_are_retried_at_growing_intervals(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    lists, watches, expected = PAUSES[case]
    taken: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds:
            taken.append(seconds)
        await sleep(0)

    monkeypatch.setattr("podidentity.kube.informer.asyncio.sleep", note)
    bench.server.watch_replies += watches
    bench.start(*lists, page(version="7"), random=lambda: 1.0)
    await bench.server.watch()
    assert taken == expected
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    if case == "a missing permission":
        (record,) = errors
        assert record.getMessage() == "not allowed to list or watch; grant this permission in the ClusterRole"
        assert record.__dict__["resource"] == "pods"
        assert 'cannot list resource "pods"' in str(record.__dict__["error"])
    else:
        assert errors == []


def stored(name: str, version: str, uid: str = "") -> Pod:
    return Pod(metadata=PodMeta(name=name, uid=uid or f"uid-{name}", resource_version=version))


def holding(recorder: Recorder[Pod], skip: Callable[[BareMeta, Exception], None] | None = None) -> ObjectStore[Pod]:
    return ObjectStore(
        recorder,
        keep=lambda each: each,
        skip=skip or (lambda _meta, _error: None),
        on_doubt=lambda: None,
        clock=lambda: 0.0,
        random=lambda: 0.0,
        hold=True,
    )


async def test_the_handler_receives_the_list_and_later_events_after_the_release(bench: Bench) -> None:
    watch = await bench.watching(pod("a", "1"), pod("b", "2"), hold=True)
    watch.send("MODIFIED", pod("a", "8"))
    watch.send("DELETED", pod("b", "9"))
    await until(lambda: len(bench.informer.store) <= 1)
    assert bench.recorder.lines == []
    await bench.informer.release()
    assert bench.recorder.lines == ["+a 8"]
    watch.send("MODIFIED", pod("a", "10"))
    await bench.received("+a 8", "+a 8->10")


def test_changes_during_the_release_reach_the_handler_once(recorder: Recorder[Pod]) -> None:
    store = holding(recorder)
    for name in ("a", "b", "c", "d"):
        store.put(stored(name, "1"))
    release = store.release()
    next(release)
    (first,) = recorder.lines
    released = first[1]
    waiting = [name for name in ("a", "b", "c", "d") if name != released]
    store.put(stored(released, "2"))
    store.put(stored(waiting[0], "2"))
    store.remove(("", waiting[1]))
    store.put(stored("e", "2"))
    assert recorder.lines[1:] == [f"+{released} 1->2", "+e 2"]
    for _ in release:
        pass
    assert sorted(recorder.lines[3:]) == sorted([f"+{waiting[0]} 2", f"+{waiting[2]} 1"])
    assert {key[1] for key in store.view} == {released, waiting[0], waiting[2], "e"}


def test_another_object_of_the_same_name_replaces_a_held_one_silently(recorder: Recorder[Pod]) -> None:
    store = holding(recorder)
    store.put(stored("a", "1", uid="first"))
    store.put(stored("b", "1"))
    release = store.release()
    next(release)
    held = "a" if recorder.lines == ["+b 1"] else "b"
    store.put(stored(held, "2", uid="second"))
    list(release)
    assert sorted(line for line in recorder.lines if held in line) == [f"+{held} 2"]
    assert not any(line.startswith("-") for line in recorder.lines)


class Refusing(Recorder[Pod]):
    """Fails for one pod."""

    @override
    def upserted(self, old: Pod | None, new: Pod) -> None:
        if new.metadata.name == "bad":
            raise ValueError
        super().upserted(old, new)


def test_a_released_object_that_the_handler_refuses_is_skipped() -> None:
    skipped: list[str] = []
    recorder = Refusing()
    store = holding(recorder, lambda meta, _error: skipped.append(meta.name))
    for name in ("good", "bad", "fine"):
        store.put(stored(name, "1"))
    list(store.release())
    assert skipped == ["bad"]
    assert sorted(key[1] for key in store.view) == ["fine", "good"]
    assert sorted(recorder.lines) == ["+fine 1", "+good 1", "-bad 1"]
