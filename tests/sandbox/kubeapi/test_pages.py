"""Lists in pages: consistent while the history contains the revision, and the errors afterwards."""

from podidentity_sandbox.kubeapi import KubeApi
from tests.sandbox.kubeapi.client import CONFIGMAPS, Caller


def fill(api: KubeApi, count: int) -> None:
    for number in range(count):
        api.store.create("configmaps", {"metadata": {"name": f"c{number:03}", "labels": {"mine": ""}}}, "default")


MINE = f"{CONFIGMAPS}?labelSelector=mine"


async def test_pages_show_one_revision_although_objects_change(api: KubeApi, call: Caller) -> None:
    fill(api, 5)
    first = await call("GET", f"{MINE}&limit=2")
    api.store.delete("configmaps", "c002", "default")
    api.store.create("configmaps", {"metadata": {"name": "c0035", "labels": {"mine": ""}}}, "default")
    api.store.patch("configmaps", "c004", {"data": {"later": "yes"}}, "default")
    second = await call("GET", f"{MINE}&limit=2&continue={first.body['metadata']['continue']}")
    third = await call("GET", f"{MINE}&limit=2&continue={second.body['metadata']['continue']}")
    assert [first.names, second.names, third.names] == [["c000", "c001"], ["c002", "c003"], ["c004"]]
    assert first.version == second.version == third.version
    assert "data" not in third.body["items"][0]
    assert "continue" not in third.body["metadata"]


async def test_after_compaction_a_token_gets_410_and_a_token_to_continue(api: KubeApi, call: Caller) -> None:
    fill(api, 3)
    first = await call("GET", f"{MINE}&limit=1")
    api.store.delete("configmaps", "c001", "default")
    api.compact()
    gone = await call("GET", f"{MINE}&limit=1&continue={first.body['metadata']['continue']}")
    assert (gone.status, gone.body["reason"], gone.body["code"]) == (410, "Expired", 410)
    rest = await call("GET", f"{MINE}&continue={gone.body['metadata']['continue']}")
    assert rest.names == ["c002"]


async def test_the_remaining_count_is_returned_without_selectors(api: KubeApi, call: Caller) -> None:
    fill(api, 5)
    everything = await call("GET", f"{CONFIGMAPS}?limit=2")
    selected = await call("GET", f"{MINE}&limit=2")
    assert everything.body["metadata"]["remainingItemCount"] == 4
    assert "remainingItemCount" not in selected.body["metadata"]


async def test_an_exact_revision_is_listed(api: KubeApi, call: Caller) -> None:
    fill(api, 2)
    before = (await call("GET", MINE)).version
    api.store.delete("configmaps", "c000", "default")
    exact = await call("GET", f"{MINE}&resourceVersion={before}&resourceVersionMatch=Exact")
    assert exact.names == ["c000", "c001"]
    assert (await call("GET", MINE)).names == ["c001"]


async def test_a_future_revision_is_a_timeout_with_retry_after(call: Caller) -> None:
    answer = await call("GET", f"{MINE}&resourceVersion=999999")
    assert (answer.status, answer.body["reason"], answer.body["details"]["retryAfterSeconds"]) == (504, "Timeout", 1)
    assert answer.headers["Retry-After"] == "1"
