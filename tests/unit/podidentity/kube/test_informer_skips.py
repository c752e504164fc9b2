"""Objects and lines that an informer cannot read, or its handler not process, never stop it or keep a grant valid."""

import asyncio
import json
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from podidentity.kube import object_store, response_limits
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.decoding import SHALLOW_MAX
from podidentity.kube.informer import Informer
from podidentity.resources import IDENTITIES, PODS, Pod
from tests.support.depths import brackets
from tests.support.examples import examples
from tests.support.podidentity.kube.fixtures import Bench
from tests.support.podidentity.kube.recording import Recorder
from tests.support.podidentity.kube.scripted import Reply, ScriptedServer, page, pod
from tests.support.waiting import until

DEEP = b'"metadata": {"name": "deep"', b'"metadata": {"managedFields": %b, "name": "deep"' % (b"[" * 9999 + b"]" * 9999)
"""The API server keeps what managedFields say, to ten thousand levels."""


def line(kind: str, document: object) -> bytes:
    return json.dumps({"type": kind, "object": document}).encode() + b"\n"


def too_deep(name: str, version: str) -> bytes:
    """The JSON of a pod that is too deep, and too large to be flattened."""
    text = json.dumps(pod(name, version, spec={"x": 0})).encode()
    return text.replace(b'"x": 0', b'"x": [' + brackets(2 * SHALLOW_MAX) + b"]")


def bad(name: str, version: str) -> dict[str, Any]:
    return pod(name, version, spec={"nodeName": 5})


async def test_an_overlong_line_removes_its_object_and_the_watch_continues(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_limits, "LINE_MAX", 500)
    monkeypatch.setattr(response_limits, "PIECE", 100)
    watch = await bench.watching(pod("a", "1"), pod("b", "2"))
    long = line("MODIFIED", pod("a", "8", spec={"x": "x" * 2000}))
    watch.send_raw(line("MODIFIED", pod("b", "7")) + long[:700])
    watch.send_raw(long[700:] + line("MODIFIED", pod("b", "9")))
    await bench.received("+a 1", "+b 2", "+b 2->7", "-a 1", "+b 7->9")
    watch.send_raw(line("MODIFIED", pod("a", "10")))
    await bench.received("+a 1", "+b 2", "+b 2->7", "-a 1", "+b 7->9", "+a 10")
    assert (bench.informer.restarts, bench.informer.lists) == (0, 1)
    assert bench.client.skipped.counts == {("pods", "size"): 1}


async def test_a_watch_resumes_after_the_resource_version_of_an_overlong_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_limits, "LINE_MAX", 500)
    watch = await bench.watching(pod("a", "1"))
    watch.send_raw(line("ADDED", pod("b", "8", spec={"x": "x" * 2000})))
    watch.end()
    assert await bench.resumed() == "8"


