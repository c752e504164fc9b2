"""Watches against the emulator's own switches: bookmarks, forgotten history, ends.

The events of a watch, with and without selectors, are compared with the real server in
test_equals_the_real_server, and too old revisions in tests/contract/test_informer_against_servers.py.
"""

import asyncio

import pytest

from podidentity_sandbox.kubeapi import KubeApi
from tests.sandbox.kubeapi.client import CONFIGMAPS, DEADLINE, PODS, Caller, pod
from tests.sandbox.kubeapi.conftest import CRDS, serving

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
        call.watch(PODS, resourceVersion=start, allowWatchBookmarks="true") as asked,
        call.watch(PODS, resourceVersion=start) as did_not_ask,
    ):
        make(api, "a")
        api.send_bookmarks()
        event = await asked.next()
        assert event["type"] == "BOOKMARK"
        assert event["object"]["kind"] == "Pod"
        assert event["object"]["metadata"]["resourceVersion"] == str(api.store.revision)
        api.store.create("pods", pod("p"), "default")
        assert await did_not_ask.receive(1) == [("ADDED", "p")]


async def test_a_quiet_watch_gets_a_bookmark_per_interval() -> None:
    async with (
        serving(bookmark_seconds=0.01) as (api, call),
        call.watch(PODS, resourceVersion=api.store.revision, allowWatchBookmarks="true") as watch,
    ):
        assert [(await watch.next())["type"] for _ in range(3)] == ["BOOKMARK"] * 3


async def test_a_watch_ends_after_its_timeout_with_a_final_bookmark() -> None:
    now = 1000.0
    async with serving(clock=lambda: now) as (api, call):
        revision = api.store.revision
        async with call.watch(PODS, resourceVersion=revision, timeoutSeconds=1, allowWatchBookmarks="true") as watch:
            assert (await watch.next())["type"] == "BOOKMARK"
            now += 1.0
            assert await watch.ends()


async def test_the_initial_events_end_with_a_marked_bookmark(api: KubeApi, call: Caller) -> None:
    make(api, "a")
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with call.watch(CONFIGMAPS, **MINE, **query) as watch:
        assert await watch.receive(1) == [("ADDED", "a")]
        event = await watch.next()
        assert event["type"] == "BOOKMARK"
        assert event["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_dropped_watches_see_the_end_of_the_stream_and_resume(api: KubeApi, call: Caller) -> None:
    async with call.watch(CONFIGMAPS, resourceVersion=api.store.revision, **MINE) as watch:
        make(api, "a")
        await watch.receive(1)
        revision = api.store.revision
        api.drop_watches()
        assert await watch.ends()
    make(api, "b")
    async with call.watch(CONFIGMAPS, resourceVersion=revision, **MINE) as watch:
        assert await watch.receive(1) == [("ADDED", "b")]


async def test_a_client_that_disconnects_ends_its_watch(api: KubeApi, call: Caller) -> None:
    async with call.watch(CONFIGMAPS, resourceVersion=api.store.revision):
        assert api.watch_count("configmaps") == 1
        assert api.watch_count("pods") == 0
    async with asyncio.timeout(DEADLINE):
        await api.until_watched(count=0)


@pytest.mark.parametrize("revision", ["x", "-1", "1.5", "¹"])
async def test_a_revision_that_is_not_a_number_is_rejected(call: Caller, revision: str) -> None:
    async with call.watch(CONFIGMAPS, resourceVersion=revision) as watch:
        assert watch.status == 500
