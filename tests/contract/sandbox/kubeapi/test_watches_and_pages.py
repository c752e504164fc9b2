"""Lists in pages, and watches against the emulator's own switches: bookmarks, forgotten history, ends.

The events of a watch, with and without selectors, are compared with the real server in
test_equals_the_real_server, and too old revisions in tests/contract/kube/test_informer_against_servers.py."""

import asyncio

import pytest

from podidentity_sandbox.cluster import CRDS
from podidentity_sandbox.kubeapi import KubeApi
from tests.support.sandbox.kubeapi.client import CONFIGMAPS, PODS, Caller, pod
from tests.support.sandbox.kubeapi.fixtures import serving
from tests.support.waiting import LIMIT_SECONDS

MINE = {"labelSelector": "mine"}


def make(api: KubeApi, *names: str) -> None:
    for name in names:
        api.store.create("configmaps", {"metadata": {"name": name, "labels": {"mine": ""}}}, "default")


async def test_without_a_revision_a_watch_starts_with_the_current_objects(api: KubeApi, call: Caller) -> None:
    make(api, "b", "a")
    async with call.watch(CONFIGMAPS, **MINE) as watch:
        assert await watch.receive(2) == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_watch_of_a_future_revision_waits_for_it(api: KubeApi, call: Caller) -> None:
    async with call.watch(CONFIGMAPS, resourceVersion=api.store.revision + 1, **MINE) as watch:
        make(api, "a", "b")
        assert await watch.receive(1) == [("ADDED", "b")]


async def test_a_full_event_log_drops_the_oldest() -> None:
    async with serving(CRDS, keep=2) as (api, call):
        revision = api.store.revision
        make(api, "a", "b", "c")
        async with call.watch(CONFIGMAPS, resourceVersion=revision, **MINE) as watch:
            assert (await watch.next())["type"] == "ERROR"
        async with call.watch(CONFIGMAPS, resourceVersion=revision + 1, **MINE) as watch:
            assert await watch.receive(2) == [("ADDED", "b"), ("ADDED", "c")]


async def test_requested_bookmarks_contain_the_current_revision(api: KubeApi, call: Caller) -> None:
    start = api.store.revision
    async with (
        call.watch(PODS, resourceVersion=start, allowWatchBookmarks="true") as with_bookmarks,
        call.watch(PODS, resourceVersion=start) as did_not_ask,
    ):
        make(api, "a")
        api.send_bookmarks()
        event = await with_bookmarks.next()
        assert event["type"] == "BOOKMARK"
        assert event["object"]["kind"] == "Pod"
        assert event["object"]["metadata"]["resourceVersion"] == str(api.store.revision)
        api.store.create("pods", pod("p"), "default")
        assert await did_not_ask.receive(1) == [("ADDED", "p")]


async def test_the_initial_events_end_with_a_marked_bookmark(api: KubeApi, call: Caller) -> None:
    make(api, "a")
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with call.watch(CONFIGMAPS, **MINE, **query) as watch:
        assert await watch.receive(1) == [("ADDED", "a")]
        event = await watch.next()
        assert event["type"] == "BOOKMARK"
        assert event["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_client_that_disconnects_ends_its_watch(api: KubeApi, call: Caller) -> None:
    async with call.watch(CONFIGMAPS, resourceVersion=api.store.revision):
        assert api.watch_count("configmaps") == 1
        assert api.watch_count("pods") == 0
    async with asyncio.timeout(LIMIT_SECONDS):
        await api.until_watched(count=0)


@pytest.mark.parametrize("revision", ["x", "-1", "1.5", "¹"])
async def test_a_revision_that_is_not_a_number_is_rejected(call: Caller, revision: str) -> None:
    async with call.watch(CONFIGMAPS, resourceVersion=revision) as watch:
        assert watch.status == 500


def fill(api: KubeApi, count: int) -> None:
    for number in range(count):
        api.store.create("configmaps", {"metadata": {"name": f"c{number:03}", "labels": {"mine": ""}}}, "default")


LISTED = f"{CONFIGMAPS}?labelSelector=mine"


async def test_pages_show_one_revision_although_objects_change(api: KubeApi, call: Caller) -> None:
    fill(api, 5)
    first = await call("GET", f"{LISTED}&limit=2")
    api.store.delete("configmaps", "c002", "default")
    api.store.create("configmaps", {"metadata": {"name": "c0035", "labels": {"mine": ""}}}, "default")
    api.store.patch("configmaps", "c004", {"data": {"later": "yes"}}, "default")
    second = await call("GET", f"{LISTED}&limit=2&continue={first.body['metadata']['continue']}")
    third = await call("GET", f"{LISTED}&limit=2&continue={second.body['metadata']['continue']}")
    assert [first.names, second.names, third.names] == [["c000", "c001"], ["c002", "c003"], ["c004"]]
    assert first.version == second.version == third.version
    assert "data" not in third.body["items"][0]
    assert "continue" not in third.body["metadata"]


async def test_after_compaction_a_token_gets_410_and_a_token_to_continue(api: KubeApi, call: Caller) -> None:
    fill(api, 3)
    first = await call("GET", f"{LISTED}&limit=1")
    api.store.delete("configmaps", "c001", "default")
    api.compact()
    gone = await call("GET", f"{LISTED}&limit=1&continue={first.body['metadata']['continue']}")
    assert (gone.status, gone.body["reason"], gone.body["code"]) == (410, "Expired", 410)
    rest = await call("GET", f"{LISTED}&continue={gone.body['metadata']['continue']}")
    assert rest.names == ["c002"]


async def test_the_remaining_count_is_returned_without_selectors(api: KubeApi, call: Caller) -> None:
    fill(api, 5)
    everything = await call("GET", f"{CONFIGMAPS}?limit=2")
    selected = await call("GET", f"{LISTED}&limit=2")
    assert everything.body["metadata"]["remainingItemCount"] == 4
    assert "remainingItemCount" not in selected.body["metadata"]


async def test_an_exact_revision_is_listed(api: KubeApi, call: Caller) -> None:
    fill(api, 2)
    before = (await call("GET", LISTED)).version
    api.store.delete("configmaps", "c000", "default")
    exact = await call("GET", f"{LISTED}&resourceVersion={before}&resourceVersionMatch=Exact")
    assert exact.names == ["c000", "c001"]
    assert (await call("GET", LISTED)).names == ["c001"]


async def test_a_future_revision_is_a_timeout_with_retry_after(call: Caller) -> None:
    response = await call("GET", f"{LISTED}&resourceVersion=999999")
    assert (response.status, response.body["reason"], response.body["details"]["retryAfterSeconds"]) == (
        504,
        "Timeout",
        1,
    )
    assert response.headers["Retry-After"] == "1"