@pytest.mark.parametrize(
    "text",
    [b"]" + b"x" * 2000 + b"\n", b'{"type":"MODIFIED","object":\xff}\n'],
    ids=["overlong and without a name", "malformed"],
)
async def test_a_line_that_names_no_object_causes_a_list(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr(response_limits, "LINE_MAX", 500)
    watch = await bench.watching(pod("a", "1"))
    bench.server.lists.append(page(pod("b", "8"), version="9"))
    watch.send_raw(text)
    await bench.received("+a 1", "-a 1", "+b 8")
    assert bench.informer.lists == 2


async def test_an_empty_line_is_ignored(bench: Bench) -> None:
    watch = await bench.watching()
    watch.send_raw(b"\n\n")
    watch.send("ADDED", pod("a", "8"))
    await bench.received("+a 8")


async def test_an_event_too_deep_and_too_large_removes_its_object_and_the_watch_continues(bench: Bench) -> None:
    watch = await bench.watching(pod("a", "1"))
    watch.send_raw(b'{"type":"MODIFIED","object":%b}\n' % too_deep("a", "8"))
    watch.send("MODIFIED", pod("a", "9"))
    await bench.received("+a 1", "-a 1", "+a 9")
    assert (bench.informer.restarts, bench.informer.lists) == (0, 1)
    assert bench.client.skipped.counts == {("pods", "depth"): 1}


async def test_a_deep_object_in_a_list_is_skipped_and_the_others_are_not(bench: Bench) -> None:
    items = b",".join([json.dumps(pod("a", "1")).encode(), too_deep("deep", "1"), json.dumps(pod("b", "2")).encode()])
    await bench.start(Reply(b'{"metadata":{"resourceVersion":"7"},"items":[%b]}' % items)).synced()
    assert bench.recorder.lines == ["+a 1", "+b 2"]
    assert bench.client.skipped.counts == {("pods", "depth"): 1}


async def test_an_object_nested_too_deeply_hides_neither_itself_nor_the_others(bench: Bench) -> None:
    body = json.dumps(page(pod("deep", "1"), pod("a", "2"), version="7").body).encode()
    bench.start(Reply(body.replace(*DEEP)))
    watch = await bench.server.watch()
    watch.send_raw(line("MODIFIED", pod("deep", "8")).replace(*DEEP))
    watch.send("MODIFIED", pod("a", "9"))
    await bench.received("+deep 1", "+a 2", "+deep 1->8", "+a 2->9")
    assert bench.informer.restarts == 0


async def test_an_unreadable_object_is_left_out_and_one_that_becomes_unreadable_counts_as_deleted(bench: Bench) -> None:
    watch = await bench.watching(bad("bad", "1"), pod("a", "1"))
    watch.send("MODIFIED", bad("a", "8"))
    watch.send("MODIFIED", pod("a", "9"))
    await bench.received("+a 1", "-a 1", "+a 9")
    watch.end()
    assert await bench.resumed() == "9"


async def test_a_response_that_is_not_a_list_is_requested_again(bench: Bench) -> None:
    others = [Reply(b"<html>a login page</html>"), Reply({"metadata": {}, "items": []})]
    running = bench.start(*others, page(pod("a", "1"), version="7"))
    await running.synced()
    assert bench.recorder.lines == ["+a 1"]
    assert running.restarts == 2


async def test_an_object_with_a_field_over_its_limit_counts_as_absent(server: ScriptedServer, client: Client) -> None:
    def identity(name: str, version: str, client_id: str) -> dict[str, object]:
        return {**pod(name, version), "spec": {"clientID": client_id}}

    recorder: Recorder[object] = Recorder()  # type: ignore[type-var]  # of identities
    server.lists.append(page(identity("a", "1", "c"), identity("b", "2", "c" * 1000), version="7"))
    task = asyncio.create_task(Informer(client, IDENTITIES, recorder).run())
    watch = await server.watch()
    watch.send("MODIFIED", identity("a", "8", "c" * 1000))
    watch.send("MODIFIED", identity("b", "9", "c"))
    await recorder.received("+a 1", "-a 1", "+b 9")
    assert client.skipped.counts == {("azureidentities", "limits"): 2}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Faulty(Recorder[Pod]):
    """A handler that raises for the names in `upserts` and `deletes`, after it has noted the call."""

    def __init__(self) -> None:
        super().__init__(versions=False)
        self.upserts: set[str] = set()
        self.deletes: set[str] = set()
        self.served: dict[str, Pod] = {}

    @override
    def upserted(self, old: Pod | None, new: Pod) -> None:
        super().upserted(old, new)
        if new.metadata.name in self.upserts:
            raise ValueError("a bug")
        self.served[new.metadata.name] = new

    @override
    def deleted(self, old: Pod) -> None:
        super().deleted(old)
        if old.metadata.name in self.deletes:
            raise TimeoutError("looks like a timeout")
        self.served.pop(old.metadata.name, None)


async def test_an_object_that_the_handler_cannot_process_is_removed(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Faulty()
    watch = await bench.watching(pod("a", "1"), pod("b", "2"), handler=handler)
    handler.upserts = {"a"}
    with caplog.at_level(logging.WARNING):
        watch.send("MODIFIED", pod("a", "8"))
        watch.send("MODIFIED", pod("b", "9"))
        await handler.received("+a", "+b", "~a", "-a", "~b")
        assert set(handler.served) == {"b"} == {name for _, name in bench.informer.store}
        handler.upserts = set()
        watch.send("MODIFIED", pod("a", "10"))
        await handler.received("+a", "+b", "~a", "-a", "~b", "+a")
    assert set(handler.served) == {"a", "b"}
    assert bench.informer.staleness_seconds() < 5
    assert bench.client.skipped.counts == {("pods", "handler"): 1}
    (record,) = caplog.records
    assert record.exc_info is not None


async def test_a_list_with_an_object_that_the_handler_rejects_is_complete(bench: Bench) -> None:
    handler = Faulty()
    handler.upserts = {"a"}
    running = bench.start(page(pod("a", "1"), pod("b", "2"), version="7"), handler=handler)
    await asyncio.wait_for(running.synced(), 5)
    assert handler.lines == ["+a", "-a", "+b"]


async def test_a_handler_that_cannot_remove_an_object_makes_the_watch_silent_until_it_can(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "DOUBT_SECONDS", 0.05)
    handler, doubts = Faulty(), list[None]()
    watch = await bench.watching(pod("a", "1"), pod("b", "2"), handler=handler, on_doubt=lambda: doubts.append(None))
    bench.server.lists += [page(pod("b", "9"), version="9") for _ in range(3)]
    running = bench.informer
    handler.deletes = {"a"}
    watch.send("DELETED", pod("a", "8"))
    watch.send("MODIFIED", pod("b", "9"))
    await handler.received("+a", "+b", "-a", "~b")
    assert running.staleness_seconds() == float("inf")
    assert len(doubts) == 1
    await bench.server.watch()  # everything has been listed again, and "a" could still not be forgotten
    assert running.staleness_seconds() == float("inf")
    handler.deletes = set()
    await bench.server.watch()
    assert running.staleness_seconds() < 5
    assert "a" not in handler.served
    assert len(doubts) == 1
    assert running.restarts == 0


async def test_a_namesake_is_not_added_before_the_former_object_is_removed(bench: Bench) -> None:
    handler = Faulty()
    watch = await bench.watching(pod("a", "1", uid="one"), handler=handler)
    handler.deletes = {"a"}
    watch.send("DELETED", pod("a", "8", uid="one"))
    watch.send("ADDED", pod("a", "9", uid="two"))
    await handler.received("+a", "-a", "-a")
    assert handler.served["a"].metadata.uid == "one"
    assert bench.informer.staleness_seconds() == float("inf")
    handler.deletes = set()
    watch.send("MODIFIED", pod("a", "10", uid="two"))
    await handler.received("+a", "-a", "-a", "-a", "+a")
    assert handler.served["a"].metadata.uid == "two"
    assert bench.informer.staleness_seconds() < 5


class Unreliable:
    """A handler whose calls may raise, before or after their effect; `served` is its state."""

    def __init__(self, faults: list[int]) -> None:
        self._faults = iter(faults)
        self._fault = 0
        self.served: dict[str, str] = {}

    def upserted(self, old: Pod | None, new: Pod) -> None:
        self._fail(1)
        self.served[new.metadata.name] = new.metadata.resource_version
        self._fail(2)

    def deleted(self, old: Pod) -> None:
        self._fail(1)
        self.served.pop(old.metadata.name, None)

    def _fail(self, when: int) -> None:
        self._fault = next(self._faults, 0) if when == 1 else self._fault
        if self._fault == when:
            raise RuntimeError("as drawn")


EVENTS = st.lists(
    st.tuples(st.sampled_from(["MODIFIED", "DELETED", "bad"]), st.sampled_from("ab"), st.sampled_from(["one", "two"])),
    max_size=12,
)


@given(events=EVENTS, faults=st.lists(st.integers(0, 2), max_size=16))
@example(events=[("MODIFIED", "a", "one"), ("DELETED", "a", "one")], faults=[0, 1])
@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_no_outdated_object_is_served_unless_the_watch_counts_as_silent(
    server: ScriptedServer, events: list[tuple[str, str, str]], faults: list[int]
) -> None:
    handler = Unreliable(faults)
    state: dict[str, str] = {}
    async with Client(
        ClusterAccess(server.url), user_agent="test/1", open_session=server.network.open_session
    ) as client:
        server.lists.append(page(version="1"))
        running = Informer(client, PODS, handler, random=lambda: 0.0)
        task = asyncio.create_task(running.run())
        watch = await server.watch()
        for version, (kind, name, uid) in enumerate(events, 2):
            if kind == "bad":
                watch.send("MODIFIED", pod(name, str(version), uid=uid, spec=5))
            else:
                watch.send(kind, pod(name, str(version), uid=uid))
            state.pop(name, None)
            if kind == "MODIFIED":
                state[name] = str(version)
        watch.bookmark("100")
        try:
            await until(lambda: running._resource_version == "100")
            assert not task.done()
            if running.staleness_seconds() != float("inf"):
                assert handler.served.items() <= state.items()
        finally:
            server.lists.clear()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
